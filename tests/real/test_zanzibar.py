"""Zanzibar end to end with the project's own rules: tiles and OSM buildings to the building IoU of a trained network.

The references are independent of the pipeline: the tile files on disk, the buildings as GeoJSON, geodesic areas, and
an IoU counted from the raw label raster and the stored predictions.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
from pyproj import Geod
from rasterio.windows import Window
from ruamel.yaml import YAML

from benchmarks import zanzibar
from benchmarks.project import copy_project
from pipeline.dataset.joined import join
from pipeline.grid import mercator_lonlat

ROOT = os.environ.get("REAL_DATA_DIR")
SITE = Path(ROOT or ".") / zanzibar.SITE
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(ROOT is None, reason="REAL_DATA_DIR is not set: the Zanzibar site is not at hand"),
    pytest.mark.skipif(ROOT is not None and not SITE.is_dir(), reason=f"{SITE} does not exist"),
]
ZOOM, TILE_PX, CHIP_PX = 20, 256, 128
ROWS, COLS = range(541920, 541994), range(638584, 638600)  # of tiles, the region's box
FOLD = "fold_0"
FAST_EPOCHS = 16  # of the study's 80
Tile = tuple[int, int]  # row, column
GEOD = Geod(ellps="WGS84")


def tiles_on_disk() -> set[Tile]:
    return {(int(path.stem), int(path.parent.name)) for path in (SITE / "tiles" / str(ZOOM)).glob("*/*.png")}


def box_of(tile: Tile) -> shapely.Polygon:
    row, col = tile
    west, north = mercator_lonlat(col * TILE_PX, row * TILE_PX, ZOOM)
    east, south = mercator_lonlat((col + 1) * TILE_PX, (row + 1) * TILE_PX, ZOOM)
    return shapely.box(west, south, east, north)


def area_m2(shape: Any) -> float:
    return abs(float(GEOD.geometry_area_perimeter(shapely.orient_polygons(shape))[0])) if not shape.is_empty else 0.0


def place_of(chip_id: str) -> tuple[int, int]:
    """(row, column) of a chip's first pixel on the region's grid."""
    found = re.fullmatch(r"r(\d+)c(\d+)p128", chip_id)
    assert found is not None, chip_id
    return int(found[1]), int(found[2])


def tile_under(chip_id: str) -> Tile:
    """The one tile that a chip of half a tile's edge lies on."""
    row, col = place_of(chip_id)
    return ROWS.start + row // TILE_PX, COLS.start + col // TILE_PX


@dataclass(frozen=True)
class Built:
    """A copy of the project with one study built in it."""

    folder: Path
    study: str

    @property
    def table(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "results" / "studies" / self.study / "table.csv")

    @property
    def summary(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "results" / "studies" / self.study / "summary.csv")

    def data(self, name: str) -> Path:
        return self.folder / "data" / "zanzibar" / name


