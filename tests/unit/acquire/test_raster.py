"""Local rasters onto the grid."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine

from pipeline.acquire.imagery import download_imagery
from pipeline.acquire.raster import raster_grid
from pipeline.acquire.shards import Mosaic
from pipeline.config import RasterSource
from pipeline.errors import DataError, PipelineError
from pipeline.grid import Grid, mercator_gsd_m, web_mercator_grid
from tests.support.rasters import NORTH, RES, UTM, WEST, noise, write


def cut(folder, path, log, grid=None, bands=None, shard=None):
    grid = grid or raster_grid(path, None, 256)
    shard = shard or grid.shards()[0]
    out = folder / f"{shard.name}.out.tif"
    source = RasterSource(kind="raster", path=path, bands=bands)
    manifest = download_imagery(
        "aerial", source, grid, shard, folder, out, folder / "manifest.json", zoom=None, log=log
    )
    with rasterio.open(out) as raster:
        return manifest, raster.read(), raster.read_masks(1), out


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_rasters_own_grid_is_copied(tmp_path, log, dtype):
    pixels = noise(4, 300, 530, dtype)
    manifest, found, mask, out = cut(tmp_path, write(tmp_path / "a.tif", pixels), log)
    assert found.dtype == dtype and np.array_equal(found, pixels) and (mask == 255).all()
    assert manifest["resampled"] is False and manifest["share_missing"] == 0
    with rasterio.open(out) as raster:
        assert raster.crs.to_epsg() == 32637 and raster.transform == Affine(RES, 0, WEST, 0, -RES, NORTH)
        assert rasterio.enums.ColorInterp.alpha not in raster.colorinterp


def test_bands_are_taken_in_the_order_asked_for(tmp_path, log):
    pixels = noise(4, 40, 50)
    path = write(tmp_path / "a.tif", pixels)
    assert np.array_equal(cut(tmp_path, path, log, bands=[4, 1])[1], pixels[[3, 0]])
    with pytest.raises(DataError, match=r"bands: 5 does not exist; .* has 1 to 4"):
        cut(tmp_path, path, log, bands=[5])


def test_nodata_counts_where_all_bands_have_it(tmp_path, log):
    pixels = noise(3, 40, 50)
    pixels[:, :10] = 0
    pixels[0, 20:30] = 0
    pixels[1:, 30:35] = 0
    _, found, mask, _ = cut(tmp_path, write(tmp_path / "a.tif", pixels, nodata=0), log)
    assert np.array_equal(mask == 0, np.broadcast_to(np.arange(40)[:, None] < 10, (40, 50)))
    assert np.array_equal(found, pixels)
    only_first = cut(tmp_path, tmp_path / "a.tif", log, bands=[1])[2]
    assert np.array_equal(only_first, mask)


def test_nodata_pixels_are_written_as_zero(tmp_path, log):
    pixels = noise(2, 40, 50, "int16")
    pixels[:, 5:9] = -9999
    manifest, found, mask, _ = cut(tmp_path, write(tmp_path / "a.tif", pixels, nodata=-9999), log)
    assert (mask[5:9] == 0).all() and not found[:, 5:9].any() and manifest["share_missing"] == 0.1


def test_nan_is_no_imagery(tmp_path, log):
    pixels = noise(2, 40, 50, "float32")
    pixels[0, 3, 4] = pixels[1, 7, 8] = np.nan
    _, found, mask, _ = cut(tmp_path, write(tmp_path / "a.tif", pixels), log)
    assert np.argwhere(mask == 0).tolist() == [[3, 4], [7, 8]] and np.isfinite(found).all()


@pytest.mark.parametrize("kind", ["alpha", "mask"])
def test_alpha_and_mask_bands_are_the_validity(tmp_path, log, kind):
    pixels, hole = noise(4, 40, 50), np.full((40, 50), 255, np.uint8)
    hole[10:20, 15:] = 0
    if kind == "alpha":
        pixels[3] = hole
        path = write(tmp_path / "a.tif", pixels, alpha=True)
    else:
        pixels = pixels[:3]
        path = write(tmp_path / "a.tif", pixels, mask=hole)
    _, found, mask, _ = cut(tmp_path, path, log)
    assert found.shape == (3, 40, 50) and np.array_equal(mask, hole)
    assert np.array_equal(found, pixels[:3] * (hole > 0))
    own = raster_grid(path, None, 256)  # half a pixel off: warped, each pixel between its four neighbours
    shifted = Grid(**{**own.__dict__, "left": own.left + 1, "top": own.top - 1, "width": 49, "height": 39})
    manifest, found, mask, _ = cut(tmp_path, path, log, shifted)
    assert manifest["resampled"] is True and found.shape == (3, 39, 49)
    assert (mask[:9] == 255).all() and (mask[:, :14] == 255).all() and not mask[10:19, 15:].any()
    assert not found[:, 10:19, 15:].any() and found[:, :9].all()


DTYPES = ["uint8", "int8", "uint16", "int16", "float32"]


def holed(folder, dtype, kind):
    """A raster 0.2 of which (20 of its columns) is without imagery, told by nodata, NaN, an alpha band or a mask."""
    pixels = np.minimum(noise(4, 100, 100), 99).astype(dtype)
    path, hole = folder / "a.tif", np.arange(100) < 20
    if kind == "nodata":
        pixels[:, :, hole] = 0
        return write(path, pixels, nodata=0), pixels[:3]
    if kind == "nan":
        pixels[:, :, hole] = np.nan
        return write(path, pixels, nodata=np.nan), pixels[:3]
    if kind == "mask":
        return write(path, pixels, mask=np.where(np.tile(hole, (100, 1)), 0, 255).astype(np.uint8)), pixels[:3]
    pixels[3] = np.where(hole, 0, int(kind.removeprefix("alpha ")))
    return write(path, pixels, alpha=True), pixels[:3]


KINDS = [(dtype, kind) for dtype in DTYPES for kind in ("nodata", "mask", "alpha 1", "alpha 127")]
KINDS += [("float32", "nan"), ("uint8", "alpha 255"), ("int16", "alpha 32767"), ("uint16", "alpha 65535")]


@pytest.mark.parametrize(("dtype", "kind"), KINDS)
@pytest.mark.parametrize("how", ["copied", "warped"])
def test_validity_is_kept_whatever_the_dtype(tmp_path, log, dtype, kind, how):
    path, pixels = holed(tmp_path, dtype, kind)
    own = raster_grid(path, None, 256)
    # 25 pixels more on each side, which the raster does not reach; warped: half a pixel off its lattice.
    shift = 0.0 if how == "copied" else 0.5 * RES
    larger = {"left": own.left - 25 * RES + shift, "top": own.top + 25 * RES - shift, "width": 150, "height": 150}
    grid = Grid(**{**own.__dict__, **larger})
    manifest, found, mask, _ = cut(tmp_path, path, log, grid, bands=[1, 2, 3])
    assert manifest["resampled"] is (how == "warped") and found.dtype == dtype
    there = np.zeros((150, 150), bool)
    there[25:125, 45:125] = True
    if how == "copied":
        assert np.array_equal(mask > 0, there)
        want = np.zeros((3, 150, 150), dtype)
        want[:, 25:125, 45:125] = pixels[:, :, 20:]
        assert np.array_equal(found, want)
        assert manifest["share_missing"] == pytest.approx(1 - 0.8 * 100**2 / 150**2, abs=1e-6)
        return
    edge = np.zeros_like(there)  # where a pixel lies half on imagery and half on none
    edge[23:127, 43:127] = True
    edge[27:123, 47:123] = False
    assert np.array_equal((mask > 0)[~edge], there[~edge])
    assert not found[:, mask == 0].any()
    inner = there & ~edge
    four = sum(np.pad(pixels.astype(float), ((0, 0), (25, 25), (25, 25)))[:, i : 150 + i - 1, j : 150 + j - 1]
               for i in (0, 1) for j in (0, 1)) / 4  # fmt: skip
    inner[-1], inner[:, -1] = False, False
    rounding = 1e-3 if dtype == "float32" else 0.501
    assert np.abs(found[:, inner] - four[:, inner[:-1, :-1]]).max() <= rounding


def test_an_int16_raster_does_not_cover_a_larger_grid(tmp_path, log):
    """300 by 300 pixels of 2 m on 10 km²: nearly everything is missing."""
    path = write(tmp_path / "a.tif", noise(1, 300, 300, "int16"))
    to_lonlat = pyproj.Transformer.from_crs(UTM, 4326, always_xy=True)
    west, north = to_lonlat.transform(WEST - 1300, NORTH + 1300)
    east, south = to_lonlat.transform(WEST + 1900, NORTH - 1900)
    grid = as_one_shard(web_mercator_grid((west, south, east, north), 17, 256))
    manifest, _, mask, _ = cut(tmp_path, path, log, grid)
    geod = pyproj.Geod(ellps="WGS84")
    box_m2 = geod.inv(west, north, east, north)[2] * geod.inv(west, north, west, south)[2]
    assert manifest["share_missing"] == pytest.approx(1 - 600**2 / box_m2, abs=1e-3)
    assert (mask == 0).mean() == pytest.approx(manifest["share_missing"], abs=1e-6)


@pytest.mark.parametrize(("wide", "warned"), [(99, True), (101, False)])
def test_a_shard_mostly_without_imagery_is_warned_of(tmp_path, log, wide, warned):
    path = write(tmp_path / "a.tif", noise(1, 100, wide))
    grid = Grid(**{**raster_grid(path, None, 256).__dict__, "width": 200})
    manifest = cut(tmp_path, path, log, grid)[0]
    assert manifest["share_missing"] == pytest.approx(1 - wide / 200)
    found = [line for line in log.lines if line.startswith("warning: ")]
    assert len(found) == warned
    if warned:
        assert "aerial, shard r00c00: 50.5% of the shard is without imagery" in found[0] and "\n" not in found[0]


def test_a_colour_table_is_refused(tmp_path, log):
    path = tmp_path / "a.tif"
    write(path, noise(1, 40, 50), photometric="PALETTE")
    with rasterio.open(path, "r+") as raster:
        raster.write_colormap(1, {value: (value, 255 - value, 7, 255) for value in range(256)})
    grid = raster_grid(path, None, 256)
    for bands in (None, [1]):
        with pytest.raises(DataError, match=r"'aerial': .*a\.tif: band 1 .*gdal_translate -expand rgb") as caught:
            cut(tmp_path, path, log, grid, bands=bands)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "r00c00.out.tif").exists()


LOCAL = 'LOCAL_CS["site",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'


@pytest.mark.parametrize("crs", [LOCAL, "EPSG:4978", "IAU_2015:30100"])
def test_a_coordinate_system_without_a_place_on_earths_map_is_one_clear_line(tmp_path, log, warped_grid, crs):
    path = write(tmp_path / "a.tif", noise(1, 40, 50), crs=crs)
    for attempt in (
        lambda: raster_grid(path, None, 256),
        lambda: raster_grid(path, (39.0, 36.0, 39.1, 36.1), 256),
        lambda: cut(tmp_path, path, log, warped_grid),
    ):
        with pytest.raises(DataError, match=r"a\.tif: its coordinate system .*gdal_edit") as caught:
            attempt()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("crs", ["EPSG:32637+5773", "EPSG:4326", "EPSG:4979", "EPSG:3995"])
def test_compound_geographic_and_polar_systems_are_fine(tmp_path, crs):
    res = 0.001 if crs in ("EPSG:4326", "EPSG:4979") else RES
    path = write(tmp_path / "a.tif", noise(1, 40, 50), crs, Affine(res, 0, 39, 0, -res, 36))
    assert raster_grid(path, None, 256).width == 50


def ramp(height, width):
    """Pixels whose value is their easting and northing, metres from the corner."""
    east = (np.arange(width) + 0.5) * RES
    north = (np.arange(height) + 0.5) * RES
    return np.stack(np.broadcast_arrays(east[None, :], north[:, None])).astype("float32")


@pytest.fixture
def warped_grid():
    to_lonlat = pyproj.Transformer.from_crs(UTM, 4326, always_xy=True)
    west, north = to_lonlat.transform(WEST + 100, NORTH - 100)
    east, south = to_lonlat.transform(WEST + 900, NORTH - 700)
    return web_mercator_grid((west, south, east, north), 16, 256)


def test_warping_puts_every_pixel_on_its_place(tmp_path, log, warped_grid):
    path = write(tmp_path / "a.tif", ramp(400, 500))
    grid = warped_grid
    assert len(grid.shards()) == 4
    paths = {s.name: cut(tmp_path, path, log, grid, shard=s)[3] for s in grid.shards()}
    with Mosaic(paths, grid) as mosaic:
        pixels, valid = mosaic.read(0, 0, grid.height, grid.width)
    x = grid.left + (np.arange(grid.width) + 0.5) * grid.res_x
    y = grid.top - (np.arange(grid.height) + 0.5) * grid.res_y
    east, north = pyproj.Transformer.from_crs(3857, UTM, always_xy=True).transform(*np.meshgrid(x, y))
    assert valid.all()
    error_px = np.hypot(pixels[0] - (east - WEST), pixels[1] - (NORTH - north)) / RES
    assert error_px.max() < 0.13  # GDAL's approximation of the transformation may be off by an eighth of a pixel
    whole = as_one_shard(grid)
    one = cut(tmp_path, path, log, whole)[1]
    assert np.array_equal(one, pixels)


def as_one_shard(grid):
    return Grid(**{**grid.__dict__, "shard_px": 4096})


def test_warping_does_not_mix_in_what_is_not_there(tmp_path, log, warped_grid):
    pixels = np.full((3, 400, 500), 200, "uint8")
    pixels[:, :, 250:] = 0
    pixels[1, :200, :] = 0  # a real zero in one band
    path = write(tmp_path / "a.tif", pixels, nodata=0)
    _, found, mask, _ = cut(tmp_path, path, log, as_one_shard(warped_grid))
    valid = mask > 0
    assert 0.3 < valid.mean() < 0.7
    assert (found[0][valid] == 200).all() and (found[2][valid] == 200).all()
    assert {0, 200} < set(np.unique(found[1][valid]))  # and between them where zeros and values mix
    assert not found[:, ~valid].any()
    x = warped_grid.left + (np.arange(warped_grid.width) + 0.5) * warped_grid.res_x
    y = warped_grid.top - (np.arange(warped_grid.height) + 0.5) * warped_grid.res_y
    east, _ = pyproj.Transformer.from_crs(3857, UTM, always_xy=True).transform(*np.meshgrid(x, y))
    column = (east - WEST) / RES
    assert valid[column < 249].all() and not valid[column > 251].any()


def test_a_grid_larger_than_the_raster_is_filled_with_missing(tmp_path, log):
    pixels = noise(1, 40, 50)
    path = write(tmp_path / "a.tif", pixels)
    own = raster_grid(path, None, 256)
    grid = Grid(**{**own.__dict__, "left": own.left - 10 * RES, "top": own.top + 5 * RES, "width": 300, "height": 290})
    grid = as_one_shard(grid)
    manifest, found, mask, _ = cut(tmp_path, path, log, grid)
    want = np.zeros((1, 290, 300), np.uint8)
    want[:, 5:45, 10:60] = pixels
    assert manifest["resampled"] is False
    assert np.array_equal(found, want) and np.array_equal(mask > 0, want[0] > 0)


@pytest.mark.parametrize("lat", [0.0, 45.0, 70.0])
def test_metres_per_pixel_are_geodesic(tmp_path, lat):
    degree = 1e-4
    path = write(
        tmp_path / "a.tif", noise(1, 20, 30), "EPSG:4326", Affine(degree, 0, 12.0, 0, -degree, lat + 10 * degree)
    )
    grid = raster_grid(path, None, 256)
    a, e2, phi = 6378137.0, 0.0066943799901413165, np.radians(lat)
    w2 = 1 - e2 * np.sin(phi) ** 2
    assert grid.gsd_x_m == pytest.approx(np.radians(degree) * a * np.cos(phi) / w2**0.5, rel=1e-6)
    assert grid.gsd_y_m == pytest.approx(np.radians(degree) * a * (1 - e2) / w2**1.5, rel=1e-6)
    web = web_mercator_grid((12.0, lat, 12.01, lat + 0.01), 17, 256)
    path = write(tmp_path / "b.tif", noise(1, 20, 30), "EPSG:3857", Affine(*web.transform()))
    grid = raster_grid(path, None, 256)
    centre_lat = pyproj.Transformer.from_crs(3857, 4326, always_xy=True).transform(
        web.left, grid.top - 10 * grid.res_y
    )[1]
    assert (grid.gsd_x_m, grid.gsd_y_m) == pytest.approx(mercator_gsd_m(17, centre_lat), rel=1e-6)


def test_a_bbox_crops_to_whole_pixels_as_one_shard(tmp_path, log):
    pixels = noise(1, 400, 700)
    path = write(tmp_path / "a.tif", pixels, "EPSG:4326", Affine(0.001, 0, 10, 0, -0.001, 50))
    grid = raster_grid(path, (10.0505, 49.9, 10.1, 49.9595), 16)
    assert (grid.left, grid.top, grid.width, grid.height) == pytest.approx((10.05, 49.96, 50, 60))
    assert [shard.name for shard in grid.shards()] == ["r00c00"]
    assert np.array_equal(cut(tmp_path, path, log, grid)[1], pixels[:, 40:100, 50:100])
    whole = raster_grid(path, (9.0, 40.0, 60.0, 49.9), 16)
    assert (whole.left, whole.top, whole.width, whole.height) == pytest.approx((10, 49.9, 700, 300))


def test_what_cannot_be_a_grid_is_one_clear_line(tmp_path):
    pixels = noise(1, 40, 50)
    good = write(tmp_path / "a.tif", pixels)
    with pytest.raises(DataError, match=r"bbox \[1.*lies outside .*a\.tif, which covers"):
        raster_grid(good, (1.0, 1.0, 2.0, 2.0), 256)
    turned = Affine(1.9, 0.6, WEST, 0.6, -1.9, NORTH)
    with pytest.raises(DataError, match="north-up"):
        raster_grid(write(tmp_path / "b.tif", pixels, transform=turned), None, 256)
    with pytest.raises(DataError, match="north-up"):
        raster_grid(write(tmp_path / "c.tif", pixels, transform=Affine(RES, 0, WEST, 0, RES, NORTH)), None, 256)
    with pytest.raises(DataError, match="has no coordinate system"):
        raster_grid(write(tmp_path / "d.tif", pixels, crs=None), None, 256)
    (tmp_path / "e.tif").write_bytes(good.read_bytes()[:100])
    with pytest.raises(DataError, match=r"e\.tif: is not readable"):
        raster_grid(tmp_path / "e.tif", None, 256)
    with pytest.raises(DataError, match="does not exist"):
        raster_grid(tmp_path / "f.tif", None, 256)


def test_a_source_that_does_not_fit_is_one_clear_line(tmp_path, log, warped_grid):
    pixels = noise(1, 40, 50)
    with pytest.raises(DataError, match="has no coordinate system"):
        cut(tmp_path, write(tmp_path / "a.tif", pixels, crs=None), log, warped_grid)
    far = write(tmp_path / "b.tif", pixels, transform=Affine(RES, 0, WEST, 0, -RES, NORTH - 90_000))
    words = (
        r"b\.tif, which covers \[39\.0000.* \(west, south, east, north\), lies outside the region \[39\.001\d+, 36\.13"
    )
    with pytest.raises(DataError, match=words):
        cut(tmp_path, far, log, warped_grid)
    good = write(tmp_path / "c.tif", noise(1, 600, 600), tiled=True, blockxsize=256, blockysize=256, compress="deflate")
    grid = raster_grid(good, None, 256)
    raw = good.read_bytes()
    good.write_bytes(raw[: len(raw) // 2] + bytes(len(raw) // 4) + raw[len(raw) * 3 // 4 :])
    with pytest.raises(DataError, match=r"c\.tif: is not readable"):
        cut(tmp_path, good, log, grid)
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name or "out" in path.name] == []


FLAT = """
import resource, sys
from pathlib import Path
from pipeline.acquire.raster import raster_grid
from pipeline.acquire.windowed import download_windowed
from pipeline.command import Log
from pipeline.config import RasterSource
path = Path(sys.argv[1])
grid = raster_grid(path, None, 256)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = RasterSource(kind="raster", path=path)
download_windowed("a", source, grid, grid.shards()[0], path.parent / "cache", path.with_name("out.tif"), Log())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_stays_at_a_strip(tmp_path):
    path = tmp_path / "big.tif"
    size = {"height": 20_000, "width": 6_000, "count": 3, "dtype": "uint8"}  # 360 MB of pixels
    transform = Affine(RES, 0, WEST, 0, -RES, NORTH)
    with rasterio.open(path, "w", "GTiff", crs=UTM, transform=transform, tiled=True, sparse_ok=True, **size):
        pass
    result = subprocess.run([sys.executable, "-c", FLAT, str(path)], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 150_000  # KiB: 64 MiB of GDAL's block cache, strips of 4.6 MB and their copies


# --- stacks ------------------------------------------------------------------------------------------------------


def stack_of(folder, paths, log, grid, bands=None):
    out = folder / "stack.out.tif"
    source = RasterSource(kind="raster", path=paths, bands=bands)
    shard = grid.shards()[0]
    manifest = download_imagery("x", source, grid, shard, folder / "c", out, folder / "m.json", zoom=None, log=log)
    with rasterio.open(out) as raster:
        return manifest, raster.read(), raster.read_masks(1)


def test_a_height_model_is_stacked_onto_an_orthophoto(tmp_path, log):
    """Four bands of 8 bits and one of 32-bit floats on a coarser grid: five bands of float32."""
    photo, heights = noise(4, 80, 100), noise(1, 50, 60, "float32") + np.float32(0.25)
    photo[:, :10], heights[:, :, -12:] = 0, -9999
    first = write(tmp_path / "rgbn.tif", photo, nodata=0)
    wide = Affine(2 * RES, 0, WEST, 0, -2 * RES, NORTH)
    second = write(tmp_path / "dsm.tif", heights, transform=wide, nodata=-9999)
    grid = raster_grid(first, None, 256)
    manifest, found, mask = stack_of(tmp_path, [first, second], log, grid)
    assert (manifest["bands"], manifest["dtype"], manifest["resampled"]) == (5, "float32", True)
    edge = np.zeros((80, 100), bool)
    edge[:, 94:98] = True  # half a coarse pixel around the last one with a height
    assert np.array_equal((mask > 0)[~edge], ((np.arange(80) >= 10)[:, None] & (np.arange(100) < 96))[~edge])
    assert np.array_equal(found[:4], photo.astype(np.float32) * (mask > 0))
    inner = found[4][20:60, 20:80]  # bilinear between pixel centres: a quarter of the neighbour on each axis
    rows, cols = np.arange(20, 60), np.arange(20, 80)
    near_row, near_col = rows // 2, cols // 2
    far_row, far_col = near_row + np.where(rows % 2, 1, -1), near_col + np.where(cols % 2, 1, -1)
    z = heights[0].astype(float)
    want = (
        9 * z[np.ix_(near_row, near_col)] + 3 * z[np.ix_(near_row, far_col)] + 3 * z[np.ix_(far_row, near_col)]
        + z[np.ix_(far_row, far_col)]
    ) / 16  # fmt: skip
    assert np.abs(inner - want).max() < 1e-3
    rows = (tmp_path / "m_tiles.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [str(second), str(first)]
    assert np.array_equal(stack_of(tmp_path, [first, second], log, grid, bands=[5, 1])[1], found[[4, 0]])
    with pytest.raises(DataError, match=r"bands: 6 does not exist; \S+rgbn\.tif, \S+dsm\.tif has 1 to 5"):
        stack_of(tmp_path, [first, second], log, grid, bands=[6])


DTYPE_PAIRS = [("uint8", "uint16", "uint16"), ("uint16", "int16", "int32"), ("int8", "uint8", "int16")]


@pytest.mark.parametrize(("first", "second", "both"), DTYPE_PAIRS)
def test_a_stack_has_a_dtype_that_holds_all_bands(tmp_path, log, first, second, both):
    low, high = noise(1, 20, 20, "uint8") // 2, noise(2, 20, 20, "uint8")
    paths = [write(tmp_path / "a.tif", low.astype(first)), write(tmp_path / "b.tif", high.astype(second))]
    manifest, found, _ = stack_of(tmp_path, paths, log, raster_grid(paths[0], None, 256))
    assert manifest["dtype"] == both and np.array_equal(found, np.concatenate([low, high]).astype(both))


def test_a_stack_whose_files_lie_apart_is_one_line(tmp_path, log):
    one = write(tmp_path / "a.tif", noise(1, 20, 20))
    two = write(tmp_path / "b.tif", noise(1, 20, 20), transform=Affine(RES, 0, WEST + 9000, 0, -RES, NORTH))
    with pytest.raises(
        DataError, match=r"b\.tif, which covers \[39\.10004\d, .* lies outside the region \[39\.000000, "
    ):
        stack_of(tmp_path, [one, two], log, raster_grid(one, None, 256))


# --- around the world --------------------------------------------------------------------------------------------


def smooth(lon, lat):
    """A brightness that is a function of the place on Earth."""
    return 50 * np.cos(np.radians(lon)) + 30 * np.sin(np.radians(lon)) + 50 * np.sin(np.radians(lat)) + 100


def painted(path, crs, left, top, res, width=800, height=800):
    """A raster whose pixels are `smooth` of where they lie."""
    x, y = np.meshgrid(left + res * (np.arange(width) + 0.5), top - res * (np.arange(height) + 0.5))
    to_degrees = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    pixels = smooth(*to_degrees.transform(x, y))[None].astype(np.float32)
    return write(path, pixels, crs, Affine(res, 0, left, 0, -res, top))


HALF = 20037508.342789244
AROUND = {  # coordinate system, left, top, resolution, width, height: all about 180 degrees at 18 degrees north
    "world": ("EPSG:4326", -180, 90, 0.1, 3600, 1800),
    "utm 60": ("EPSG:32660", 700_000, 2e6, 200, 800, 800),
    "past 180": ("EPSG:4326", 179.2, 18.1, 0.002, 800, 800),
    "before -180": ("EPSG:4326", -180.8, 18.1, 0.002, 800, 800),
    "past the world's edge": ("EPSG:3857", HALF - 80_000, 2.05e6, 200, 800, 800),
}
GRIDS = {
    "x/y/z": ("EPSG:3857", HALF - 20_000, 2.0e6, 100),
    "x/y/z, west": ("EPSG:3857", -HALF - 20_000, 2.0e6, 100),
    "degrees": ("EPSG:4326", 179.9, 17.7, 0.001),
    "utm": ("EPSG:32601", 180_000, 1.95e6, 100),
}


@pytest.mark.parametrize("source", AROUND)
@pytest.mark.parametrize("target", GRIDS)
def test_pixels_are_right_on_both_sides_of_180_degrees(tmp_path, log, source, target):
    path = painted(tmp_path / "a.tif", *AROUND[source])
    crs, left, top, res = GRIDS[target]
    grid = Grid(crs, left, top, res, res, 300, 300, 1.0, 1.0, 512)
    manifest, found, mask, _ = cut(tmp_path, path, log, grid)
    x, y = np.meshgrid(left + res * (np.arange(300) + 0.5), top - res * (np.arange(300) + 0.5))
    lon, lat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    if target != "utm":
        assert (lon % 360 > 180).any() and (lon % 360 < 180).any()
    assert (mask == 255).all() and manifest["share_missing"] == 0
    # A degree is up to 0.6 units. At its own edge the world's raster has no neighbour: half a pixel of it is flat.
    assert np.abs(found[0] - smooth(lon, lat)).max() < (0.03 if source == "world" else 0.001)


def test_a_box_across_180_degrees_crops_a_raster(tmp_path):
    path = painted(tmp_path / "a.tif", *AROUND["past 180"])
    grid = raster_grid(path, (179.9, 17.0, -179.9, 17.5), 256)
    assert (grid.left, grid.width, grid.top) == (pytest.approx(179.9), 100, pytest.approx(17.5))
    utm = painted(tmp_path / "b.tif", *AROUND["utm 60"])
    grid = raster_grid(utm, (179.5, 17.0, -179.95, 17.5), 256)
    to_utm = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32660", always_xy=True)
    west, east = to_utm.transform(179.5, 17.2)[0], to_utm.transform(180.05, 17.2)[0]
    assert abs(grid.left - west) < 2000 and abs(grid.left + grid.width * 200 - east) < 2000


def test_an_absurd_raster_is_one_line(tmp_path):
    path = tmp_path / "huge.vrt"
    path.write_text(
        '<VRTDataset rasterXSize="2000000000" rasterYSize="2000000000"><SRS>EPSG:4326</SRS>'
        "<GeoTransform>0, 1e-9, 0, 1, 0, -1e-9</GeoTransform>"
        '<VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'
    )
    with pytest.raises(PipelineError, match="the grid would have 2,000,000,000 x 2,000,000,000"):
        raster_grid(path, None, 8192)
