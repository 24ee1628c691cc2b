"""Land cover from several rasters, from servers, across the world's seam; values that nobody named; full disks."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy as copy_raster
from rasterio.transform import from_origin

from pipeline.acquire import landcover, landcover_raster, legend
from pipeline.acquire.http import Policy
from pipeline.acquire.landcover import warp_landcover
from pipeline.acquire.landcover_raster import tiles3
from pipeline.command import Log
from pipeline.config import ClassScheme, LandcoverConfig
from pipeline.errors import DataError, DownloadError
from pipeline.grid import MERCATOR_HALF_M, Grid, web_mercator_grid
from tests.support.ranges import RangeServer

NAMES = ["forest", "fields", "water"]
SCHEME = ClassScheme.model_validate(
    {"classes": [{"index": i, "name": name, "colour": (i, i, 9)} for i, name in enumerate(NAMES)]}
)
CLASSES = {10: "forest", 20: "fields", 30: "water"}
GRID = Grid("EPSG:32632", 500_000.0, 5_500_000.0, 10.0, 10.0, 300, 200, 10.0, 10.0, 8192)


def raster(path, values, left=500_000.0, top=5_500_000.0, res=10.0, crs="EPSG:32632", nodata=0, **options):
    values = np.asarray(values)
    height, width = values.shape
    options |= {"dtype": values.dtype, "crs": crs, "transform": from_origin(left, top, res, res), "nodata": nodata}
    with rasterio.open(path, "w", "GTiff", width, height, 1, **options) as target:
        target.write(values, 1)
    return path


def cover(shape=(200, 300), seed=1, dtype=np.uint8, values=(10, 20, 30)):
    return np.random.default_rng(seed).choice(values, shape).astype(dtype)


def warp(tmp_path, grid=GRID, **settings):
    config = LandcoverConfig.model_validate({"classes": CLASSES, **settings})
    out, cache = tmp_path / "out" / "landcover.tif", tmp_path / "cache" / "region"
    summary = tmp_path / "out" / "summary.json"
    found = warp_landcover("cover", config, SCHEME, grid, cache, out, summary, log=Log())
    with rasterio.open(out) as written:
        return written.read(1), found


def classes(values):
    return np.select([values == value for value in CLASSES], range(3), 255).astype(np.uint8)


# --- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.int64, np.float32, np.float64])
def test_unmapped_values_are_listed_by_share_and_become_255(tmp_path, dtype):
    values = cover(dtype=dtype)
    values[:3], values[3:5], values[5:6], values[6:7] = 77, -5 if np.dtype(dtype).kind != "u" else 99, 42, 0
    path = raster(tmp_path / "lc.tif", values)
    band, found = warp(tmp_path, path=path, ignore=[42], max_unmapped=0.026)
    np.testing.assert_array_equal(band, classes(values))
    second = -5 if np.dtype(dtype).kind != "u" else 99
    assert found["unmapped"] == [
        {"value": 77, "pixels": 900, "share": 0.015},
        {"value": second, "pixels": 600, "share": 0.01},
    ]
    assert found["ignored"] == {"42": {"pixels": 300, "share": 0.005}} and found["outside"] == 300
    assert sum(entry["pixels"] for entry in found["values"].values()) + 300 == band.size
    with pytest.raises(DataError, match=r"no class for value 77 \(1\.50% .*\), -?\d+ \(1\.00% .*max_unmapped allows"):
        warp(tmp_path, path=path, ignore=[42], max_unmapped=0.0249)


def test_a_raster_of_measurements_is_no_land_cover(tmp_path, monkeypatch):
    monkeypatch.setattr(legend, "MAX_VALUES", 500)
    values = np.random.default_rng(0).random((200, 300)).astype(np.float32)
    with pytest.raises(DataError, match=r"lc\.tif: holds more than 500 different values.*check the band"):
        warp(tmp_path, path=raster(tmp_path / "lc.tif", values, nodata=None))
    assert not list(tmp_path.glob("out/*"))


def test_the_band_that_is_asked_for_is_read(tmp_path):
    bands = [cover(seed=seed) for seed in (1, 2)]
    with rasterio.open(
        tmp_path / "lc.tif", "w", "GTiff", 300, 200, 2, "EPSG:32632", from_origin(500_000, 5_500_000, 10, 10), "uint8"
    ) as target:
        target.write(np.stack(bands))
    band, _ = warp(tmp_path, path=tmp_path / "lc.tif", band=2)
    np.testing.assert_array_equal(band, classes(bands[1]))
    with pytest.raises(DataError, match=r"lc\.tif: band 3 does not exist; it has 1 to 2"):
        warp(tmp_path, path=tmp_path / "lc.tif", band=3)


def test_windows_of_a_fine_source_are_read_in_parts(tmp_path, monkeypatch):
    values = cover((2000, 3000))
    path = raster(tmp_path / "lc.tif", values, res=1.0)
    one, _ = warp(tmp_path, path=path)
    np.testing.assert_array_equal(one, classes(values[5::10, 5::10]))
    monkeypatch.setattr(landcover_raster, "WINDOW_PX", 5000)
    parts, _ = warp(tmp_path, path=path)
    np.testing.assert_array_equal(parts, one)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32701"])
def test_a_region_across_180_degrees(tmp_path, monkeypatch, crs):
    """A raster of the whole world in degrees and one in UTM, on a grid that runs past the edge of EPSG:3857."""
    grid = Grid("EPSG:3857", MERCATOR_HALF_M - 150_000, -1_900_000.0, 1000.0, 1000.0, 300, 200, 950.0, 950.0, 8192)
    monkeypatch.setattr(landcover_raster, "WINDOW_PX", 20_000)
    monkeypatch.setattr(landcover, "BLOCK_PX", 128)
    if crs == "EPSG:4326":
        values = cover((1800, 3600))
        path = raster(tmp_path / "lc.tif", values, -180, 90, 0.1, crs)
        x = (grid.left + (np.arange(300) + 0.5) * 1000) / MERCATOR_HALF_M * 180
        y = np.degrees(np.arctan(np.sinh((grid.top - (np.arange(200) + 0.5) * 1000) / MERCATOR_HALF_M * np.pi)))
        cols = np.floor((x + 180) / 0.1).astype(int) % 3600
        expected = classes(values[np.ix_(np.floor((90 - y) / 0.1).astype(int), cols)])
        assert cols.min() == 0 and cols.max() == 3599
    else:
        path = raster(tmp_path / "lc.tif", np.full((400, 1500), 20, np.uint8), -300_000, 8_300_000, 900, crs)
        expected = np.ones((200, 300), np.uint8)
    band, found = warp(tmp_path, grid, path=path)
    np.testing.assert_array_equal(band, expected)
    assert found["outside"] == 0


# --- servers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def server():
    with RangeServer().running() as running:
        yield running


def cog(path, values, **place):
    raster(path, values, **place)
    copy_raster(path, path.with_suffix(".cog.tif"), driver="COG", compress="deflate", blocksize=128)
    return path.with_suffix(".cog.tif")


def test_files_on_a_server_lie_over_each_other_in_their_order(tmp_path, server):
    upper, lower = cover(seed=1), cover((200, 300), seed=2)
    upper[:, 150:] = 0
    server.files = {
        "/upper.tif": cog(tmp_path / "upper.tif", upper),
        "/lower.tif": cog(tmp_path / "lower.tif", lower, left=500_500.0),
    }
    band, found = warp(tmp_path, url=[server.url("/upper.tif"), server.url("/lower.tif")])
    shifted = np.zeros_like(lower)
    shifted[:, 50:] = lower[:, :250]
    np.testing.assert_array_equal(band, classes(np.where(upper > 0, upper, shifted)))
    first, second = found["read"]["files"]
    assert first["url"] == server.url("/upper.tif") and second["bytes"] == server.files["/lower.tif"].stat().st_size
    assert first["version"] == f'"{first["bytes"]}"' and first["fetched"][:2] == "20"


def test_only_what_the_region_needs_is_fetched_and_only_once(tmp_path, server):
    values = cover((3000, 3000))
    path = cog(tmp_path / "big.tif", values, left=490_000.0, top=5_510_000.0)
    server.files = {"/big.tif": path}
    band, _ = warp(tmp_path, url=server.url("/big.tif"))
    np.testing.assert_array_equal(band, classes(values[1000:1200, 1000:1300]))
    assert server.sent < 0.4 * path.stat().st_size
    asked = len(server.asked)
    again, _ = warp(tmp_path, url=server.url("/big.tif"))
    np.testing.assert_array_equal(band, again)
    assert len(server.asked) == asked


def test_tiles_of_three_degrees_are_those_of_the_region_and_may_be_absent(tmp_path, server, capsys):
    grid = web_mercator_grid((8.9, 47.9, 9.1, 48.1), 9, 256)
    values = cover((36, 36))
    for name, west, north in (("N48E006", 6, 51), ("N45E006", 6, 48), ("N48E009", 9, 51)):
        place = {"left": west, "top": north, "res": 3 / 36, "crs": "EPSG:4326"}
        server.files[f"/cover_{name}.tif"] = cog(tmp_path / f"{name}.tif", values, **place)
    band, found = warp(tmp_path, grid, url=server.url("/cover_{tile3}.tif"))
    assert len(found["read"]["files"]) == 3
    assert found["read"]["absent"] == [server.url("/cover_N45E009.tif")]
    absent = f"1 files that the server does not have are without data: {server.url('/cover_N45E009.tif')}"
    assert absent in capsys.readouterr().err
    middle = band.shape[1] // 2
    assert (band[-3:, middle + 3 :] == 255).all() and (band[:3] != 255).all() and (band[-3:, : middle - 3] != 255).all()
    with pytest.raises(DownloadError, match=r"landcover 'cover'.*404"):
        warp(tmp_path, grid, url=server.url("/cover_N45E009.tif"))
    with pytest.raises(DataError, match=r"unknown placeholder \{tile\}"):
        warp(tmp_path, grid, url=server.url("/cover_{tile}.tif"))


@pytest.mark.parametrize(
    ("bbox", "names"),
    [
        ((8.4, 49.9, 8.9, 50.3), ["N48E006"]),
        ((8.4, 49.9, 9.9, 51.3), ["N48E006", "N48E009", "N51E006", "N51E009"]),
        ((-0.5, -0.5, 0.5, 0.5), ["S03W003", "S03E000", "N00W003", "N00E000"]),
        ((178.5, -17.5, -179.5, -16.9), ["S18W180", "S18E177"]),
    ],
)
def test_names_of_tiles_are_their_south_west_corners(bbox, names):
    assert tiles3(web_mercator_grid(bbox, 10, 256)) == names


def test_what_a_server_refuses_is_one_line(tmp_path, server, monkeypatch):
    server.files = {"/cover.tif": cog(tmp_path / "cover.tif", cover((2000, 3000)))}
    server.fault = lambda asked, number: "500" if number else None
    monkeypatch.setattr(landcover_raster, "Policy", lambda: Policy(retries=1, backoff_s=0.001))
    with pytest.raises(DownloadError, match=r"landcover 'cover'.*failed after 2 tries \(HTTP 500\)") as caught:
        warp(tmp_path, url=server.url("/cover.tif"))
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("out/*"))


# --- the disk ------------------------------------------------------------------------------------------------------


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from pipeline.acquire.landcover import warp_landcover
from pipeline.command import run
from pipeline.config import ClassScheme, LandcoverConfig
from pipeline.grid import Grid
scheme = {"classes": [{"index": i, "name": str(i), "colour": (0, 0, 0)} for i in range(2)]}
limit, folder = int(sys.argv[1]), Path(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
config = LandcoverConfig.model_validate({"path": folder / "lc.tif", "classes": {10: "0", 20: "1"}})
run(lambda log: warp_landcover(
    "cover", config, ClassScheme.model_validate(scheme),
    Grid("EPSG:32632", 5e5, 5.5e6, 10.0, 10.0, 1000, 1000, 10.0, 10.0, 8192),
    folder / "cache", folder / "out" / "landcover.tif", folder / "out" / "landcover.json", log=log), None)
"""


def on_a_small_disk(folder, limit_bytes):
    command = [sys.executable, "-c", FULL_DISK, str(limit_bytes), str(folder)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_disk_that_takes_no_more_is_one_line_and_leaves_nothing(tmp_path):
    """Also when only the last bytes find no room, which GDAL writes while it closes the file and tells nobody of."""
    raster(tmp_path / "lc.tif", cover((1000, 1000), values=(10, 20)))
    assert on_a_small_disk(tmp_path, 1 << 30).returncode == 0
    out = tmp_path / "out" / "landcover.tif"
    size = out.stat().st_size
    for limit in (size // 2, size - 5000, size - 1):
        for path in out.parent.iterdir():
            path.unlink()
        done = on_a_small_disk(tmp_path, limit)
        assert done.returncode == 1, (limit, done)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and "landcover.tif: cannot be written" in errors[0] and "Traceback" not in done.stderr
        assert list(out.parent.iterdir()) == []
