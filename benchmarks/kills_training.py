"""Trainings killed at a random moment, ten times, and restarted: the weights, histories and scores of a quiet run.

Two networks on the demo's chips, with all that a state must hold: a search for the loss's weight, extra targets on the
disk, a moving average of the weights, hard-example sampling, copy-paste, a rate that falls on a plateau. What is killed
is in turn the training, snakemake (the training lives on), and both. Run as ``python -m benchmarks.kills_training``.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from benchmarks.project import copy_project

STUDY = """
data: {region: demo, imagery: summer, recipe: osm, split: blocks, normalize: standard, train_subset: 32, val_subset: 16}
models: [unet: {width: 4, bn_momentum: 0.1}, conv_net: {width: 8, layers: 3}]
losses:
  - weighted_sum: {terms: [focal, boundary_distance], schedule: search, first: 2, every: 4, try_epochs: 2,
                   candidates: [0.2, 0.6]}
train:
  optimizer: adam
  lr: 5e-3
  schedule: {reduce_on_plateau: {patience: 2}}
  batch_size: 4
  epochs: 8
  patience: 8
  ema: 0.9
  sampler: hard_example
  augment: [flips, colour, copy_paste]
  checkpoints: [val_mean_iou, monitor, last]
"""
NAME = "killed"
VICTIMS = ("the training", "snakemake", "both")
FOUND_S = 0.02  # between looks at the locks


class Killed:
    """The study in a copy of the project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
        (folder / f"config/studies/{NAME}.yaml").write_text(STUDY)
        (folder / "config/config.yaml").write_text(f"studies: [{NAME}]\n")
        code = f"from pipeline.runs import expand_runs; print(*(run.id for run in expand_runs({NAME!r}).runs))"
        listed = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env=self.environment, capture_output=True, text=True, check=True
        )
        self.runs = listed.stdout.split()
        self.targets = [f"results/runs/{run}/metrics.json" for run in self.runs]

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start snakemake in a group of its own, as a user would after a kill."""
        command = [".venv/bin/snakemake", "--cores", "1", *words]
        subprocess.run([*command, "--unlock"], cwd=self.folder, env=self.environment, capture_output=True, check=True)
        output = open(self.folder / "output.txt", "w")  # noqa: SIM115 - the process has it
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=output, stderr=output, start_new_session=True
        )

    def finish(self, *words: str) -> None:
        """Run snakemake to its end."""
        if self.start(*words).wait():
            sys.exit((self.folder / "output.txt").read_text())

    def trainings(self) -> list[int]:
        """The processes that hold a lock of a run."""
        found = []
        for run in self.runs:
            with suppress(OSError, ValueError):
                found.append(int((self.folder / "work" / run / "lock").read_text()))
        return [pid for pid in found if alive(pid)]

    def kill(self, victim: str, after_s: float) -> bool:
        """Start, and kill `after_s` after a training has begun; whether all was done before that."""
        process = self.start(*self.targets)
        while process.poll() is None and not self.trainings():
            time.sleep(FOUND_S)
        with suppress(subprocess.TimeoutExpired):
            process.wait(after_s)
        pids = self.trainings()
        if process.poll() == 0 or not pids:
            process.wait()
            return True
        if victim == "both":
            os.killpg(process.pid, signal.SIGKILL)
        elif victim == "snakemake":
            process.kill()
        if victim != "snakemake":  # "both" comes after it, and ends what lived on
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.wait()
        return False

    def resumed(self) -> set[tuple[str, int]]:
        """The runs that were resumed, and after which epoch, as their logs say."""
        logs = ((run, self.folder / f"logs/train/{run}.log") for run in self.runs)
        texts = ((run, path.read_text()) for run, path in logs if path.is_file())
        return {(run, int(epoch)) for run, text in texts for epoch in re.findall(r"resumed after epoch (\d+)", text)}

    def reset(self) -> None:
        """Forget what was trained."""
        for name in ("results", "work", "logs"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def digests(self) -> dict[str, str]:
        """SHA-256 of all that the runs gave, times apart."""
        found = {}
        for run in self.runs:
            place = self.folder / "results" / "runs" / run
            for path in sorted(path for path in place.rglob("*") if path.is_file() and path.name != "run.json"):
                content = timeless(path) if path.name == "history.csv" else path.read_bytes()
                found[f"{run}/{path.relative_to(place)}"] = hashlib.sha256(content).hexdigest()
        return found

    def seconds(self) -> float:
        """How long the trainings took."""
        paths = [self.folder / "results/runs" / run / "run.json" for run in self.runs]
        return float(sum(json.loads(path.read_text())["seconds"] for path in paths))


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def timeless(path: Path) -> bytes:
    """history.csv without the column of seconds."""
    out = io.StringIO()
    with open(path, newline="") as handle:
        for row in csv.DictReader(handle):
            print(*(value for name, value in row.items() if name != "seconds"), sep=",", file=out)
    return out.getvalue().encode()


def main() -> None:
    """One quiet build, then `--kills` killed ones and a last; print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="bench-kills-") as name:
        copy_project(Path(name))
        study = Killed(Path(name))
        study.finish("dataset")
        study.finish(*study.targets)
        quiet, quiet_s = study.digests(), study.seconds()
        study.reset()
        kills: Counter[str] = Counter()
        differ: set[str] = set()
        resumed: list[tuple[str, int]] = []
        while True:
            ended = True
            if kills.total() < options.kills:
                victim = VICTIMS[kills.total() % len(VICTIMS)]
                ended = study.kill(victim, moments.uniform(0.0, 2 * quiet_s / options.kills))
                kills[victim] += not ended
            else:
                study.finish(*study.targets)
            resumed += study.resumed() - set(resumed)
            if ended:
                found = study.digests()
                differ |= {file for file in quiet.keys() | found.keys() if quiet.get(file) != found.get(file)}
                if kills.total() >= options.kills:
                    break
                study.reset()
        print(f"{len(study.runs)} runs, {quiet_s:.0f} s of training in a quiet build, seed {options.seed}\n")
        print("| what | found | asked for |")
        print("|---|---:|---:|")
        for victim in VICTIMS:
            print(f"| kills of {victim} | {kills[victim]} | |")
        print(f"| kills | {kills.total()} | {options.kills} |")
        print(f"| trainings resumed in their middle | {len(resumed)} | 1 at least |")
        print(f"| files that differ from the quiet build's ({len(quiet)} files) | {len(differ)} | 0 |")
        for file in sorted(differ)[:10]:
            print(f"differs: {file}", file=sys.stderr)
        if differ or not resumed:
            sys.exit(1)


if __name__ == "__main__":
    main()
