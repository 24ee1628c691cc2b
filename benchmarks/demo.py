"""Time and memory of the demo study in a fresh copy of the project: `make bench` prints the table.

The memory is the peak of the sum of the proportional set sizes (PSS) of the whole process tree, sampled twice a second;
the last row is the same command again, with nothing to do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from benchmarks.project import copy_project


def tree_pss(process: psutil.Process) -> int:
    """Proportional set size of a process and all its descendants, bytes."""
    total = 0
    for part in [process, *process.children(recursive=True)]:
        try:
            total += part.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def measure(folder: Path) -> tuple[float, int, str]:
    """Seconds, peak PSS in bytes and output of one `make`."""
    command = ["make", "--no-print-directory", "CORES=2"]
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        peak = 0
        done = threading.Event()

        def sample() -> None:
            nonlocal peak
            watched = psutil.Process(process.pid)
            while not done.wait(0.5):
                peak = max(peak, tree_pss(watched))

        thread = threading.Thread(target=sample)
        thread.start()
        status = process.wait()
        done.set()
        thread.join()
        output.seek(0)
        text = output.read()
    if status:
        sys.exit(text)
    return time.monotonic() - begin, peak, text


def main() -> None:
    """Build the demo study twice and print what it took."""
    with tempfile.TemporaryDirectory(prefix="bench-demo-") as name:
        folder = Path(name)
        copy_project(folder)
        load = os.getloadavg()[0]
        first = measure(folder)
        second = measure(folder)
        cores = len(os.sched_getaffinity(0))
        print(f"demo study, {cores} cores, load {load:.1f} before\n")
        print("| what | seconds | peak PSS, GiB | jobs |")
        print("|---|---:|---:|---:|")
        for title, (seconds, peak, text) in (("`make`", first), ("`make` again", second)):
            print(f"| {title} | {seconds:.0f} | {peak / 2**30:.2f} | {text.count('Finished jobid')} |")
        print()
        print((folder / "results/studies/demo/table.md").read_text())


if __name__ == "__main__":
    main()
