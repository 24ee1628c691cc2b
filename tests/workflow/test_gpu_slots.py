"""At most as many trainings at once as GPUs were asked for, each on a device of its own, on a machine without any."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.project import ROOT, Project, alive, wait_until
from tests.support.tiny import a_spec, write_region

pytestmark = pytest.mark.workflow

# In the place of scripts/train.py: takes a slot as the real one does, notes when and where, writes the rule's outputs.
PROBE = """
import argparse, json, time
from pathlib import Path
from pipeline.train.devices import device_slot
parser = argparse.ArgumentParser()
for name in ("run", "spec", "data", "out", "work", "engine", "log"):
    parser.add_argument("--" + name)
options = parser.parse_args()
with device_slot(print, poll_s=0.05) as device:
    begin = time.time()
    time.sleep(1.0)
    out = Path(options.out)
    (out / "checkpoints").mkdir(parents=True)
    (out / "history.csv").write_text("epoch")
    (out / "run.json").write_text(json.dumps({"device": device, "begin": begin, "end": time.time()}))
"""
STUDY = "config/studies/many.yaml"

# Takes a slot, says which device, holds it until its input ends. With "fork", a child outlives it.
HOLDER = """
import os, sys, time
from pipeline.train.devices import device_slot
with device_slot(lambda line: print(line, flush=True), poll_s=0.05) as device:
    if sys.argv[1:] == ["fork"] and os.fork() == 0:
        print("child", os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    print("device", device, os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    sys.stdin.read()
"""


# --- through snakemake -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def probed(demo: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The demo's chips and a study of six runs whose training is the probe."""
    folder = tmp_path_factory.mktemp("gpu") / "project"
    project = demo.copy(folder, leave_out=("results", "work", "cache"))
    text = project.path("config/studies/demo.yaml").read_text()
    project.path(STUDY).write_text(text + "\nseeds: [1, 2, 3]\n")
    project.path("scripts/train.py").write_text(PROBE)
    yield project
    shutil.rmtree(folder)


def train_six(project: Project, *words: str, **environment: str) -> list[dict[str, object]]:
    """Train six runs; what each noted, in order of their begin."""
    runs = [run["id"] for run in project.runs("many") if run["kind"] == "run"][:6]
    shutil.rmtree(project.path("results"), ignore_errors=True)
    project.snakemake(*[f"results/runs/{run}/run.json" for run in runs], *words, **environment)
    notes = [json.loads(project.path(f"results/runs/{run}/run.json").read_text()) for run in runs]
    return sorted(notes, key=lambda note: note["begin"])


def most_at_once(notes: list[dict[str, object]]) -> int:
    moments = sorted([(note["begin"], 1) for note in notes] + [(note["end"], -1) for note in notes])  # type: ignore[type-var]
    level = [0]
    for _, step in moments:
        level.append(level[-1] + step)
    return max(level)


def test_snakemake_trains_as_many_at_once_as_gpus_were_asked_for(probed: Project) -> None:
    notes = train_six(probed, "--cores", "4", "--resources", "gpu=2")
    assert most_at_once(notes) == 2
    assert {note["device"] for note in notes} == {None}  # on the CPU only the count holds


def test_each_training_has_a_device_of_its_own(probed: Project, tmp_path: Path) -> None:
    slots = {"CUDA_VISIBLE_DEVICES": "4,5,6", "PIPELINE_SLOTS": str(tmp_path / "slots")}
    notes = train_six(probed, "--cores", "6", "--resources", "gpu=6", **slots)
    assert most_at_once(notes) == 3  # snakemake was told of more devices than there are
    assert {note["device"] for note in notes} == {"4", "5", "6"}
    for device in ("4", "5", "6"):
        assert most_at_once([note for note in notes if note["device"] == device]) == 1


def test_the_real_training_waits_for_a_slot_in_one_clear_line(tmp_path: Path) -> None:
    slots = {"CUDA_VISIBLE_DEVICES": "0", "PIPELINE_SLOTS": str(tmp_path / "slots")}
    project = Project(tmp_path)
    data = write_region(tmp_path / "data")
    command = ["--run", "x", "--spec", json.dumps(a_spec(epochs=1)), "--data", str(data)]
    command += ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    with holder(tmp_path, "0") as first:
        assert first.wait_for("device 0 0")
        with project.started(sys.executable, str(ROOT / "scripts" / "train.py"), *command, **slots) as training:
            wait_until(lambda: training.read()[1], "the line")
            assert training.read()[1] == (
                "x: all 1 device slots are taken (1 visible GPU x 1): waiting; "
                "ask snakemake for `--resources gpu=1` at most\n"
            )
            assert not (tmp_path / "out").exists()
            os.kill(first.process.pid, signal.SIGKILL)
            assert training.wait(60).status == 0
    assert (tmp_path / "out" / "run.json").is_file()


def test_two_trainings_share_a_gpu_where_the_engine_says_so(tmp_path: Path) -> None:
    slots = {"CUDA_VISIBLE_DEVICES": "0", "PIPELINE_SLOTS": str(tmp_path / "slots")}
    project, data = Project(tmp_path), write_region(tmp_path / "data")
    command = ["--run", "x", "--spec", json.dumps(a_spec(epochs=1)), "--data", str(data)]
    command += ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--engine", '{"runs_per_gpu": 2}']
    with holder(tmp_path, "0") as first:
        assert first.wait_for("device 0 0")
        with project.started(sys.executable, str(ROOT / "scripts" / "train.py"), *command, **slots) as training:
            assert training.wait(120).status == 0
            assert "waiting" not in training.read()[1]
        with holder(tmp_path, "0") as second:  # counts one run per GPU
            assert second.wait_for("waiting") and second.device is None
    assert sorted(path.name for path in (tmp_path / "slots").iterdir()) == ["0-0", "0-1", "gate"]


# --- the slots alone ---------------------------------------------------------------------------------------------


class holder:
    """Context manager: a process that holds a slot; its lines are in a file."""

    def __init__(self, folder: Path, devices: str, *words: str) -> None:
        self._environment = Project(folder).environment(
            CUDA_VISIBLE_DEVICES=devices, PIPELINE_SLOTS=str(folder / "slots"), PYTHONPATH=str(ROOT / "src")
        )
        self._words = words
        self._path = Path(tempfile.mkstemp(prefix="holder-", dir=folder)[1])

    def __enter__(self) -> holder:
        with open(self._path, "w") as handle:
            self.process = subprocess.Popen(
                [sys.executable, "-c", HOLDER, *self._words],
                stdin=subprocess.PIPE,
                stdout=handle,
                env=self._environment,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    @property
    def lines(self) -> list[str]:
        return self._path.read_text().splitlines()

    @property
    def device(self) -> str | None:
        """The device that it holds, as the job's CUDA_VISIBLE_DEVICES says it."""
        found = [line.split() for line in self.lines if line.startswith("device ")]
        assert all(given == visible for _, given, visible in found)
        return found[0][1] if found else None

    def wait_for(self, words: str) -> bool:
        return bool(wait_until(lambda: any(words in line for line in self.lines), repr(words)))


def test_six_jobs_on_four_devices_hold_four_slots_and_a_killed_one_is_free_at_once(tmp_path: Path) -> None:
    jobs = [holder(tmp_path, "0,1,2,3") for _ in range(6)]
    try:
        for job in jobs:
            job.__enter__()
            wait_until(lambda job=job: job.lines, "a first line")
        holding = [job for job in jobs if job.device is not None]
        waiting = [job for job in jobs if job.device is None]
        assert sorted(job.device or "" for job in holding) == ["0", "1", "2", "3"]
        line = (
            "all 4 device slots are taken (4 visible GPUs x 1): waiting; ask snakemake for `--resources gpu=4` at most"
        )
        assert [job.lines for job in waiting] == [[line], [line]]
        os.kill(holding[2].process.pid, signal.SIGKILL)
        holding[2].process.wait(10)
        successor = wait_until(lambda: next((job for job in waiting if job.device), None), "the take-over", 5)
        assert successor.device == holding[2].device
        assert [job.device for job in waiting if job is not successor] == [None]
    finally:
        for job in jobs:
            job.__exit__()


def test_a_slot_is_free_although_a_child_of_its_killed_holder_lives(tmp_path: Path) -> None:
    with holder(tmp_path, "0", "fork") as first:
        first.wait_for("device 0")
        first.wait_for("child")
        child = int(next(line for line in first.lines if line.startswith("child")).split()[1])
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait(10)
        assert alive(child)
        with holder(tmp_path, "0") as second:
            assert second.wait_for("device 0 0")
        assert not any("waiting" in line for line in second.lines)
