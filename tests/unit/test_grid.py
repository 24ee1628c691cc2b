"""The grid against pyproj: corners, metres on the ground, shards without gaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer

from pipeline.crs_grid import crs_grid
from pipeline.errors import ConfigError
from pipeline.extent import grid_of
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
    with pytest.raises(ConfigError, match="no shard 'r09c00'; it has 12, row by row from r00c00 to r02c03"):
        grid.shard("r09c00")


# --- any coordinate system ---------------------------------------------------------------------------------------

PLACES = {  # a coordinate system → the middle of a place that it is made for
    "EPSG:25832": (8.5, 50.1),
    "EPSG:2056": (8.68, 47.35),
    "EPSG:32760": (178.4, -18.1),
    "EPSG:3413": (-50.0, 70.0),
    "EPSG:4258": (8.5, 50.1),
    "ESRI:54009": (100.0, 15.0),
}


def on_the_ground(grid: Grid) -> tuple[float, float]:
    """Geodesic (width, height) of a hundred pixels at the grid's centre, metres per pixel."""
    to_lonlat = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    left, bottom, right, top = grid.bounds
    x, y, dx, dy = (left + right) / 2, (bottom + top) / 2, 50 * grid.res_x, 50 * grid.res_y
    across = [*to_lonlat.transform(x - dx, y), *to_lonlat.transform(x + dx, y)]
    down = [*to_lonlat.transform(x, y - dy), *to_lonlat.transform(x, y + dy)]
    return GEOD.inv(*across)[2] / 100, GEOD.inv(*down)[2] / 100


@pytest.mark.parametrize("crs", PLACES)
@settings(max_examples=20, deadline=None)
@given(st.floats(0.001, 0.05), st.floats(0.001, 0.05), st.floats(-0.05, 0.05), st.sampled_from([0.1, 0.2, 1.0, 10.0]))
def test_a_grid_of_any_crs_covers_its_box_on_multiples_of_the_resolution(
    crs: str, wide: float, high: float, shift: float, resolution: float
) -> None:
    lon, lat = PLACES[crs]
    west, south = lon + shift, lat + shift
    if crs == "EPSG:4258":
        resolution /= 111_000
    grid = crs_grid((west, south, west + wide, south + high), crs, resolution, 4096)
    rng = np.random.default_rng(0)
    lons, lats = west + wide * rng.random(2000), south + high * rng.random(2000)
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lons, lats)
    left, bottom, right, top = grid.bounds
    slack = 0.0101 * resolution
    assert left - slack <= x.min() and x.max() <= right + slack and bottom - slack <= y.min() and y.max() <= top + slack
    border = np.linspace(0, 1, 1001)
    sides = [(west + wide * border, south + 0 * border), (west + wide * border, south + high + 0 * border)]
    sides += [(west + 0 * border, south + high * border), (west + wide + 0 * border, south + high * border)]
    xs, ys = np.hstack([Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(*side) for side in sides])
    beyond = np.array([xs.min() - left, right - xs.max(), ys.min() - bottom, top - ys.max()]) / resolution
    assert (beyond < 1.01).all()  # less than a pixel more than the box
    assert left / resolution == pytest.approx(round(left / resolution), abs=1e-6)
    assert top / resolution == pytest.approx(round(top / resolution), abs=1e-6)
    assert (grid.gsd_x_m, grid.gsd_y_m) == pytest.approx(on_the_ground(grid), rel=1e-5)


def test_multiples_of_the_resolution_count_from_an_origin() -> None:
    """The corner of Germany's tile matrices; the same box from (0, 0) lies elsewhere by parts of a pixel."""
    box, res, (x0, y0) = (8.50, 50.10, 8.51, 50.11), 0.2985821417389697, (-46133.17, 6301219.54)
    grid, plain = crs_grid(box, "EPSG:25832", res, 4096, (x0, y0)), crs_grid(box, "EPSG:25832", res, 4096)
    cols, rows = (grid.left - x0) / res, (y0 - grid.top) / res
    assert cols == pytest.approx(round(cols), abs=1e-6) and rows == pytest.approx(round(rows), abs=1e-6)
    assert abs(plain.left - grid.left) % res > 0.01
    assert np.allclose(grid.bounds, plain.bounds, atol=res, rtol=0)
    assert (grid.gsd_x_m, grid.gsd_y_m) == pytest.approx(on_the_ground(grid), rel=1e-5)


def test_a_crs_by_another_name_is_the_same_grid() -> None:
    box = (8.50, 50.10, 8.51, 50.11)
    grid = crs_grid(box, "epsg:25832", 0.2, 4096)
    assert grid.crs == "EPSG:25832" and grid == crs_grid(box, "urn:ogc:def:crs:EPSG::25832", 0.2, 4096)


