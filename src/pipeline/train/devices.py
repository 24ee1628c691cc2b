"""Which devices a job computes on: a slot of each of its GPUs, held by a lock until the job ends, or the CPU.

Snakemake only counts GPUs. Here a job takes its slots by `fcntl.lockf` on a file in a per-machine folder, so that two
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

from pipeline.errors import RunError


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
def device_slot(
    log: Callable[[str], None], runs_per_gpu: int = 1, poll_s: float = 2.0, devices: int = 1
) -> Iterator[str | None]:
    """Yield the GPU that is this job's until the block ends, or None on a machine without one.

    Of several `devices` the ids are joined by commas. While too few slots are free it waits, having said so in one
    line. CUDA_VISIBLE_DEVICES is set to the devices; enter before CUDA is initialised.

    Raises:
        RunError: for more devices than there are.
    """
    gpus = visible_gpus()
    if not gpus:
        yield None
        return
    if devices > len(gpus):
        raise RunError(
            f"the run asks for devices: {devices}, and {len(gpus)} GPU{'s are' if len(gpus) > 1 else ' is'} visible; "
            "lower train.devices (with micro_batch the step stays the same) or take a machine with more"
        )
    folder = slot_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = _take(folder, gpus, runs_per_gpu, devices)
    if not held:
        slots = f"{len(gpus)} visible GPU{'s' * (len(gpus) > 1)} x {runs_per_gpu}"
        count = len(gpus) * runs_per_gpu
        taken = f"all {count} device slots are taken" if devices == 1 else f"fewer than {devices} GPUs have a free slot"
        log(f"{taken} ({slots}): waiting; ask snakemake for `--resources gpu={count}` at most")
    while not held:
        time.sleep(poll_s)
        held = _take(folder, gpus, runs_per_gpu, devices)
    chosen = ",".join(held)
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = chosen
    try:
        yield chosen
    finally:
        _release(held)
        if before is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _take(folder: Path, gpus: list[str], runs_per_gpu: int, devices: int) -> dict[str, IO[str]]:
    """Open, locked slot files of `devices` GPUs, by GPU; all or none.

    One job at a time looks, so that of two that each want several none waits for what the other has.
    """
    with open(folder / "gate", "a+") as gate:
        fcntl.lockf(gate, fcntl.LOCK_EX)
        held: dict[str, IO[str]] = {}
        for number in range(runs_per_gpu):
            for gpu in gpus:
                if gpu not in held and len(held) < devices:
                    handle = _locked(folder / f"{gpu.replace('/', '_')}-{number}")
                    held |= {gpu: handle} if handle is not None else {}
        if len(held) < devices:
            _release(held)
        return held


def _locked(path: Path) -> IO[str] | None:
    handle = open(path, "a+")  # noqa: SIM115 - the open file is the lock
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        return None
    return handle


def _release(held: dict[str, IO[str]]) -> None:
    while held:
        held.popitem()[1].close()
