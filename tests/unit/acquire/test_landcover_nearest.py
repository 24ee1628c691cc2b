"""The source pixel under each pixel of the grid, against GDAL's warper without its approximation."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import CRS as PyprojCRS
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT

from pipeline.acquire.nearest import PixelMap
from pipeline.acquire.world import boxes_in
from pipeline.grid import MERCATOR_HALF_M, Grid, web_mercator_grid

TOWN = web_mercator_grid((8.50, 50.0, 8.513, 50.008), 16, 8192)
UTM = Grid("EPSG:32632", 470_000.0, 5_550_000.0, 7.3, 7.3, 500, 430, 7.3, 7.3, 8192)
STATE = Grid("EPSG:32632", 300_000.0, 5_900_000.0, 700.0, 700.0, 500, 400, 700.0, 700.0, 8192)
FINE = Grid("EPSG:4326", 8.5, 50.0, 1 / 12000, 1 / 12000, 400, 300, 6.0, 9.0, 8192)
FIJI = Grid("EPSG:3857", MERCATOR_HALF_M - 150_000, -1_900_000.0, 1000.0, 1000.0, 300, 200, 950.0, 950.0, 8192)


def over(grid, crs, res, shift=0.2):
    """(transform, height, width) of a raster of `crs` that covers most of the grid, off its corner."""
    to_crs = Transformer.from_crs(grid.crs, crs, always_xy=True)
    left, bottom, right, top = to_crs.transform_bounds(*grid.bounds)
    left, top = left + shift * (right - left), top - shift * (top - bottom)
    return from_origin(left, top, res, res), int((top - bottom) / res) + 3, int((right - left) / res) + 3


SOURCES = {
    "WorldCover on x/y/z": (TOWN, "EPSG:4326", *over(TOWN, "EPSG:4326", 1 / 12000)),
    "degrees of another datum": (TOWN, "EPSG:4258", *over(TOWN, "EPSG:4258", 1 / 9000)),
    "UTM": (TOWN, "EPSG:25832", *over(TOWN, "EPSG:25832", 10)),
    "UTM, fine": (TOWN, "EPSG:32632", *over(TOWN, "EPSG:32632", 0.7)),
    "Gauss-Krüger, a datum shift": (TOWN, "EPSG:31467", *over(TOWN, "EPSG:31467", 10)),
    "CORINE": (TOWN, "EPSG:3035", *over(TOWN, "EPSG:3035", 100)),
    "CORINE on a coarse grid": (STATE, "EPSG:3035", *over(STATE, "EPSG:3035", 500)),
    "degrees on UTM": (UTM, "EPSG:4326", *over(UTM, "EPSG:4326", 1 / 12000)),
    "centres on the source's edges": (
        FINE,
        "EPSG:4326",
        from_origin(8.5 - 1 / 24000, 50.01, 1 / 12000, 1 / 12000),
        900,
        900,
    ),
    "the grid's own pixels": (UTM, "EPSG:32632", from_origin(UTM.left + 73, UTM.top + 73, 7.3, 7.3), 300, 300),
    "turned": (UTM, "EPSG:4326", Affine(1 / 9000, 2e-5, 8.58, 1e-5, -1 / 9000, 50.1), 900, 900),
    "across 180 degrees": (FIJI, "EPSG:4326", from_origin(-180, 90, 0.1, 0.1), 1800, 3600),
    "across 180 degrees in UTM": (FIJI, "EPSG:32701", from_origin(-300_000, 8_300_000, 900, 900), 400, 1500),
    "elsewhere": (TOWN, "EPSG:32633", from_origin(600_000, 5_500_000, 10, 10), 90, 90),
}


def by_gdal(path, grid, crs, transform, height, width):
    numbers = np.arange(1, height * width + 1, dtype=np.int32).reshape(height, width)
    options = {"dtype": "int32", "crs": crs, "transform": transform, "nodata": 0}
    with rasterio.open(path, "w", "GTiff", width, height, 1, **options) as raster:
        raster.write(numbers, 1)
    options = {"crs": grid.crs, "transform": Affine(*grid.transform()), "width": grid.width, "height": grid.height}
    with (
        rasterio.open(path) as raster,
        WarpedVRT(raster, **options, resampling=Resampling.nearest, tolerance=1e-9) as warped,
    ):
        return warped.read(1)


def numbers(found, width):
    rows, cols = found
    return np.where((rows >= 0) & (cols >= 0), rows.astype(np.int64) * width + cols + 1, 0)


@pytest.mark.parametrize("name", SOURCES)
def test_the_choice_is_gdals_exact_one(tmp_path, name):
    grid, crs, transform, height, width = SOURCES[name]
    expected = by_gdal(tmp_path / "source.tif", *SOURCES[name])
    pixels = PixelMap(grid, CRS.from_user_input(crs), transform, height, width)
    np.testing.assert_array_equal(numbers(pixels.locate(0, 0, grid.height, grid.width), width), expected)
    assert name == "elsewhere" or (expected > 0).mean() > 0.3


@pytest.mark.parametrize("name", ["UTM", "CORINE on a coarse grid", "across 180 degrees in UTM", "turned"])
def test_windows_of_any_size_agree(name):
    grid, crs, transform, height, width = SOURCES[name]
    pixels = PixelMap(grid, CRS.from_user_input(crs), transform, height, width)
    whole = numbers(pixels.locate(0, 0, grid.height, grid.width), width)
    for row, col, high, wide in ((0, 0, 1, 1), (3, 5, 1, 90), (7, 2, 50, 1), (11, 13, 64, 65), (100, 33, 33, 100)):
        part = numbers(pixels.locate(row, col, high, wide), width)
        np.testing.assert_array_equal(np.broadcast_to(part, (high, wide)), whole[row : row + high, col : col + wide])


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3035", "EPSG:32632"])
def test_the_box_in_another_system_holds_every_place_of_the_grid(crs):
    """Also where an edge bulges most between the points at which it is followed."""
    for grid in (STATE, web_mercator_grid((5.0, 45.0, 15.0, 55.0), 8, 256)):
        left, bottom, right, top = grid.bounds
        along = np.linspace(0, 1, 20_001)
        x = np.concatenate([left + along * (right - left)] * 2 + [np.full(20_001, left), np.full(20_001, right)])
        y = np.concatenate([np.full(20_001, top), np.full(20_001, bottom)] + [bottom + along * (top - bottom)] * 2)
        east, north = Transformer.from_crs(grid.crs, crs, always_xy=True).transform(x, y)
        (box,) = boxes_in(grid, PyprojCRS.from_user_input(crs))
        assert box[0] < east.min() and box[1] < north.min() and box[2] > east.max() and box[3] > north.max()


def test_longitudes_from_0_to_360_are_the_same_world():
    grid = web_mercator_grid((-75.0, 40.0, -74.9, 40.05), 12, 256)
    usual = PixelMap(grid, CRS.from_epsg(4326), from_origin(-180, 90, 0.01, 0.01), 18000, 36000)
    eastern = PixelMap(grid, CRS.from_epsg(4326), from_origin(0, 90, 0.01, 0.01), 18000, 36000)
    window = (0, 0, grid.height, grid.width)
    (rows, cols), (same_rows, east_cols) = usual.locate(*window), eastern.locate(*window)
    np.testing.assert_array_equal(rows, same_rows)
    assert ((east_cols - 18000) % 36000 == cols).all() and (cols >= 0).all()
