"""A region of one's own, made of two small GeoTIFFs and three YAML files, through every rule in one snakemake call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from tests.support.project import Project

SIDE_PX, CELL_PX, NODATA_PX = 384, 8, 24
LEFT, TOP = 500_000.0, 5_540_000.0  # EPSG:32632, metres; one pixel is one metre
CODES = (10, 20, 30)

CLASSES = """
classes:
  - {index: 0, name: grass, colour: [40, 160, 40]}
  - {index: 1, name: soil, colour: [150, 110, 60]}
  - {index: 2, name: roof, colour: [200, 60, 60]}
"""
REGION = """
title: A meadow
grid: {imagery: aerial}
classes: ground
imagery:
  aerial: {kind: raster, path: own/aerial.tif}
landcover:
  cover: {path: own/cover.tif, classes: {10: grass, 20: soil, 30: roof}, ignore: [0]}
chips: {px: 32}
splits:
  blocks: {kind: block, block_px: 64, buffer_m: 40, balance: cover, fractions: [0.6, 0.2, 0.2]}
"""
NORTH = """
bbox: [25.0, 65.0, 25.01, 65.004]
grid: {zoom: 18}
shard_px: 512
classes: ground
imagery:
  tiles: {kind: xyz, url: "https://tiles.example.org/{z}/{x}/{y}.png"}
"""
RECIPE = """
layers:
  cover: {kind: landcover, source: cover}
"""
STUDY = """
data: {region: meadow, imagery: aerial, recipe: cover, split: blocks, normalize: standard}
models: [unet: {width: 4, depth: 3, bn_momentum: 0.1}]
losses: [focal]
train: {optimizer: adam, lr: 1e-2, batch_size: 8, epochs: 1}
baselines: [constant, landcover]
metrics: [mcc, roc_auc, boundary_f1]
last_epochs: 5
"""


def write_sources(folder: Path) -> None:
    """An aerial image of coloured squares with a corner of nodata, and the land cover that they were drawn from."""
    folder.mkdir()
    rng = np.random.default_rng(5)
    cells = rng.choice(3, (SIDE_PX // CELL_PX,) * 2, p=[0.5, 0.3, 0.2])
    cover = np.asarray(CODES, np.uint8)[cells]
    cover[-1, -4:] = 0
    classes = np.kron(cells, np.ones((CELL_PX, CELL_PX), int))
    colours = np.array([[60, 140, 60], [150, 120, 70], [190, 80, 80]])
    image = np.clip(np.moveaxis(colours[classes], -1, 0) + rng.normal(0, 15, (3, SIDE_PX, SIDE_PX)), 1, 255)
    image[:, :NODATA_PX, :NODATA_PX] = 0
    image[0, 100:110, 100:110] = 0  # a colour, no nodata: the other bands have values
    shared = {"driver": "GTiff", "crs": "EPSG:32632", "dtype": "uint8", "nodata": 0}
    with rasterio.open(
        folder / "aerial.tif",
        "w",
        transform=from_origin(LEFT, TOP, 1, 1),
        width=SIDE_PX,
        height=SIDE_PX,
        count=3,
        **shared,
    ) as raster:
        raster.write(image.astype(np.uint8))
    with rasterio.open(
        folder / "cover.tif",
        "w",
        transform=from_origin(LEFT, TOP, CELL_PX, CELL_PX),
        width=len(cells),
        height=len(cells),
        count=1,
        **shared,
    ) as raster:
        raster.write(cover, 1)


@pytest.fixture(scope="session")
def meadow(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The table of study `meadow` and all that it is made of; the grid of a second region in the north."""
    project = Project.of_sources(tmp_path_factory.mktemp("rules") / "project")
    write_sources(project.path("own"))
    files = {"classes/ground": CLASSES, "regions/meadow": REGION, "regions/north": NORTH}
    files |= {"recipes/cover": RECIPE, "studies/meadow": STUDY}
    for name, text in files.items():
        project.path(f"config/{name}.yaml").write_text(text)
    project.snakemake("--cores", "2", "results/studies/meadow/table.csv", "data/north/grid.json", timeout_s=300)
    return project
