"""Rule lr_range_test: a suggested rate for a run of a study, and nothing else touched."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from PIL import Image

from tests.support.project import Project, wait_until

pytestmark = pytest.mark.workflow


def target(project: Project) -> str:
    (run,) = [run["id"] for run in project.runs("meadow") if run["kind"] == "run"]
    return f"results/lr_range/{run}/summary.json"


def others(project: Project) -> dict[Path, int]:
    """Files of results and of work besides those of range tests, with their times."""
    files = [path for name in ("results", "work") for path in project.path(name).rglob("*") if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in files if "lr_range" not in path.parts}


@pytest.fixture(scope="module")
def tested(meadow: Project) -> Path:
    before = others(meadow)
    meadow.snakemake("--cores", "1", target(meadow))
    assert others(meadow) == before and not list(meadow.path("work/lr_range").iterdir())
    return meadow.path(target(meadow)).parent


def test_a_run_gets_a_rate_a_curve_and_a_picture(meadow: Project, tested: Path) -> None:
    assert sorted(path.name for path in tested.iterdir()) == ["curve.csv", "lr_range.png", "summary.json"]
    found = json.loads((tested / "summary.json").read_text())
    with open(tested / "curve.csv") as handle:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(handle)]
    rates = [row["lr"] for row in rows]
    assert rates[0] == 1e-7 and rates == sorted(rates) and [row["step"] for row in rows] == [*range(1, len(rows) + 1)]
    assert found["run_lr"] == 1e-2 and found["steps"] == len(rows) <= 100
    assert found["suggested_lr"] in rates and 1e-5 < found["suggested_lr"] < found["lr_at_minimum"]
    assert found["minimum_over_10"] == found["lr_at_minimum"] / 10 and "most steeply" in found["how"]
    with Image.open(tested / "lr_range.png") as image:
        assert image.width > image.height > 400
    (job,) = meadow.jobs(target(meadow), "--config", "lr_low=1e-4")
    assert job.rule == "lr_range_test"


def test_a_test_that_was_killed_leaves_nothing_and_the_next_one_is_the_same(
    meadow: Project, tested: Path, tmp_path: Path
) -> None:
    project = meadow.copy(tmp_path / "project")
    goal = project.path(target(project))
    shutil.rmtree(goal.parent)
    before, work = others(project), project.path(f"work/lr_range/{goal.parent.name}/lock")
    with project.started(".venv/bin/snakemake", "--cores", "1", target(project)) as running:
        wait_until(lambda: work.is_file() and work.read_text(), "the range test", 60)
        os.kill(int(work.read_text()), signal.SIGKILL)
        assert running.wait(60).status == 1
    assert others(project) == before
    assert not goal.parent.is_dir() or not list(goal.parent.iterdir())
    project.snakemake("--cores", "1", target(project))
    assert goal.is_file() and not work.parent.exists()
    assert goal.with_name("curve.csv").read_bytes() == (tested / "curve.csv").read_bytes()


def error_of(project: Project, run: str) -> str:
    """The one line that snakemake ends with, besides its own about the profile."""
    done = project.snakemake("--cores", "1", f"results/lr_range/{run}/summary.json", status=1)
    (line,) = [line for line in done.text.splitlines() if not line.startswith("Using workflow specific profile")]
    return line


def test_a_run_that_no_study_has_or_that_is_a_baseline_is_one_line(meadow: Project) -> None:
    name = "meadow-unet-focal-lr0.01-s0-0123456789"
    assert error_of(meadow, name).startswith(f"error: no study has a run '{name}'")
    baseline = next(run["id"] for run in meadow.runs("meadow") if run["kind"] == "baseline")
    assert "is a baseline and has no learning rate" in error_of(meadow, baseline)
