"""SIGKILL at random moments: of the training, of snakemake, of both. Started again, all ends as in a quiet run."""

from __future__ import annotations

import csv
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.support.project import Project, Running, alive, wait_until

pytestmark = pytest.mark.workflow

EPOCHS = 4
STUDY = f"""
data: {{region: demo, imagery: summer, recipe: osm, split: blocks, normalize: standard, train_subset: 32}}
models: [unet: {{width: 4, bn_momentum: 0.1}}]
losses: [jaccard]
train:
  optimizer: adam
  lr: 5e-3
  schedule: {{reduce_on_plateau: {{patience: 1}}}}
  batch_size: 8
  epochs: {EPOCHS}
  patience: {EPOCHS}
  ema: 0.9
  sampler: hard_example
  augment: [flips, copy_paste]
  checkpoints: [val_accuracy, monitor, last]
"""
VICTIMS = ("training", "snakemake", "both")
RUN_TIMEOUT_S = 240


class Brief:
    """A short training in a copy of the demo that has chips but neither results nor the truth."""

    def __init__(self, project: Project) -> None:
        self.project = project
        project.path("config/studies/brief.yaml").write_text(STUDY)
        shutil.rmtree(project.path("data/demo/chips/truth"))
        project.path("data/demo/source/truth.tif").unlink()
        self.run = project.runs("brief")[0]["id"]
        self.work = project.path(f"work/{self.run}")
        self.out = project.path(f"results/runs/{self.run}")
        self.command = (".venv/bin/snakemake", f"results/runs/{self.run}/metrics.json", "--cores", "1")
        self.finish()
        self.quiet = project.path("quiet")
        self.out.rename(self.quiet)
        self.epoch_s = min(float(row["seconds"]) for row in history(self.quiet))

    def log(self) -> str:
        """The training's own log so far."""
        path = self.project.path(f"logs/train/{self.run}.log")
        return path.read_text() if path.is_file() else ""

    def epochs(self) -> int:
        """Full epochs so far, those before an earlier kill included."""
        return max([0, *map(int, re.findall(rf"epoch (\d+)(?:/{EPOCHS} |\n)", self.log()))])

    def pid(self) -> int | None:
        """The training process, as its lock names it."""
        path = self.work / "lock"
        text = path.read_text() if path.is_file() else ""
        return int(text) if text and alive(int(text)) else None

    def finish(self) -> str:
        """Start snakemake and wait for its end; what it printed."""
        return self.project.run(*self.command, timeout_s=RUN_TIMEOUT_S).text

    def kill(self, victim: str, running: Running, epochs: int, fraction: float) -> int:
        """Kill within the epoch after `epochs` full ones, or at its end; the pid of the training."""
        pid = int(wait_until(self.pid, "the training", RUN_TIMEOUT_S))
        wait_until(lambda: self.epochs() >= epochs, f"epoch {epochs}", RUN_TIMEOUT_S)
        end = time.monotonic() + fraction * self.epoch_s
        while time.monotonic() < end and self.epochs() <= epochs:  # they may be faster than in the quiet run
            time.sleep(0.02)
        assert self.pid() == pid, "the training ended before it was killed"
        if victim == "both":
            running.kill_group()
        else:
            os.kill(pid if victim == "training" else running.process.pid, signal.SIGKILL)
            status = running.wait(60).status
            assert status == (1 if victim == "training" else -signal.SIGKILL)
        if victim == "snakemake":
            assert alive(pid)
        else:
            wait_until(lambda: not alive(pid), "the training's end")
        return pid

    def start_again(self, victim: str, pid: int) -> str:
        """What a user does after a kill: start; where snakemake's own lock is left over, unlock and start."""
        if victim == "training":
            return self.finish()
        if victim == "both":
            refused = self.project.run(*self.command, status=1)
            assert "LockException" in refused.text and "--unlock" in refused.text
            assert "Traceback" not in refused.text
            self.project.snakemake("--unlock")
            return self.finish()
        os.kill(pid, signal.SIGSTOP)  # a training that takes longer than the next lines
        self.project.snakemake("--unlock")
        waiting = f"process {pid} is still working on {self.run}: waiting for it"
        with self.project.started(*self.command) as running:
            wait_until(lambda: waiting in "".join(running.read()), "the waiting line")
            os.kill(pid, signal.SIGCONT)
            done = running.wait(RUN_TIMEOUT_S)
        assert done.status == 0, done.text
        assert f"{self.run}: finished by the process that was waited for" in done.text
        return done.text

    def check(self) -> None:
        """Everything is as in the quiet run, to the last digit."""
        assert history(self.out, "seconds") == history(self.quiet, "seconds")
        for name in ("metrics.json", "predictions/chips.json"):
            assert (self.out / name).read_bytes() == (self.quiet / name).read_bytes()
        weights = sorted(path.name for path in (self.quiet / "checkpoints").glob("*.safetensors"))
        assert weights == ["best_accuracy.safetensors", "best_monitor.safetensors", "last.safetensors"]
        for name in weights:
            tensors, quiet = (load_file(folder / "checkpoints" / name) for folder in (self.out, self.quiet))
            assert tensors.keys() == quiet.keys()
            assert all(np.array_equal(tensors[key], quiet[key]) for key in quiet)
            predictions = f"predictions/test-{Path(name).stem}.npy"
            assert np.array_equal(np.load(self.out / predictions), np.load(self.quiet / predictions))
        assert not self.work.exists()


def history(folder: Path, without: str = "") -> list[dict[str, str]]:
    with open(folder / "history.csv") as handle:
        return [{key: value for key, value in row.items() if key != without} for row in csv.DictReader(handle)]


@pytest.fixture(scope="module")
def brief(demo: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brief]:
    folder = tmp_path_factory.mktemp("kills") / "project"
    yield Brief(demo.copy(folder, leave_out=("results", "work", "cache")))
    shutil.rmtree(folder)


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_killed_run_ends_as_if_undisturbed(brief: Brief, victim: str) -> None:
    shutil.rmtree(brief.out, ignore_errors=True)
    epochs, fraction = random.randint(0 if victim == "snakemake" else 1, EPOCHS - 2), random.uniform(0, 0.8)
    print(f"killing {victim} after {epochs + fraction:.2f} epochs")
    with brief.project.started(*brief.command) as running:
        pid = brief.kill(victim, running, epochs, fraction)
        text = brief.start_again(victim, pid)
    if victim != "snakemake":
        assert any(f"resumed after epoch {epoch}\n" in text for epoch in (epochs, epochs + 1))
    brief.check()


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_if_undisturbed(brief: Brief) -> None:
    for _ in range(3):
        shutil.rmtree(brief.out, ignore_errors=True)
        for epochs in range(EPOCHS - 1):
            victim = random.choice(("training", "both"))
            with brief.project.started(*brief.command) as running:
                brief.kill(victim, running, epochs, random.uniform(0, 0.8))
            if victim == "both":
                brief.project.snakemake("--unlock")
        brief.finish()
        brief.check()
