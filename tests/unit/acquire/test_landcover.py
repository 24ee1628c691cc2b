"""Land cover onto a grid, against nearest neighbours computed with pyproj alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from pyproj import Transformer

from pipeline.acquire import landcover
from pipeline.acquire.landcover import warp_landcover
from pipeline.command import Log
from pipeline.config import ClassScheme, LandcoverConfig
from pipeline.errors import DataError
from pipeline.grid import web_mercator_grid

SCHEME = ClassScheme.model_validate(
    {
        "classes": [
            {"index": 0, "name": "forest", "colour": (4, 135, 29)},
            {"index": 1, "name": "fields", "colour": (231, 231, 25)},
            {"index": 2, "name": "water", "colour": (14, 10, 214)},
        ]
    }
)
MEANING = {10: "forest", 20: "fields", 30: "water"}
BBOX = (8.0, 50.0, 8.01, 50.006)
GRID = web_mercator_grid(BBOX, 17, 256)
RES = 0.0003  # degrees, about 21 m by 33 m: 25 times the grid's pixel
SHAPE = (30, 40)


def source(path, values, crs="EPSG:4326", west=8.0 - 3 * RES, north=50.006 + 4 * RES, nodata=None):
    values = np.asarray(values)
    options = {"crs": crs, "transform": rasterio.Affine(RES, 0, west, 0, -RES, north), "nodata": nodata}
    height, width = values.shape
    with rasterio.open(path, "w", "GTiff", width, height, 1, dtype=values.dtype, **options) as raster:
        raster.write(values, 1)
    return path


def random_values(dtype=np.uint8):
    return np.random.default_rng(3).choice([10, 20, 30], SHAPE).astype(dtype)


def warp(tmp_path, path, **settings):
    config = LandcoverConfig.model_validate({"path": path, "classes": MEANING, **settings})
    out = tmp_path / "out" / "landcover.tif"
    cache, summary = tmp_path / "cache", tmp_path / "out" / "summary.json"
    found = warp_landcover("cover", config, SCHEME, GRID, cache, out, summary, log=Log())
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == found
    with rasterio.open(out) as raster:
        return raster.read(1), found, (raster.profile, raster.colormap(1))


def nearest(values, west=8.0 - 3 * RES, north=50.006 + 4 * RES):
    """(class per grid pixel or 255 outside, whether the pixel is clear of the source's pixel edges)."""
    cols, rows = np.meshgrid(np.arange(GRID.width) + 0.5, np.arange(GRID.height) + 0.5)
    to_deg = Transformer.from_crs("EPSG:3857", "EPSG:4326", always_xy=True)
    lon, lat = to_deg.transform(GRID.left + cols * GRID.res_x, GRID.top - rows * GRID.res_y)
    x, y = (lon - west) / RES, (north - lat) / RES
    height, width = values.shape
    inside = (x > 0) & (x < width) & (y > 0) & (y < height)
    picked = values[np.clip(y.astype(int), 0, height - 1), np.clip(x.astype(int), 0, width - 1)]
    classes = np.select([picked == value for value in MEANING], range(len(MEANING)), 255)
    clear = (np.abs(x - np.round(x)) > 0.02) & (np.abs(y - np.round(y)) > 0.02)
    return np.where(inside, classes, 255).astype(np.uint8), clear


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_every_pixel_is_the_nearest_source_pixel(tmp_path, dtype):
    values = random_values(dtype)
    band, found, (profile, colours) = warp(tmp_path, source(tmp_path / "lc.tif", values))
    expected, clear = nearest(values)
    assert band.shape == (GRID.height, GRID.width)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(band[clear], expected[clear])
    assert (profile["dtype"], profile["nodata"], profile["crs"].to_epsg()) == ("uint8", 255, 3857)
    assert (profile["blockxsize"], profile["compress"]) == (256, "deflate")
    assert profile["transform"] == rasterio.Affine(*GRID.transform())
    assert colours[2][:3] == (14, 10, 214)
    for index, name in enumerate(SCHEME.names):
        assert found["classes"][name]["pixels"] == (band == index).sum()
        assert found["classes"][name]["share"] == pytest.approx((band == index).mean())


def test_blocks_do_not_show(tmp_path, monkeypatch):
    path = source(tmp_path / "lc.tif", random_values())
    whole, _, _ = warp(tmp_path, path)
    monkeypatch.setattr(landcover, "BLOCK_PX", 96)
    pieces, _, _ = warp(tmp_path, path)
    np.testing.assert_array_equal(whole, pieces)


@pytest.mark.parametrize("nodata", [None, 0, 99])
def test_outside_nodata_and_ignored_values_become_255(tmp_path, nodata):
    values = random_values()
    values[10:12] = 77
    values[14:15] = 0 if nodata is None else nodata
    west = 8.005  # the source covers the eastern half only
    path = source(tmp_path / "lc.tif", values, west=west, nodata=nodata)
    band, found, _ = warp(tmp_path, path, ignore=[0, 77])
    expected, clear = nearest(values, west=west)
    np.testing.assert_array_equal(band[clear], expected[clear])
    assert (band == 255).mean() > 0.5
    assert set(found["values"]) == {"10", "20", "30", "77"} | ({"0"} if nodata is None else set())
    assert sum(entry["pixels"] for entry in found["values"].values()) + found["outside"] == band.size


def test_nan_is_nodata(tmp_path):
    values = random_values(np.float32)
    values[12] = np.nan
    band, _, _ = warp(tmp_path, source(tmp_path / "lc.tif", values, nodata=np.nan))
    expected, clear = nearest(values)
    np.testing.assert_array_equal(band[clear], expected[clear])


def test_unknown_value_is_named_with_its_share(tmp_path):
    values = random_values()
    values[:, 18:20] = 42
    path = source(tmp_path / "lc.tif", values)
    columns = 2 * RES / (GRID.res_x * 360 / 40075016.685578488) / GRID.width
    with pytest.raises(DataError, match=r"lc\.tif.*value 42 \(([\d.]+)%.*`classes` or `ignore`") as caught:
        warp(tmp_path, path)
    share = float(str(caught.value).split("42 (")[1].split("%")[0])
    assert share == pytest.approx(100 * columns, rel=0.03)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def flat(path):
    transform = rasterio.Affine(0, 0, 8.0, 0, 0, 50.0)
    with rasterio.open(path, "w", "GTiff", 9, 9, 1, dtype="uint8", crs="EPSG:4326", transform=transform) as raster:
        raster.write(np.full((1, 9, 9), 10, np.uint8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path, "does not exist"),
        (lambda path: path.write_bytes(b"no raster"), "is not readable as a raster"),
        (lambda path: source(path, random_values(), crs=None), "no coordinate system"),
        (
            lambda path: source(path, random_values(), west=20.0),
            r"lc\.tif: has no data in the region \[8\.000000, 49\.99999\d, 8\.01001\d, 50\.006001\] "
            r"\(west, south, east, north\); it covers \[20\.000000, 49\.998200, 20\.012000, 50\.007200\]$",
        ),
        (
            lambda path: source(path, random_values(), crs="EPSG:32632", west=500_000.0, north=5_540_000.0),
            r"has no data in the region \[8\.000000, .*; it covers \[9\.000000, 50\.01\d+, 9\.000000, 50\.01\d+\]$",
        ),
        (lambda path: source(path, random_values(), nodata=10), "value 10 is the file's nodata"),
        (flat, "its pixels have no size"),
    ],
)
def test_unusable_source_is_one_clear_error(tmp_path, make, message):
    path = tmp_path / "lc.tif"
    make(path)
    with pytest.raises(DataError, match=message) as caught:
        warp(tmp_path, path)
    assert "lc.tif" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_damaged_blocks_are_one_clear_error(tmp_path):
    path = source(tmp_path / "lc.tif", random_values())
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(DataError, match=r"lc\.tif"):
        warp(tmp_path, path)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_an_alpha_band_says_where_there_is_no_data(tmp_path, dtype):
    values = random_values(dtype)
    path = tmp_path / "lc.tif"
    options = {"crs": "EPSG:4326", "transform": rasterio.Affine(RES, 0, 8.0 - 3 * RES, 0, -RES, 50.006 + 4 * RES)}
    options |= {"photometric": "MINISBLACK", "alpha": "YES"}
    height, width = values.shape
    with rasterio.open(path, "w", "GTiff", width, height, 2, dtype=dtype, **options) as raster:
        alpha = np.ones_like(values)
        alpha[10:14] = 0
        raster.write(np.stack([values, alpha]))
    band, _, _ = warp(tmp_path, path)
    values[10:14] = 0
    expected, clear = nearest(values)
    np.testing.assert_array_equal(band[clear], expected[clear])
    assert 0.05 < (band == 255).mean() < 0.5


@pytest.mark.parametrize("crs", ['LOCAL_CS["site",UNIT["metre",1]]', "EPSG:4978"])
def test_a_coordinate_system_that_is_no_map_is_one_clear_line(tmp_path, crs):
    with pytest.raises(DataError, match=r"lc\.tif: its coordinate system .* neither geographic nor projected"):
        warp(tmp_path, source(tmp_path / "lc.tif", random_values(), crs=crs))
