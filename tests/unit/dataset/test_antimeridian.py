"""A region across 180 degrees: the same distances and chips as its twin at Greenwich, longitudes within the world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.acquire.shards import write_shard
from pipeline.config import ChipConfig
from pipeline.dataset.chips import cut_image_chips
from pipeline.dataset.split import smallest_pixel_m
from pipeline.extent import grid_of
from pipeline.grid import Grid

GRIDS = {"zoom": (12, None, 0.0), "EPSG:3857": (None, "EPSG:3857", 20.0), "EPSG:4326": (None, "EPSG:4326", 2e-4)}


def grids(kind: str) -> tuple[Grid, Grid]:
    """The grid across 180 degrees and its twin, of one size."""
    zoom, crs, resolution = GRIDS[kind]
    return (
        grid_of((179.96, -17.0, -179.96, -16.96), zoom, crs, resolution, 4096),
        grid_of((-0.04, -17.0, 0.04, -16.96), zoom, crs, resolution, 4096),
    )


@pytest.mark.parametrize("kind", GRIDS)
def test_a_pixel_measures_the_same_on_both_sides_of_the_world(kind: str) -> None:
    here, twin = grids(kind)
    assert smallest_pixel_m(here) == pytest.approx(smallest_pixel_m(twin), rel=1e-6)


@pytest.mark.parametrize("kind", GRIDS)
def test_chips_have_longitudes_of_the_world(kind: str, tmp_path: Path) -> None:
    here, _ = grids(kind)
    shard = here.shards()[0]
    rows = [min(256, shard.height - top) for top in range(0, shard.height, 256)]
    strips = [(np.full((1, high, shard.width), 7, np.uint8), np.ones((high, shard.width), bool)) for high in rows]
    write_shard(tmp_path / "r00c00.tif", here, shard, 1, "uint8", strips)
    cut_image_chips(
        {"r00c00": tmp_path / "r00c00.tif"}, here, ChipConfig(px=32), tmp_path / "chips", "s", lambda _: None
    )
    index = pq.read_table(tmp_path / "chips" / "index.parquet").to_pandas()
    east, west = index[index.lon > 0], index[index.lon < 0]
    assert len(east) and len(west) and index.lon.between(-180, 180).all()
    assert east.lon.between(179.95, 180).all() and west.lon.between(-180, -179.95).all()
    assert east.col_px.max() < west.col_px.min()  # the grid runs on across the line
