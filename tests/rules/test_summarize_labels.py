"""Rule summarize_labels: what a recipe's shards hold, as numbers and as a picture."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from PIL import Image

from pipeline.files import sha256_file
from tests.rules.conftest import SIDE_PX
from tests.support.project import Project

pytestmark = pytest.mark.workflow
FOLDER = "data/meadow/labels/cover"


@pytest.fixture(scope="module")
def summary(meadow: Project) -> dict[str, dict[str, dict[str, float]]]:
    done = meadow.snakemake("--cores", "1", f"{FOLDER}/summary.json")
    assert "1 of 1 steps" in done.text, "the labels are there: nothing but the summary is made"
    return dict(json.loads(meadow.path(f"{FOLDER}/summary.json").read_text()))


def test_shares_are_those_of_the_pixels(meadow: Project, summary: dict[str, dict[str, dict[str, float]]]) -> None:
    with rasterio.open(meadow.path(f"{FOLDER}/r00c00.tif")) as raster:
        pixels = raster.read(1)
    counts = np.bincount(pixels.ravel(), minlength=256)
    names = ("grass", "soil", "roof")
    assert [summary["classes"][name]["pixels"] for name in names] == counts[:3].tolist()
    labelled = counts[:3].sum()
    assert [summary["classes"][name]["share_of_labelled"] for name in names] == pytest.approx(counts[:3] / labelled)
    assert summary["ignored"]["pixels"] == counts[255] == 8 * 32, "where the land cover has no data"
    assert summary["sources"]["cover"]["pixels"] == labelled
    assert summary["area_km2"] == pytest.approx(SIDE_PX**2 / 0.9996**2 / 1e6, rel=1e-4)
    assert summary["sha256"] == {"r00c00_stats.json": sha256_file(meadow.path(f"{FOLDER}/r00c00_stats.json"))}


@pytest.mark.usefixtures("summary")
def test_the_picture_has_the_schemes_colours(meadow: Project) -> None:
    picture = np.asarray(Image.open(meadow.path(f"{FOLDER}/distribution.png")).convert("RGB"))
    for colour in ([40, 160, 40], [150, 110, 60], [200, 60, 60]):
        assert (picture == colour).all(axis=2).mean() > 0.005


@pytest.mark.usefixtures("summary")
def test_another_recipe_is_another_summary(meadow: Project) -> None:
    with meadow.edited("config/recipes/cover.yaml", lambda text: "background: soil\n" + text):
        rules = [job.rule for job in meadow.jobs(f"{FOLDER}/summary.json")]
    assert sorted(rules) == ["rasterize_labels", "summarize_labels"]


def test_an_unknown_recipe_is_one_line(meadow: Project) -> None:
    done = meadow.snakemake("--cores", "1", "data/meadow/labels/covr/summary.json", status=1)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "config/recipes/covr.yaml does not exist" in line and "did you mean 'cover'?" in line
