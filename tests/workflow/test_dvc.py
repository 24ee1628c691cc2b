"""DVC beside snakemake: nothing runs twice, and a fresh clone that pulls has everything and nothing to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.project import NOTHING, Done, Project

pytestmark = pytest.mark.workflow

STUDY = "results/studies/demo"
REPORT = f"{STUDY}/report.html"
UP_TO_DATE = "Data and pipelines are up to date."
STAGES = ("dataset", "runs", "report")


class Repository:
    """A git repository whose DVC cache, remote and settings lie in one folder of the test."""

    def __init__(self, project: Project, place: Path) -> None:
        self.project = project
        self._environment = {
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "Test",
            "GIT_AUTHOR_EMAIL": "test@example.org",
            "GIT_COMMITTER_NAME": "Test",
            "GIT_COMMITTER_EMAIL": "test@example.org",
            "DVC_NO_ANALYTICS": "1",
            "DVC_GLOBAL_CONFIG_DIR": str(place / "dvc-global"),
            "DVC_SYSTEM_CONFIG_DIR": str(place / "dvc-system"),
            "DVC_SITE_CACHE_DIR": str(place / "dvc-site"),
        }

    def run(self, *command: str) -> Done:
        return self.project.run(*command, timeout_s=300, **self._environment)

    def git(self, *words: str) -> Done:
        return self.run("git", *words)

    def dvc(self, *words: str) -> Done:
        return self.run(".venv/bin/dvc", *words)


@pytest.fixture(scope="module")
def origin(demo: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    """The built demo in a git repository."""
    place = tmp_path_factory.mktemp("dvc")
    project = demo.copy(place / "origin", leave_out=(".git", "work", "cache"))
    repository = Repository(project, place)
    repository.git("init", "--quiet", "--initial-branch", "main")
    project.path(".git/info/exclude").write_text(".venv\n")  # here a link, which `.venv/` in .gitignore does not match
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--message", "The project")
    yield repository
    shutil.rmtree(place)


def written(project: Project) -> dict[str, int]:
    """When each result was written, nanoseconds."""
    return {
        str(path.relative_to(project.folder)): path.stat().st_mtime_ns
        for folder in ("data", "results")
        for path in project.path(folder).rglob("*")
        if path.is_file()
    }


def test_each_stage_makes_all_that_lies_in_its_folders(unbuilt: Project) -> None:
    """Otherwise a later stage would change an earlier one's outputs, and `dvc repro` would never come to rest."""

    def jobs(target: str) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        return {(job.rule, tuple(sorted(job.wildcards.items()))) for job in unbuilt.jobs(target)}

    late = {"compare_runs", "predict_region", "render_report"}
    scored = {"train", "evaluate", "landcover", "random_forest", "constant"}
    everything = {job for job in jobs(REPORT) if job[0] not in late}
    runs = {job for job in everything if job[0] in scored}
    assert {job for job in jobs("dataset") if job[0] != "dataset"} == everything - runs
    assert {job for job in jobs("runs") if job[0] in scored} == runs


def test_repro_push_clone_pull_and_nothing_runs_again(origin: Repository) -> None:
    project = origin.project
    before = written(project)
    first = origin.dvc("repro")
    assert first.text.count(NOTHING) == len(STAGES)
    assert [stage for stage in STAGES if f"Running stage '{stage}'" not in first.text] == []
    assert written(project).keys() == before.keys()
    assert project.jobs(REPORT) == []

    assert UP_TO_DATE in origin.dvc("repro").text
    shown = json.loads(origin.dvc("metrics", "show", "--json").stdout)
    metrics = json.loads(project.path(f"{STUDY}/metrics.json").read_text())
    assert shown[""]["data"][f"{STUDY}/metrics.json"]["data"] == metrics
    assert metrics["test_mean_iou"] > 0

    remote = project.folder.parent / "remote"
    origin.dvc("remote", "add", "--default", "store", str(remote))
    origin.dvc("push")
    origin.git("add", "--all")
    origin.git("commit", "--quiet", "--message", "Results")
    tracked = origin.git("ls-files", "data", "results", "work", "logs", "cache").stdout
    assert tracked == ""  # results belong to DVC

    origin.git("clone", "--quiet", str(project.folder), "../clone")
    clone = Project(project.folder.parent / "clone")
    clone.link_venv()
    there = Repository(clone, project.folder.parent)
    assert not clone.path("data").exists()
    there.run("make", "PYTHON=true", "pull")  # `true` in the place of Python: the set-up is not this test's
    assert clone.jobs(REPORT) == []
    with clone.edited("config/recipes/osm.yaml", lambda text: text.replace("river: 12", "river: 13")):
        # snakemake knows with which settings the pulled files were made
        assert {job.rule for job in clone.jobs(REPORT)} >= {"rasterize_labels", "cut_chips", "train"}
    assert UP_TO_DATE in there.dvc("repro").text
    assert clone.path(REPORT).read_bytes() == project.path(REPORT).read_bytes()
    assert written(clone).keys() == before.keys()


@pytest.mark.slow
def test_repro_after_an_edit_of_the_report_keeps_every_run(origin: Repository) -> None:
    origin.dvc("repro")
    runs = {name: time for name, time in written(origin.project).items() if name.startswith("results/runs/")}
    path = origin.project.path("src/pipeline/report/figures.py")
    path.write_text(path.read_text() + "\n# edited\n")
    done = origin.dvc("repro")
    assert "render_report" in done.text
    assert {name: time for name, time in written(origin.project).items() if name in runs} == runs
