"""Local rasters that do not have the grid's own pixels: sharp wherever they lie, and without what is no imagery."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from scipy.ndimage import map_coordinates

from pipeline.acquire.imagery import download_imagery
from pipeline.config import RasterSource
from pipeline.grid import Grid, web_mercator_grid
from tests.support.rasters import NORTH, RES, UTM, WEST, noise, write


def cut(folder, path, log, grid, bands=None):
    source, out = RasterSource(kind="raster", path=path, bands=bands), folder / "out.tif"
    shard = grid.shards()[0]
    manifest = download_imagery("x", source, grid, shard, folder / "c", out, folder / "m.json", zoom=None, log=log)
    with rasterio.open(out) as raster:
        return manifest, raster.read(), raster.read_masks(1) > 0


def utm_grid(height, width, res=RES, left=WEST, top=NORTH):
    return Grid(UTM, left, top, res, res, width, height, res, res, 8192)


@pytest.mark.parametrize(("lon", "lat"), [(39.0, 50.0), (41.9, 54.0), (41.9, -65.0)])
@pytest.mark.parametrize("coarser", [0.5, 1.0])
def test_a_raster_far_from_its_zones_meridian_stays_sharp(tmp_path, log, lon, lat, coarser):
    """Every pixel is the bilinear one of its place, also where the zone's north is not the grid's."""
    east, north = pyproj.Transformer.from_crs(4326, UTM, always_xy=True).transform(lon, lat)
    degrees = 0.004
    grid = web_mercator_grid((lon, lat - degrees, lon + 2 * degrees, lat), 17, 8192)
    res = grid.gsd_m / coarser
    pixels = noise(1, int(1600 / res), int(1600 / res), "float32")
    corner = Affine(res, 0, east - 400, 0, -res, north + 400)
    _, found, valid = cut(tmp_path, write(tmp_path / "a.tif", pixels, transform=corner), log, grid)
    x = grid.left + (np.arange(grid.width) + 0.5) * grid.res_x
    y = grid.top - (np.arange(grid.height) + 0.5) * grid.res_y
    cols, rows = ~corner @ pyproj.Transformer.from_crs(3857, UTM, always_xy=True).transform(*np.meshgrid(x, y))
    want = map_coordinates(pixels[0], [rows - 0.5, cols - 0.5], order=1)
    assert valid.all() and np.abs(found[0] - want).mean() < 0.5  # of 250: its approximation of places


def test_a_turned_raster_is_turned_and_not_blurred(tmp_path, log):
    pixels = noise(3, 200, 200)
    turned = Affine(0, RES, WEST, -RES, 0, NORTH)  # its columns go south, its rows east
    path = write(tmp_path / "a.tif", pixels.transpose(0, 2, 1).copy(), transform=turned)
    manifest, found, valid = cut(tmp_path, path, log, utm_grid(200, 200))
    assert manifest["resampled"] is True and valid.all() and np.array_equal(found, pixels)


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("float32", -9999.0), ("int16", -32768), ("float32", -3.4028234663852886e38)]
)
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_a_hole_of_the_heights_is_no_imagery(tmp_path, log, dtype, nodata, shift):
    """Colours, infrared and heights in one file: its nodata is no height, and none is mixed into the heights around."""
    pixels = noise(5, 80, 100, dtype)
    pixels[4, 20:40, 30:60] = nodata
    pixels[:, 60:] = nodata
    path = write(tmp_path / "a.tif", pixels, nodata=nodata)
    grid = utm_grid(80, 99, left=WEST + shift * RES)
    _, found, valid = cut(tmp_path, path, log, grid)
    hole = np.zeros((80, 99), bool)
    hole[20:40, 30:60], hole[60:] = True, True
    edge = np.zeros_like(hole)
    edge[20:40, 29] = edge[20:40, 59] = shift > 0
    assert np.array_equal(valid[~edge], ~hole[~edge])
    assert found[:, valid].min() >= 1 and not found[:, ~valid].any()
    if not shift:
        assert np.array_equal(found[:, valid], pixels[:, :, :99][:, valid])
    colours = cut(tmp_path, path, log, grid, bands=[1, 2, 3])[2]
    assert colours[:60].all() and not colours[60:].any()


def test_a_nodata_that_is_a_brightness_counts_where_all_bands_have_it(tmp_path, log):
    """Zero in the infrared is water, not a hole, in files of floats too."""
    pixels = noise(4, 40, 50, "float32")
    pixels[3, 10:20] = 0
    pixels[:, 30:] = 0
    path = write(tmp_path / "a.tif", pixels, nodata=0)
    for shift in (0.0, 0.5):
        _, _, valid = cut(tmp_path, path, log, utm_grid(40, 49, left=WEST + shift * RES))
        assert valid[:30].all() and not valid[30:].any()
