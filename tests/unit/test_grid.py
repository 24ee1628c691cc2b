"""The grid against pyproj: corners, metres on the ground, shards without gaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod, Transformer

from pipeline.errors import ConfigError
from pipeline.grid import Grid, mercator_gsd_m, mercator_lonlat, mercator_px, tile_of_grid, web_mercator_grid

GEOD = Geod(ellps="WGS84")
TO_METRES = Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True)


@given(st.floats(-179.99, 179.99), st.floats(-85, 85), st.integers(0, 21))
def test_pixels_and_degrees_are_inverse_and_agree_with_pyproj(lon: float, lat: float, zoom: int) -> None:
    x, y = mercator_px(lon, lat, zoom)
    assert mercator_lonlat(x, y, zoom) == pytest.approx((lon, lat), abs=1e-9)
    east, north = TO_METRES.transform(lon, lat)
    world, metres = 256 * 2**zoom, 40075016.68557849
    assert (x, y) == pytest.approx((world * (0.5 + east / metres), world * (0.5 - north / metres)), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("lat", [0.0, 35.0, 50.0, 65.0, -80.0])
def test_a_pixel_on_the_ground_is_what_geodesics_measure(lat: float) -> None:
    zoom = 17
    x, y = mercator_px(8.5, lat, zoom)
    west, east = (mercator_lonlat(x + step, y, zoom) for step in (-50, 50))
    north, south = (mercator_lonlat(x, y + step, zoom) for step in (-50, 50))
    measured = GEOD.inv(*west, *east)[2] / 100, GEOD.inv(*north, *south)[2] / 100
    assert mercator_gsd_m(zoom, lat) == pytest.approx(measured, rel=1e-5)


@given(st.floats(-170, 170), st.floats(-70, 70), st.floats(0.001, 0.02), st.floats(0.001, 0.02), st.integers(12, 18))
def test_the_grid_covers_the_box_by_less_than_a_pixel_more(
    west: float, south: float, wide: float, high: float, zoom: int
) -> None:
    grid = web_mercator_grid((west, south, west + wide, south + high), zoom, 256)
    left, bottom, right, top = grid.bounds
    x0, y0 = TO_METRES.transform(west, south)
    x1, y1 = TO_METRES.transform(west + wide, south + high)
    for beyond in (x0 - left, y0 - bottom, right - x1, top - y1):
        assert -0.0101 * grid.res_x <= beyond < 1.0001 * grid.res_x
    col, row = tile_of_grid(grid, zoom)
    assert mercator_px(west, south + high, zoom) == pytest.approx((col, row), abs=1.02)


def test_a_box_of_whole_tiles_is_that_many_pixels() -> None:
    zoom = 20
    corners = mercator_lonlat(638584 * 256, 541994 * 256, zoom), mercator_lonlat(638600 * 256, 541920 * 256, zoom)
    grid = web_mercator_grid((*corners[0], *corners[1]), zoom, 4096)
    assert (grid.width, grid.height) == (16 * 256, 74 * 256)
    assert tile_of_grid(grid, zoom) == (638584 * 256, 541920 * 256)


def test_shards_cover_every_pixel_once(tmp_path: Path) -> None:
    grid = Grid("EPSG:32632", 5e5, 5.5e6, 0.5, 0.25, 1000, 700, 0.5, 0.25, 300)
    count = np.zeros((grid.height, grid.width), int)
    for shard in grid.shards():
        count[shard.row_px : shard.row_px + shard.height, shard.col_px : shard.col_px + shard.width] += 1
        a, _, left, _, e, top = grid.transform(shard.row_px, shard.col_px)
        assert (a, e) == (0.5, -0.25)
        assert (left, top) == (5e5 + shard.col_px * 0.5, 5.5e6 - shard.row_px * 0.25)
        assert grid.shard(shard.name) == shard
    assert (count == 1).all()
    grid.save(tmp_path / "grid.json")
    assert Grid.load(tmp_path / "grid.json") == grid
    with pytest.raises(ConfigError, match="no shard 'r09c00'; it has r00c00, "):
        grid.shard("r09c00")
