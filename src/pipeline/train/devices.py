"""Which device a job computes on: one slot of one GPU, held by a lock until the job ends, or the CPU.

Snakemake only counts GPUs. Here a job takes a slot by `fcntl.lockf` on a file in a per-machine folder, so that two
jobs never share a slot and a dead job's slot is free at once. Slots are the visible devices times `runs_per_gpu`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def visible_gpus() -> list[str]:
    """Ids of the NVIDIA devices this process may use, without importing torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [part.strip() for part in chosen.split(",") if part.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=60)
    return [
        str(number) for number, _ in enumerate(line for line in listed.stdout.splitlines() if line.startswith("GPU"))
    ]


def slot_folder() -> Path:
    """The per-machine, per-user folder of slot files."""
    return Path(os.environ.get("PIPELINE_SLOTS", Path(tempfile.gettempdir()) / f"pipeline-gpu-slots-{os.getuid()}"))


@contextmanager
def device_slot(log: Callable[[str], None], runs_per_gpu: int = 1, poll_s: float = 2.0) -> Iterator[str | None]:
    """Yield the id of a GPU that is this job's until the block ends, or None on a machine without one.

    While every slot is taken it waits, having said so in one line. CUDA_VISIBLE_DEVICES is set to the device; enter
    before CUDA is initialised.
    """
    gpus = visible_gpus()
    if not gpus:
        yield None
        return
    folder = slot_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = [(gpu, folder / f"{gpu.replace('/', '_')}-{number}") for number in range(runs_per_gpu) for gpu in gpus]
    held = _first_free(names)
    if held is None:
        log(
            f"all {len(names)} device slots are taken ({len(gpus)} visible GPU{'s' * (len(gpus) > 1)} x "
            f"{runs_per_gpu}): waiting; ask snakemake for `--resources gpu={len(names)}` at most"
        )
    while held is None:
        time.sleep(poll_s)
        held = _first_free(names)
    gpu, handle = held
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    try:
        yield gpu
    finally:
        handle.close()
        if before is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _first_free(names: list[tuple[str, Path]]) -> tuple[str, IO[str]] | None:
    for gpu, path in names:
        handle = open(path, "a+")  # noqa: SIM115 - the open file is the lock
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.close()
            continue
        return gpu, handle
    return None