@pytest.mark.parametrize(
    ("bbox", "crs", "words"),
    [
        ((8.4, 49.9, 8.41, 49.91), "EPSG:99999", "grid.crs: 'EPSG:99999' is no coordinate system; .* EPSG:25832"),
        ((8.4, 49.9, 8.41, 49.91), "EPSG:4979", "axes north, east, up; a grid needs two"),
        ((18.4, -33.0, 18.41, -32.9), "EPSG:2048", "axes west, south; .* none of them west"),
        ((8.4, 49.9, 8.41, 49.91), "EPSG:32660", r"outside of grid.crs EPSG:32660, .* \[174.0, 0.0, 180.0, 84.0\]"),
        ((179.0, -10.0, -179.0, 10.0), "EPSG:6933", "grid.crs EPSG:6933 tears it apart"),
        ((188.0 - 360, -50.0, -171.0, -49.0), "+proj=gnom +lat_0=50 +lon_0=8", "lies outside of grid.crs"),
    ],
)
def test_a_crs_that_does_not_hold_the_box_is_one_line(
    bbox: tuple[float, float, float, float], crs: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        crs_grid(bbox, crs, 10.0, 4096)
    assert "\n" not in str(caught.value)


# --- across 180 degrees ------------------------------------------------------------------------------------------

FIJI = (179.9, -17.0, -179.9, -16.9)


@pytest.mark.parametrize(
    ("crs", "resolution", "world"),
    [(None, 0.0, 40075016.68557849), ("EPSG:3857", 10.0, 40075016.68557849), ("EPSG:4326", 1e-4, 360.0)],
)
def test_a_box_across_180_degrees_is_one_grid_that_goes_on_beyond_the_world(
    crs: str | None, resolution: float, world: float
) -> None:
    grid = grid_of(FIJI, 14 if crs is None else None, crs, resolution, 4096)
    twin = grid_of((-0.1, -17.0, 0.1, -16.9), 14 if crs is None else None, crs, resolution, 4096)  # the same, at 0°
    left, bottom, right, top = grid.bounds
    assert 0 < left < world / 2 < right < world
    assert abs(grid.width - twin.width) <= 1 and grid.height == twin.height and (bottom, top) == twin.bounds[1::2]
    assert left == pytest.approx(twin.left + world / 2, abs=1.01 * grid.res_x)
    assert (grid.gsd_x_m, grid.gsd_y_m) == pytest.approx((twin.gsd_x_m, twin.gsd_y_m), rel=1e-6)


def test_tiles_across_180_degrees_start_anew() -> None:
    from pipeline.sources.xyz import Source

    source = Source(kind="xyz", url="https://tiles.example.org/{z}/{x}/{y}.png")
    grid = grid_of(FIJI, 10, None, 0.0, 4096)
    tiles = source.layout("t", grid, 10).tiles(grid.shards()[0])
    assert {x for _, x, _ in tiles} == {1023, 0}
    for (_, x, y), (row, col) in tiles.items():  # where each tile lies, from the tile's own corner
        lon, lat = mercator_lonlat(x * 256, y * 256, 10)
        lon += 360 if x == 0 else 0
        x_px, y_px = mercator_px(lon, lat, 10)
        corner = tile_of_grid(grid, 10)
        assert (col, row) == (round(x_px) - corner[0], round(y_px) - corner[1])


def test_a_box_that_begins_or_ends_at_180_degrees_lies_within_the_world() -> None:
    world = 256 * 2**10
    begins, ends = (grid_of(box, 10, None, 0.0, 4096) for box in ((180.0, 0.0, -179.0, 1.0), (179.0, 0.0, -180.0, 1.0)))
    assert tile_of_grid(begins, 10)[0] == 0
    assert tile_of_grid(ends, 10)[0] + ends.width == world
    assert begins.width == ends.width
    assert begins == grid_of((-180.0, 0.0, -179.0, 1.0), 10, None, 0.0, 4096)


def test_a_crs_of_the_antimeridian_needs_no_wrap() -> None:
    grid = grid_of((179.9, -17.1, -179.9, -16.9), None, "EPSG:3832", 10.0, 4096)  # Pacific Mercator, middle 150° east
    assert grid.width == pytest.approx(0.2 / 360 * 40075016.7 / 10, abs=2)


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4326", "EPSG:4269"])
def test_a_grid_that_begins_at_the_worlds_edge_lies_at_its_left(crs: str) -> None:
    resolution = 10.0 if crs == "EPSG:3857" else 1e-4
    ends = [
        grid_of(box, None, crs, resolution, 4096) for box in ((-180.0, 60.0, -179.9, 60.1), (180.0, 60.0, -179.9, 60.1))
    ]
    world = 40075016.68557849 if crs == "EPSG:3857" else 360.0
    for grid in ends:
        assert grid.left == pytest.approx(-world / 2, abs=1.01 * resolution) and grid.bounds[2] < -0.49 * world


def test_a_shard_that_is_not_there_is_one_short_line() -> None:
    grid = web_mercator_grid((0.0, 0.0, 1.0, 1.0), 17, 256)
    assert len(grid.shards()) > 100_000
    with pytest.raises(
        ConfigError, match=r"no shard 'r999c999'; it has \d+, row by row from r00c00 to r\d+c\d+$"
    ) as caught:
        grid.shard("r999c999")
    assert len(str(caught.value)) < 200
