"""One process per run: `work/<run>/lock` names the pid of the one that trains it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def run_lock(work: Path, log: Callable[[str], None], poll_s: float = 1.0) -> Iterator[bool]:
    """Hold the run's lock; yields True when another process held it first and has ended since.

    A training outlives a snakemake that was killed. A second one says whose pid it waits for and goes on when that
    process ends, however it ends: the kernel releases the lock, nothing is unlocked blindly.
    """
    waited = False
    while True:
        try:
            work.mkdir(parents=True, exist_ok=True)
            handle = open(work / "lock", "a+")  # noqa: SIM115 - the open file is the lock
        except (FileExistsError, FileNotFoundError):  # one that ended has deleted the folder just now
            if work.exists() and not work.is_dir():
                raise
            waited = True
            continue
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.seek(0)
            if not waited:
                pid = handle.read().strip() or "unknown"
                log(f"process {pid} is still working on {work.name}: waiting for it (kill {pid} to take over from it)")
            waited = True
            handle.close()
            time.sleep(poll_s)
            continue
        if _same_file(handle.fileno(), work / "lock"):
            break
        handle.close()  # the file was deleted between opening and locking: lock the new one
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    try:
        yield waited
    finally:
        handle.close()


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
