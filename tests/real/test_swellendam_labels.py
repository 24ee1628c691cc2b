"""OSM extracts and labels of real places, from the folder REAL_DATA_DIR."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from scipy import ndimage

from pipeline.files import read_json
from tests.support.project import Project, write_blocks

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif("REAL_DATA_DIR" not in os.environ, reason="REAL_DATA_DIR is not set: no real data to read"),
]
ROAD, WATER = 1, 2  # as docs/your-region.md numbers them
COLOURS = {ROAD: (255, 40, 40), WATER: (40, 90, 255)}


def data(name: str) -> Path:
    path = Path(os.environ.get("REAL_DATA_DIR", "")) / name
    if not path.exists():
        pytest.skip(f"{path} does not exist: REAL_DATA_DIR has no {name}")
    return path


@pytest.fixture(scope="module")
def swellendam(tmp_path_factory):
    """(folder of data, image [rows, cols, 3], labels, sources, stats): what the rules make of docs/your-region.md."""
    project = Project.of_sources(tmp_path_factory.mktemp("swellendam"))
    write_blocks(project, "docs/your-region.md")
    folder = project.path("data/swellendam")
    (folder / "source").mkdir(parents=True)
    (folder / "source" / "aerial.tif").symlink_to(data("swellendam/swellendam_rgb_2.5m_4326.tif").resolve())
    (folder / "source" / "area.osm.pbf").symlink_to(data("swellendam/swellendam.osm.pbf").resolve())
    made = [f"data/swellendam/{name}/r00c00.tif" for name in ("imagery/aerial", "labels/roads_water")]
    project.snakemake("--cores", "2", *made, PYTHONPATH=str(project.path("src")), timeout_s=300)
    with rasterio.open(project.path(made[0])) as image, rasterio.open(project.path(made[1])) as labels:
        assert image.transform == labels.transform and image.crs == labels.crs
        pixels = image.read().transpose(1, 2, 0), labels.read(1)
    with rasterio.open(folder / "labels" / "roads_water" / "r00c00_source.tif") as sources:
        return folder, *pixels, sources.read(1), read_json(folder / "labels" / "roads_water" / "r00c00_stats.json")


def test_the_grid_and_the_pixels_are_the_files_own(swellendam):
    folder, image, _, _, _ = swellendam
    with (
        rasterio.open(data("swellendam/swellendam_rgb_2.5m_4326.tif")) as given,
        rasterio.open(folder / "imagery" / "aerial" / "r00c00.tif") as made,
    ):
        assert made.crs == given.crs and made.transform.almost_equals(given.transform, 1e-12)
        assert np.array_equal(image, given.read().transpose(1, 2, 0))


def shifted(values, mask, steps):
    """Mean of `values` under `mask` moved by each (rows, cols) of `steps`, pixels that leave the raster dropped."""
    rows, cols = np.nonzero(mask)
    means = []
    for down, right in steps:
        y, x = rows + down, cols + right
        keep = (y >= 0) & (y < mask.shape[0]) & (x >= 0) & (x < mask.shape[1])
        means.append(values[y[keep], x[keep]].mean())
    return np.array(means)


AROUND = [(20, 0), (-20, 0), (0, 20), (0, -20), (40, 0), (-40, 0), (0, 40), (0, -40), (30, 30), (-30, -30)]


def test_roads_lie_on_roads(swellendam):
    """Roads here are brighter than what surrounds them: the labels hit that best where they lie, not 20 px away."""
    _, image, labels, _, stats = swellendam
    brightness = image.mean(axis=2)
    contrast = brightness - ndimage.uniform_filter(brightness, 15)
    here = contrast[labels == ROAD].mean()
    away = shifted(contrast, labels == ROAD, AROUND)
    assert stats["features"]["roads"]["painted"] >= 15
    print(f"contrast {here:.1f}, moved away {np.abs(away).max():.1f}")
    assert here > 15
    assert np.abs(away).max() < here / 4
    steps = [(down, right) for down in range(-4, 5) for right in range(-4, 5)]
    best = steps[int(shifted(contrast, labels == ROAD, steps).argmax())]
    print(f"best at {best}")
    assert np.hypot(*best) <= 1.5


def test_water_lies_on_dams(swellendam):
    """The dams are smoother than the fields and woods around them."""
    _, image, labels, sources, _ = swellendam
    grey = image.mean(axis=2)
    roughness = np.sqrt(np.maximum(ndimage.uniform_filter(grey**2, 5) - ndimage.uniform_filter(grey, 5) ** 2, 0))
    inner = ndimage.binary_erosion(labels == WATER, iterations=4)
    assert set(np.unique(sources[labels == WATER])) <= {1, 2}  # the recipe's layers water and waterways
    assert inner.sum() > 5000
    away = shifted(roughness, inner, [(down * 3, right * 3) for down, right in AROUND])
    assert roughness[inner].mean() < 0.6 * away.mean()


def test_picture_of_labels_over_imagery(swellendam, tmp_path):
    """For the eye: SWELLENDAM_PICTURE, or the test's folder, gets imagery beside imagery with its labels."""
    _, image, labels, _, _ = swellendam
    over = image.astype(float)
    for index, colour in COLOURS.items():
        over[labels == index] = 0.4 * over[labels == index] + 0.6 * np.array(colour)
    picture = np.concatenate([image[1500:2500], over[1500:2500].astype(np.uint8)], axis=1)
    path = Path(os.environ.get("SWELLENDAM_PICTURE", tmp_path / "labels.png"))
    Image.fromarray(picture).save(path)
    assert Image.open(path).size == (2 * image.shape[1], 1000)
