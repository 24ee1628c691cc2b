"""Rule cut_chips: every chip is the window of its raster that its id names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from pyproj import Transformer

from tests.rules.conftest import CELL_PX, LEFT, NODATA_PX, SIDE_PX, TOP
from tests.support.project import Project

pytestmark = pytest.mark.workflow
PX = 32


def open_store(folder: Path) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    chips = np.load(folder / "chips.npy")
    valid = np.unpackbits(np.load(folder / "valid.npy"), axis=-1, count=PX).astype(bool)
    return pd.read_parquet(folder / "index.parquet"), chips, valid


def test_image_chips_are_windows_of_the_image_and_know_where_it_is_missing(meadow: Project) -> None:
    index, chips, valid = open_store(meadow.path("data/meadow/chips/aerial"))
    with rasterio.open(meadow.path("own/aerial.tif")) as raster:
        image = raster.read()
    assert len(index) == len(chips) == (SIDE_PX // PX) ** 2
    there = np.ones((SIDE_PX, SIDE_PX), bool)
    there[:NODATA_PX, :NODATA_PX] = False
    for number, row in enumerate(index.itertuples()):
        window = (slice(row.row_px, row.row_px + PX), slice(row.col_px, row.col_px + PX))
        assert (chips[number] == image[(slice(None), *window)]).all(), row.chip_id
        assert (valid[number] == there[window]).all(), row.chip_id
        assert row.valid_px == there[window].sum()
    to_lonlat = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)
    lon, lat = to_lonlat.transform(LEFT + index["col_px"] + PX / 2, TOP - index["row_px"] - PX / 2)
    assert np.allclose(index["lon"], lon) and np.allclose(index["lat"], lat)
    assert len({(row, col) for row, col in zip(index["row_px"], index["col_px"], strict=True)}) == len(index)


def test_label_chips_hold_the_classes_and_count_them(meadow: Project) -> None:
    index, chips, valid = open_store(meadow.path("data/meadow/chips/cover"))
    with rasterio.open(meadow.path("own/cover.tif")) as raster:
        codes = np.kron(raster.read(1), np.ones((CELL_PX, CELL_PX), np.uint8))
    expected = np.full(codes.shape, 255)
    for code, label in ((10, 0), (20, 1), (30, 2)):
        expected[codes == code] = label
    assert (expected == 255).sum() == 4 * CELL_PX**2
    for number, row in enumerate(index.itertuples()):
        window = expected[row.row_px : row.row_px + PX, row.col_px : row.col_px + PX]
        assert (chips[number, 0] == window).all(), row.chip_id
        assert (valid[number] == (window != 255)).all()
        assert [row.px_grass, row.px_soil, row.px_roof] == [int((window == label).sum()) for label in range(3)]
    meta = json.loads(meadow.path("data/meadow/chips/cover/store.json").read_text())
    assert meta["classes"] == ["grass", "soil", "roof"]
    assert meta["colours"] == [[40, 160, 40], [150, 110, 60], [200, 60, 60]]
    assert (meta["chips"], meta["dtype"], meta["chip_px"]) == (len(index), "uint8", PX)
