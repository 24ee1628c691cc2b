"""A WMS and a WMTS from the request to the pixels: the server paints coordinates, the file's own must be the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import rasterio

from pipeline.acquire.http import Policy
from pipeline.acquire.tiles import download_tiles
from pipeline.errors import DownloadError
from pipeline.grid import Grid, mercator_lonlat, web_mercator_grid
from pipeline.sources.wms import Source as Wms
from pipeline.sources.wmts import Source as Wmts


def conftest():
    spec = importlib.util.spec_from_file_location("sources_conftest", Path(__file__).with_name("conftest.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pattern = conftest().pattern

NATIONAL = [
    ("EPSG:4326", 9.0, 50.0, 1e-5),
    ("EPSG:31468", 4468298.8, 5333000.0, 0.4),
    ("EPSG:2180", 637000.0, 487000.0, 0.25),
    ("EPSG:25832", 476000.2, 5550000.4, 0.2),
]


def download(tmp_path, source, grid: Grid, log, zoom=None):
    """Every shard of `source`; the pixels of each beside those that its own georeference asks for."""
    for shard in grid.shards():
        out = tmp_path / f"{shard.name}.tif"
        download_tiles("a", source, grid, shard, tmp_path / "cache", out, zoom=zoom, log=log)
        with rasterio.open(out) as raster:
            x = raster.transform.c + (np.arange(raster.width) + 0.5) * raster.transform.a
            y = raster.transform.f + (np.arange(raster.height) + 0.5) * raster.transform.e
            assert (raster.read_masks(1) == 255).all()
            yield raster.read().transpose(1, 2, 0), pattern(x, y, raster.res[0])


def world(shard_px=4096):
    west, north = mercator_lonlat(35000 * 256 + 37, 22000 * 256 + 51, 16)
    east, south = mercator_lonlat(35002 * 256 - 20, 22002 * 256 - 90, 16)
    return web_mercator_grid((west, south, east, north), 16, shard_px)


def wms(service, **settings):
    return Wms(**{"kind": "wms", "url": service.url + "/wms", "layers": "a", "format": "image/png", **settings})


def wmts(service, path="/", **settings):
    return Wmts(**{"kind": "wmts", "url": service.url + path, "layer": "a", "format": "image/png", **settings})


@pytest.mark.parametrize("version", ["1.1.1", "1.3.0"])
@pytest.mark.parametrize(("crs", "left", "top", "res"), NATIONAL)
def test_a_wms_pixel_lies_where_its_box_says(service, grid_at, quiet, tmp_path, crs, left, top, res, version):
    service.res = res
    found = download(tmp_path, wms(service, version=version, tile_px=160), grid_at(crs, left, top, res), quiet)
    for pixels, expected in found:
        assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("tile_px", [256, 512])
def test_a_wms_on_the_worlds_pixels_shard_by_shard(service, quiet, tmp_path, tile_px):
    grid = world(shard_px=256)
    service.res = grid.res_x
    for pixels, expected in download(tmp_path, wms(service, tile_px=tile_px), grid, quiet, zoom=16):
        assert np.array_equal(pixels, expected)
    boxes = {path.partition("BBOX=")[2] for path in service.paths}
    assert len(boxes) == {256: 4, 512: 1}[tile_px], "shards ask for the same images"


def test_a_wrong_axis_order_shows_as_wrong_pixels(service, grid_at, quiet, tmp_path):
    """The test of the tests: with the order turned round the server paints another place."""
    service.res = 0.4
    source = wms(service, axis_order="xy", tile_px=160)
    (pixels, expected), *_ = download(tmp_path, source, grid_at("EPSG:31468", 4468298.8, 5333000.0, 0.4), quiet)
    assert not np.array_equal(pixels, expected)


@pytest.mark.parametrize("path", ["/", "/{Style}/{TileMatrixSet}/{TileMatrix}/{TileRow}/{TileCol}.png"])
@pytest.mark.parametrize("matrix", ["{z}", "EPSG:3857:{z}"])
def test_a_wmts_of_the_worlds_matrices(service, quiet, tmp_path, path, matrix):
    grid = world()
    service.res = grid.res_x
    for pixels, expected in download(tmp_path, wmts(service, path, matrix=matrix), grid, quiet, zoom=16):
        assert np.array_equal(pixels, expected)


def test_a_wmts_of_a_national_system(service, grid_at, quiet, tmp_path):
    national = conftest().UTM
    matrices = {name: {"resolution": res} for name, res in national["res"].items()}
    source = wmts(service, matrices=matrices, origin=national["origin"], tile_matrix_set="utm")
    service.res = 0.2
    for pixels, expected in download(tmp_path, source, grid_at("EPSG:25832", 476000.2, 5550000.4, 0.2), quiet):
        assert np.array_equal(pixels, expected)
    assert all("TILEMATRIX=utm_8" in path for path in service.paths)


def test_an_exception_under_status_200_is_told_in_its_own_words(service, quiet, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_WMS_KEY", "topsecret")
    service.refusal = (
        b'<ServiceExceptionReport><ServiceException code="InvalidCRS">no such system for key topsecret'
        b"</ServiceException></ServiceExceptionReport>"
    )
    source = wms(service, params={"key": "${MY_WMS_KEY}"}, retries=0)
    with pytest.raises(DownloadError, match=r"InvalidCRS: no such system") as caught:
        list(download(tmp_path, source, world(), quiet, zoom=16))
    assert "topsecret" not in str(caught.value) and "\n" not in str(caught.value)
    assert all("key=topsecret" in path for path in service.paths), "the request alone has it"
    assert not any(b"topsecret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_service_that_fails_for_a_moment_is_asked_again(service, quiet, tmp_path, monkeypatch):
    """Map servers tell of a moment's trouble, too, under status 200."""
    monkeypatch.setattr("pipeline.acquire.tiles.Policy", lambda *given, **more: Policy(*given, backoff_s=0.002, **more))
    words = b"<ServiceExceptionReport><ServiceException>too busy</ServiceException></ServiceExceptionReport>"
    service.res = world().res_x
    answer, calls = service.answer, []

    def busy(path):
        calls.append(path)
        return words if len(calls) in (3, 4, 7) else answer(path)

    service.answer = busy
    for pixels, expected in download(tmp_path, wms(service, connections=1, tile_px=128), world(), quiet, zoom=16):
        assert np.array_equal(pixels, expected)
    assert len(calls) == len(set(calls)) + 3
