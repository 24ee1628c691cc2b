"""Slots of several GPUs for one job: all or none, on distinct devices, without one job waiting for another's half."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import RunError
from pipeline.train.devices import device_slot

# Takes slots and gives them back, again and again; notes who holds which in files that must not exist yet.
CONTENDER = """
import os, sys
from pathlib import Path
from pipeline.train.devices import device_slot
folder, devices, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for _ in range(rounds):
    with device_slot(lambda line: None, poll_s=0.002, devices=devices) as chosen:
        gpus = chosen.split(",")
        assert len(set(gpus)) == devices
        for gpu in gpus:
            os.close(os.open(folder / gpu, os.O_CREAT | os.O_EXCL))
        for gpu in gpus:
            os.unlink(folder / gpu)
"""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_SLOTS", str(tmp_path / "slots"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")


def held_elsewhere(devices: int, runs_per_gpu: int = 1) -> subprocess.Popen[str]:
    """A process that holds slots until its input ends; returns once it does."""
    lines = "import sys\nfrom pipeline.train.devices import device_slot\n"
    lines += f"with device_slot(print, {runs_per_gpu}, devices={devices}) as chosen:\n"
    lines += "    print(chosen, flush=True)\n    sys.stdin.read()\n"
    process = subprocess.Popen([sys.executable, "-c", lines], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline()
    return process


def test_a_job_of_several_devices_sees_them_all_and_gives_them_back() -> None:
    for _ in range(2):
        with device_slot(print, devices=2) as chosen:
            assert chosen == os.environ["CUDA_VISIBLE_DEVICES"] == "4,5"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5,6"


def test_more_devices_than_gpus_are_one_line() -> None:
    with pytest.raises(RunError, match="devices: 4, and 3 GPUs are visible") as caught, device_slot(print, devices=4):
        pass
    assert "\n" not in str(caught.value)


def test_no_gpu_means_the_cpu_for_any_number_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with device_slot(print, devices=4) as chosen:
        assert chosen is None


def test_devices_of_one_job_are_distinct_where_runs_share_a_gpu() -> None:
    other = held_elsewhere(2, runs_per_gpu=2)
    with device_slot(print, 2, devices=3) as chosen:  # a slot of 6 first, then the second ones of 4 and 5
        assert chosen == "6,4,5"
    other.communicate()


def test_while_too_few_are_free_nothing_is_held_and_one_line_says_so() -> None:
    other = held_elsewhere(2)
    lines: list[str] = []

    def told(line: str) -> None:
        lines.append(line)
        taken = held_elsewhere(1)  # the third is free, although this job waits for two
        taken.communicate()
        other.communicate()

    with device_slot(told, poll_s=0.01, devices=2) as chosen:
        assert chosen == "4,5"
    assert lines == [
        "fewer than 2 GPUs have a free slot (3 visible GPUs x 1): waiting; "
        "ask snakemake for `--resources gpu=3` at most"
    ]


def test_jobs_that_each_want_several_never_block_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "held"
    folder.mkdir()
    command = [sys.executable, "-c", CONTENDER, str(folder)]
    jobs = [subprocess.Popen([*command, str(devices), "60"]) for devices in (2, 2, 3, 1)]
    deadline = time.monotonic() + 30
    for job in jobs:
        assert job.wait(timeout=deadline - time.monotonic()) == 0
