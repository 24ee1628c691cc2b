"""Rule gradient_flow: figures that need no data, no study and no config."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.support.project import Project

pytestmark = pytest.mark.workflow
FIGURE = "results/figures/dice-gradient-flow.png"


def test_a_figure_is_drawn_without_data_or_config(tmp_path: Path) -> None:
    """And it depends on the losses: another figure, in the same dry run, is the only job left."""
    project = Project.of_sources(tmp_path / "project")
    shutil.rmtree(project.path("config"))
    project.snakemake("--cores", "1", FIGURE)
    with Image.open(project.path(FIGURE)) as image:
        assert image.width > 2 * image.height > 600  # six panels beside each other, two rows
    assert not project.path("data").exists()
    (job,) = project.jobs(FIGURE, "results/figures/tanimoto-complement.png")
    assert (job.rule, job.wildcards["figure"]) == ("gradient_flow", "tanimoto-complement")
    assert {"src/pipeline/losses/_overlap.py", "src/pipeline/report/gradient_flow.py"} <= set(job.inputs)