@pytest.fixture(scope="module")
def one_fold(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """The study `zanzibar` cut down to one fold and fewer epochs."""
    folder = tmp_path_factory.mktemp("zanzibar")
    copy_project(folder)
    zanzibar.link_site(folder, SITE.resolve())
    yaml = YAML()
    content = yaml.load((folder / "config" / "studies" / "zanzibar.yaml").read_text())
    assert FOLD in content["data"]["split"]
    content["data"]["split"] = FOLD
    content["train"]["epochs"] = FAST_EPOCHS
    with open(folder / "config" / "studies" / "one_fold.yaml", "w") as handle:
        yaml.dump(content, handle)
    zanzibar.run_snakemake(folder, "results/studies/one_fold/summary.csv")
    yield Built(folder, "one_fold")
    shutil.rmtree(folder)


def test_tiles_asked_for_and_missing_are_those_on_disk(one_fold: Built) -> None:
    disk = tiles_on_disk()
    assert all(row in ROWS and col in COLS for row, col in disk)
    manifest = json.loads((one_fold.data("imagery/openaerialmap") / "r00c00.json").read_text())
    wanted = len(ROWS) * len(COLS)
    assert manifest["tiles"] == {"requested": wanted, "missing": wanted - len(disk)}
    with rasterio.open(one_fold.data("imagery/openaerialmap") / "r00c00.tif") as raster:
        assert raster.shape == (len(ROWS) * TILE_PX, len(COLS) * TILE_PX)
        mask = raster.read_masks(1) > 0
    shown = mask.reshape(len(ROWS), TILE_PX, len(COLS), TILE_PX).any(axis=(1, 3))
    assert {(ROWS.start + row, COLS.start + col) for row, col in np.argwhere(shown).tolist()} == disk


def test_labelled_area_is_that_of_the_mapped_buildings(one_fold: Built) -> None:
    """Tile by tile: building pixels times a pixel's geodesic area, against the GeoJSON's geodesic area."""
    features = json.loads((SITE / "osm_buildings.geojson").read_text())["features"]
    buildings = shapely.union_all([shapely.make_valid(shapely.geometry.shape(f["geometry"])) for f in features])
    with rasterio.open(one_fold.data("labels/buildings") / "r00c00.tif") as raster:
        labels = raster.read(1)
    labelled, mapped = [], []
    for row, col in sorted(tiles_on_disk()):
        top, left = (row - ROWS.start) * TILE_PX, (col - COLS.start) * TILE_PX
        pixels = int((labels[top : top + TILE_PX, left : left + TILE_PX] == 1).sum())
        box = box_of((row, col))
        labelled.append(pixels * area_m2(box) / TILE_PX**2)
        mapped.append(area_m2(buildings & box))
    print(f"buildings on imaged ground: {sum(labelled):.0f} m² labelled, {sum(mapped):.0f} m² mapped")
    assert sum(mapped) > 20_000
    assert sum(labelled) == pytest.approx(sum(mapped), rel=0.005)
    assert np.abs(np.subtract(labelled, mapped)).max() < 2.0  # m² of a tile's 1435


def test_no_ground_without_imagery_is_used(one_fold: Built) -> None:
    disk = tiles_on_disk()
    images = pq.read_table(one_fold.data("chips/openaerialmap") / "index.parquet").column("chip_id").to_pylist()
    labels = pq.read_table(one_fold.data("chips/buildings") / "index.parquet").column("chip_id").to_pylist()
    assert len(images) == 4 * len(disk) and {tile_under(chip) for chip in images} == disk
    assert len(labels) > len(images)  # the gap has labels, so that leaving it out is somebody's work
    spec = {"region": "zanzibar", "imagery": "openaerialmap", "recipe": "buildings", "split": FOLD}
    rows = join(one_fold.folder / "data", spec).rows
    for split in ("train", "val", "test"):
        assert {tile_under(str(chip)) for chip in rows[split].chip_ids} <= disk, split
    for run in one_fold.table["run"]:
        cells = pq.read_table(one_fold.folder / "results" / "runs" / run / "confusion.parquet").to_pandas()
        test = cells[cells["split"] == "test"]
        if "checkpoint" in test:
            test = test[test["checkpoint"] == test["checkpoint"].iloc[0]]
        assert set(test["chip_id"]) == set(rows["test"].chip_ids.tolist())
        assert test["pixels"].sum() == len(rows["test"]) * CHIP_PX**2


def test_training_ground_is_a_chip_away_from_held_out_ground(one_fold: Built) -> None:
    spec = {"region": "zanzibar", "imagery": "openaerialmap", "recipe": "buildings", "split": FOLD}
    rows = join(one_fold.folder / "data", spec).rows
    places = {split: np.array([place_of(str(chip)) for chip in rows[split].chip_ids]) for split in rows}
    for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
        apart = np.abs(places[one][:, None] - places[other][None]).max(axis=2) - CHIP_PX  # the wider of both gaps
        assert apart.min() >= CHIP_PX, (one, other)


def test_the_network_finds_buildings_better_than_colour_alone(one_fold: Built) -> None:
    table = one_fold.table.set_index("model.name")
    score = table["test_iou_building"]
    print(score.to_string())
    assert sorted(score.index) == ["constant", "random_forest", "unet"]
    assert score["constant"] == 0
    assert score["unet"] > 0.40
    assert score["unet"] > score["random_forest"] + 0.08


def test_the_table_agrees_with_an_iou_counted_from_rasters(one_fold: Built) -> None:
    with rasterio.open(one_fold.data("labels/buildings") / "r00c00.tif") as labels:
        for row in one_fold.table.to_dict("records"):
            folder = one_fold.folder / "results" / "runs" / row["run"] / "predictions"
            name = "test.npy" if pd.isna(row["checkpoint"]) else f"test-{row['checkpoint']}.npy"
            chips = json.loads((folder / "chips.json").read_text())
            both = either = 0
            for chip, predicted in zip(chips, np.load(folder / name), strict=True):
                top, left = place_of(chip)
                truth = labels.read(1, window=Window(left, top, CHIP_PX, CHIP_PX)) == 1
                both += int((truth & (predicted == 1)).sum())
                either += int((truth | (predicted == 1)).sum())
            assert row["test_iou_building"] == pytest.approx(both / either, abs=1e-12), row["run"]


@pytest.mark.slow
def test_all_four_folds(tmp_path: Path) -> None:
    """The study as docs/results.md reports it; every imaged chip is tested in exactly one fold."""
    copy_project(tmp_path)
    zanzibar.link_site(tmp_path, SITE.resolve())
    zanzibar.run_snakemake(tmp_path, "results/studies/zanzibar/summary.csv")
    built = Built(tmp_path, "zanzibar")
    print(zanzibar.summary_table(built.summary))
    print(zanzibar.fold_table(built.table))
    summary = built.summary.set_index("model.name")["test_iou_building_mean"]
    assert (built.summary["n"] == 4).all()
    assert summary["constant"] == 0
    assert summary["unet"] >= 0.45
    assert summary["unet"] >= summary["random_forest"] + 0.10
    tested: list[str] = []
    for run in built.table.query("`model.name` == 'constant'")["run"]:
        tested += json.loads((tmp_path / "results" / "runs" / run / "predictions" / "chips.json").read_text())
    assert len(tested) == len(set(tested)) == 4 * len(tiles_on_disk())
