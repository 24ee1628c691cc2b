"""The demo study, built once for all tests of this folder, and copies of it to change."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.project import Project

REPORT = "results/studies/demo/report.html"
BUILD_TIMEOUT_S = 1500


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project in which the demo study was built, by far the dearest thing in `make test`.

    Read only: tests that change something take a copy. To write such tests without waiting, PIPELINE_TEST_DEMO=<folder>
    names a copy that was built before, which is then used as it is.
    """
    built = os.environ.get("PIPELINE_TEST_DEMO")
    if built:
        return Project(Path(built).resolve())
    project = Project.of_sources(tmp_path_factory.mktemp("project") / "demo")
    done = project.snakemake("--cores", "2", REPORT, timeout_s=BUILD_TIMEOUT_S)
    print(f"demo built in {done.seconds:.0f} s")
    return project


@pytest.fixture(scope="module")
def copy(demo: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A copy of the built demo for the tests of one file, deleted afterwards."""
    folder = tmp_path_factory.mktemp("copy") / "project"
    yield demo.copy(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def unbuilt(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project without any result."""
    return Project.of_sources(tmp_path_factory.mktemp("unbuilt") / "project")
