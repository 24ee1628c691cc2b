"""Rasters of the real world in their own coordinate systems: four bands, national grids, colour tables, no CRS."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio

from pipeline.acquire.imagery import download_imagery
from pipeline.acquire.raster import raster_grid
from pipeline.command import Log
from pipeline.config import RasterSource
from pipeline.errors import DataError
from pipeline.grid import Grid, web_mercator_grid

ROOT = os.environ.get("REAL_DATA_DIR")
DATA = Path(ROOT or ".")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(ROOT is None, reason="REAL_DATA_DIR is not set: the rasters are not at hand"),
]
NAIP = [DATA / "naip" / f"m_4709963_se_14_1_{day}.tif" for day in ("20180716", "20190904")]
FILES = {  # path → an x/y/z zoom whose pixels are smaller than the raster's
    "naip/m_4709963_se_14_1_20180716.tif": 15,
    "zurich/1091-322_00.tif": 19,
    "zurich/lake_shore.tif": 19,
    "massachusetts/22978945_15.tif": 18,
    "new_brunswick/23322E759967N_clipped_1m_1of2.tif": 19,
    "swellendam/swellendam_rgb_2.5m_4326.tif": 16,
}


def shard_of(folder: Path, path: Path | list[Path], grid: Grid, bands: list[int] | None = None):
    source = RasterSource(kind="raster", path=path, bands=bands)
    out = folder / "out.tif"
    arguments = (grid, grid.shards()[0], folder / "cache" / "r", out, folder / "m.json")
    manifest = download_imagery("aerial", source, *arguments, zoom=None, log=Log(folder / "log"))
    with rasterio.open(out) as raster:
        return manifest, raster.read(), raster.read_masks(1) > 0


@pytest.mark.parametrize("name", FILES)
def test_a_rasters_own_grid_is_copied(tmp_path, name):
    manifest, found, mask = shard_of(tmp_path, DATA / name, raster_grid(DATA / name, None, 256))
    with rasterio.open(DATA / name) as local:
        pixels = local.read()
        there = np.ones(pixels.shape[1:], bool) if local.nodata is None else (pixels != local.nodata).any(axis=0)
    assert manifest["resampled"] is False and np.array_equal(mask, there)
    assert np.array_equal(found, pixels * there)


@pytest.mark.parametrize("name", FILES)
def test_warped_pixels_are_those_of_the_place(tmp_path, name):
    """Against bilinear sampling with PROJ's exact coordinates and NumPy."""
    with rasterio.open(DATA / name) as local:
        pixels, crs, inverse = local.read().astype(float), local.crs.to_wkt(), ~local.transform
        there = np.ones(pixels.shape[1:], bool) if local.nodata is None else (pixels != local.nodata).any(axis=0)
        x, y = local.transform @ (local.width / 2, local.height / 2)
    lon, lat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    side = 200 * 156543.03 * np.cos(np.radians(lat)) / 2 ** FILES[name] / 111_320  # 200 pixels in degrees
    wide = side / np.cos(np.radians(lat))
    grid = web_mercator_grid((lon - wide, lat - side, lon + wide, lat + side), FILES[name], 65536)
    manifest, found, mask = shard_of(tmp_path, DATA / name, grid)
    assert manifest["resampled"] is True and manifest["bands"] == len(pixels)
    x, y = np.meshgrid(
        grid.left + grid.res_x * (np.arange(grid.width) + 0.5), grid.top - grid.res_y * (np.arange(grid.height) + 0.5)
    )
    x, y = pyproj.Transformer.from_crs("EPSG:3857", crs, always_xy=True).transform(x, y)
    col, row = inverse.a * x + inverse.c - 0.5, inverse.e * y + inverse.f - 0.5
    c, r = np.floor(col).astype(int), np.floor(row).astype(int)
    inner = (r >= 0) & (c >= 0) & (r < pixels.shape[1] - 1) & (c < pixels.shape[2] - 1)
    r, c = np.where(inner, r, 0), np.where(inner, c, 0)
    inner &= there[r, c] & there[r, c + 1] & there[r + 1, c] & there[r + 1, c + 1]
    assert inner.mean() > 0.9 and mask[inner].all()
    v, u = row - r, col - c
    want = (
        (1 - v) * ((1 - u) * pixels[:, r, c] + u * pixels[:, r, c + 1])
        + v * ((1 - u) * pixels[:, r + 1, c] + u * pixels[:, r + 1, c + 1])
    )  # fmt: skip
    error = np.abs(found - want)[:, inner]
    # GDAL approximates coordinates to an eighth of a pixel: at most that share of the step to the next pixel.
    step = np.abs(np.diff(pixels, axis=1)).max(initial=0)
    assert error.mean() < 0.6 and np.quantile(error, 0.99) < 0.1 * step


def test_two_years_of_one_tile_are_stacked(tmp_path):
    grid = raster_grid(NAIP[0], None, 256)
    manifest, found, mask = shard_of(tmp_path, NAIP, grid)
    assert manifest["bands"] == 8 and manifest["dtype"] == "uint8"
    for number, path in enumerate(NAIP):
        alone = shard_of(tmp_path, path, grid)
        assert np.array_equal(found[4 * number : 4 * number + 4], alone[1] * mask) and not (mask & ~alone[2]).any()
    chosen = shard_of(tmp_path, NAIP, grid, bands=[8, 1])[1]
    assert np.array_equal(chosen, found[[7, 0]])
    rows = (tmp_path / "m_tiles.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == sorted(map(str, NAIP)) and str(NAIP[0].stat().st_size) in rows[1]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dubai/tile_1/images/image_part_001.jpg", "has no coordinate system; give it the right one"),
        ("vaud/ls100_06.tif", "holds numbers of a colour table, no brightness"),
        ("osm/helsinki.osm.pbf", "is not readable as a raster|has no bands|no coordinate system"),
        ("new_brunswick/23322E759967N_clipped_1m_1of2.tif", "lies outside the region .*; check the region's bbox"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path, name, text):
    vaud = web_mercator_grid((6.5, 46.5, 6.6, 46.6), 12, 4096)
    with pytest.raises(DataError, match=text) as error:
        shard_of(tmp_path, DATA / name, vaud)
    assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"log"}


def test_a_grid_of_a_raster_without_crs_is_one_line():
    with pytest.raises(DataError, match=r"image_part_001\.jpg: has no coordinate system"):
        raster_grid(DATA / "dubai/tile_1/images/image_part_001.jpg", None, 256)


def test_a_cut_off_raster_is_one_line(tmp_path):
    whole = DATA / "zurich" / "1091-322_00.tif"
    grid = raster_grid(whole, None, 256)
    cut = tmp_path / "cut.tif"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(DataError, match=r"cut\.tif: is not readable as a raster"):
        shard_of(tmp_path, cut, grid)
    assert not list(tmp_path.glob("*out*"))
