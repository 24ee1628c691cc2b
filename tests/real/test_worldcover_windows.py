"""Windows out of WorldCover's 36000 x 36000 pixels, from a server that knows ranges."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window, from_bounds

from pipeline.acquire.cog import open_windowed, opened
from pipeline.acquire.fetch import Fetcher
from pipeline.acquire.http import Policy
from pipeline.acquire.views import overview_level
from pipeline.command import Log
from pipeline.grid import web_mercator_grid
from tests.support.ranges import RangeServer

ROOT = os.environ.get("REAL_DATA_DIR")
FILE = Path(ROOT or ".") / "worldcover" / "ESA_WorldCover_10m_2021_v200_N00E006_Map.tif"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(ROOT is None, reason="REAL_DATA_DIR is not set: the WorldCover tile is not at hand"),
    pytest.mark.skipif(ROOT is not None and not FILE.is_file(), reason=f"{FILE} does not exist"),
]
SAO_TOME = (6.60, 0.25, 6.75, 0.40)  # the island's north: the tile is sea but for islands and a coast


@pytest.fixture
def server():
    with RangeServer({"/map.tif": FILE}).running() as running:
        yield running


@pytest.fixture
def fetcher(tmp_path):
    with Fetcher("worldcover", Policy(use_proxy=False, backoff_s=0.01), Log(), turns=tmp_path / "cache") as ready:
        yield ready


def test_a_window_is_that_of_the_file_and_costs_a_small_share(server, fetcher, tmp_path):
    with rasterio.open(FILE) as local:
        window = from_bounds(*SAO_TOME, local.transform).round_offsets().round_lengths()
        want = local.read(1, window=window)
    assert want.size > 3e6 and len(np.unique(want)) > 4
    for _ in range(2):
        with open_windowed(server.url("/map.tif"), fetcher, tmp_path / "files") as remote:
            assert np.array_equal(remote.read(1, window=window), want)
    assert server.sent < 0.35 * FILE.stat().st_size  # of a tile that is all sea but for this, 2.5 MB in all
    assert len({asked.headers["range"] for asked in server.asked}) == len(server.asked)  # nothing twice


def test_the_sea_costs_the_header_alone(server, fetcher, tmp_path):
    with open_windowed(server.url("/map.tif"), fetcher, tmp_path / "files") as remote:
        assert not remote.read(1, window=Window(4000, 4000, 8000, 8000)).any()
    assert server.sent < 0.3 * FILE.stat().st_size


def test_the_whole_tile_on_a_coarse_grid_reads_an_overview(server, fetcher, tmp_path):
    grid = web_mercator_grid((6.0, 0.0, 9.0, 3.0), 9, 65536)  # 300 m
    with opened(server.url("/map.tif"), fetcher, tmp_path / "files") as found:
        level = overview_level(found.raster, grid)
        assert found.raster.overviews(1)[level] == 32
        view = {"crs": grid.crs, "transform": rasterio.Affine(*grid.transform()), "resampling": Resampling.nearest}
        size = {"width": grid.width, "height": grid.height}
        with found.overview(level) as raster, WarpedVRT(raster, **view, **size) as seen, found.reading():
            values = seen.read(1)
    with rasterio.open(FILE, overview_level=level) as local, WarpedVRT(local, **view, **size) as seen:
        assert np.array_equal(values, seen.read(1)) and len(np.unique(values)) > 5
    assert server.sent < 0.5 * FILE.stat().st_size
