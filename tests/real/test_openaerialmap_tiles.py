"""OpenAerialMap tiles of Zanzibar through the whole tile path: serve, fetch, cache, shard GeoTIFF."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from pipeline.acquire.imagery import download_imagery
from pipeline.acquire.shards import Mosaic
from pipeline.command import Log
from pipeline.config import XyzSource
from pipeline.errors import DownloadError
from pipeline.grid import mercator_lonlat, web_mercator_grid

ROOT = os.environ.get("REAL_DATA_DIR")
FOLDER = Path(ROOT or ".") / "openaerialmap" / "zanzibar" / "tiles"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(ROOT is None, reason="REAL_DATA_DIR is not set: the Zanzibar tiles are not at hand"),
    pytest.mark.skipif(ROOT is not None and not FOLDER.is_dir(), reason=f"{FOLDER} does not exist"),
]
ZOOM = 20


def tiles_on_disk() -> set[tuple[int, int]]:
    return {(int(path.parent.name), int(path.stem)) for path in (FOLDER / str(ZOOM)).glob("*/*.png")}


def area(xs: range, ys: range, shard_px: int = 8192):
    west, north = mercator_lonlat(xs.start * 256, ys.start * 256, ZOOM)
    east, south = mercator_lonlat(xs.stop * 256, ys.stop * 256, ZOOM)
    return web_mercator_grid((west, south, east, north), ZOOM, shard_px)


def fetch(folder: Path, grid, shard, max_missing: float):
    source = XyzSource(
        kind="xyz", url="http://{host}/{z}/{x}/{y}.png", serve=FOLDER, connections=16, max_missing=max_missing
    )
    out = folder / f"{shard.name}.tif"
    manifest = folder / f"{shard.name}.json"
    return download_imagery("oam", source, grid, shard, folder / "cache", out, manifest, zoom=ZOOM, log=Log()), out


def test_missing_tiles_are_the_files_absent_on_disk(tmp_path):
    disk = tiles_on_disk()
    xs = range(min(x for x, _ in disk), min(x for x, _ in disk) + 6)
    ys = range(min(y for _, y in disk) - 1, min(y for _, y in disk) + 10)
    wanted = {(x, y) for x in xs for y in ys}
    grid = area(xs, ys)
    manifest, out = fetch(tmp_path, grid, grid.shards()[0], 0.5)
    assert 0 < len(wanted - disk) < len(wanted)
    assert manifest["tiles"] == {"requested": len(wanted), "missing": len(wanted - disk)}
    with rasterio.open(out) as raster:
        assert raster.shape == (len(ys) * 256, len(xs) * 256)
        pixels, mask = raster.read(), raster.read_masks(1)
    for x, y in wanted:
        part = (
            slice((y - ys.start) * 256, (y - ys.start + 1) * 256),
            slice((x - xs.start) * 256, (x - xs.start + 1) * 256),
        )
        if (x, y) not in disk:
            assert not mask[part].any() and not pixels[(slice(None), *part)].any()
            continue
        with Image.open(FOLDER / str(ZOOM) / str(x) / f"{y}.png") as image:
            rgba = np.asarray(image.convert("RGBA"))
        valid = rgba[:, :, 3] > 0
        assert np.array_equal(mask[part] > 0, valid)
        assert np.array_equal(pixels[(slice(None), *part)], (rgba[:, :, :3] * valid[:, :, None]).transpose(2, 0, 1))
    with pytest.raises(DownloadError, match=f"{len(wanted - disk)} of {len(wanted)} tiles .*max_missing: 0.01"):
        fetch(tmp_path, grid, grid.shards()[0], 0.01)


def test_shards_join_to_the_same_pixels(tmp_path):
    disk = tiles_on_disk()
    x0, y0 = min(disk)
    whole = area(range(x0, x0 + 4), range(y0, y0 + 4))
    cut = area(range(x0, x0 + 4), range(y0, y0 + 4), shard_px=600)
    _, out = fetch(tmp_path / "whole", whole, whole.shards()[0], 0.0)
    paths = {shard.name: fetch(tmp_path / "cut", cut, shard, 0.0)[1] for shard in cut.shards()}
    with rasterio.open(out) as raster, Mosaic(paths, cut) as mosaic:
        pixels, valid = mosaic.read(0, 0, cut.height, cut.width)
        assert len(paths) == 4 and np.array_equal(pixels, raster.read()) and valid.all()
