"""Downloads that are killed, or that the disk takes no more of: nothing half-written, nothing asked for twice."""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
import time

import pytest
import rasterio

from pipeline.acquire.cache import BATCH, TileCache
from pipeline.acquire.imagery import download_imagery
from pipeline.config import XyzSource
from pipeline.errors import DownloadError
from pipeline.grid import mercator_lonlat, web_mercator_grid
from tests.support.downloads import start_download

ZOOM, X0, Y0, N = 15, 17000, 11000, 8
CONNECTIONS = 4


def grid():
    west, north = mercator_lonlat(X0 * 256 + 9, Y0 * 256 + 9, ZOOM)
    east, south = mercator_lonlat((X0 + N) * 256 - 9, (Y0 + N) * 256 - 9, ZOOM)
    return web_mercator_grid((west, south, east, north), ZOOM, 4096)


def arguments(folder, server, **settings):
    """What `download_imagery` takes for the one shard, below `folder`."""
    settings = {"connections": CONNECTIONS, "timeout_s": 1.0, "max_missing": 0.1, **settings}
    source = XyzSource(kind="xyz", url=server.url(), **settings)
    out = folder / "out" / "r00c00.tif"
    return ("oam", source, grid(), grid().shards()[0], folder / "cache" / "here", out, out.with_suffix(".json"))


def results(folder):
    """Name → bytes of what a download gives, leftovers included."""
    return {path.name: path.read_bytes() for path in sorted((folder / "out").iterdir())}


def committed(folder):
    """The tiles that are safe in the cache."""
    found = list((folder / "cache" / "here" / "tiles" / "oam").glob("*/r00c00.sqlite"))
    if not found:
        return set()
    db = sqlite3.connect(found[0])
    try:
        return set(db.execute("SELECT z, x, y FROM tiles"))
    except sqlite3.OperationalError:  # killed before the table was there
        return set()
    finally:
        db.close()


@pytest.fixture
def full(server):
    server.fill(ZOOM, range(X0, X0 + N), range(Y0, Y0 + N))
    del server.tiles[ZOOM, X0 + 2, Y0 + 3]
    return server


def one_in_five(tile, attempt):
    """A quick fault for one request in five; the next try of a tile has none."""
    return ("500", "reset", "truncated")[tile[1] % 3] if (tile[1] + tile[2] + attempt) % 5 == 0 else None


def test_killed_ten_times_it_gives_the_same_and_asks_for_no_cached_tile_again(full, tmp_path, log):
    full.fault = one_in_five
    download_imagery(*arguments(tmp_path / "clean", full, connections=32), zoom=ZOOM, log=log)
    full.asked.clear()
    full.delay_s = 0.02
    chance, safe, again = random.Random(11), set(), 0
    for number in range(10):
        before, most = len(full.asked), chance.randrange(24)
        child = start_download(arguments(tmp_path / "killed", full), zoom=ZOOM, log=tmp_path / f"{number}.log")
        while len(full.asked) < before + most and child.is_alive():
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        child.kill()
        child.join(10)
        time.sleep(0.1)  # requests under way at the server
        tries, now = set(full.asked[before:]), committed(tmp_path / "killed")
        assert not safe & tries and safe <= now <= safe | tries
        # Lost is at most a batch that was not full, and what was under way or between two tries.
        assert len(tries - now) <= BATCH - 1 + CONNECTIONS
        again += len(tries - now)
        safe = now
    assert len(safe) > 10 and again > 0
    before = len(full.asked)
    child = start_download(arguments(tmp_path / "killed", full), zoom=ZOOM, log=tmp_path / "last.log")
    child.join(30)
    assert child.exitcode == 0 and not safe & set(full.asked[before:])
    assert results(tmp_path / "killed") == results(tmp_path / "clean")
    assert set(results(tmp_path / "clean")) == {"r00c00.tif", "r00c00.json", "r00c00_tiles.csv"}


@pytest.mark.parametrize("limit_kb", [8, 40, 5000])
def test_a_disk_that_is_full_of_tiles_is_one_line_and_goes_on_later(full, tmp_path, limit_kb):
    child = start_download(arguments(tmp_path, full), zoom=ZOOM, log=tmp_path / "log", limit_bytes=limit_kb << 10)
    child.join(30)
    lines = (tmp_path / "log").read_text().splitlines()
    assert child.exitcode == 1 and len(lines) == 1
    assert "r00c00.sqlite: the tile cache cannot be written" in lines[0] and "is the disk full?" in lines[0]
    assert not list((tmp_path).glob("out/*"))
    kept = committed(tmp_path)
    assert len(kept) == 0 if limit_kb < 100 else len(kept) > 0
    full.asked.clear()
    child = start_download(arguments(tmp_path, full), zoom=ZOOM, log=tmp_path / "log")
    child.join(30)
    assert (
        child.exitcode == 0 and set(full.asked) == {(ZOOM, X0 + x, Y0 + y) for x in range(N) for y in range(N)} - kept
    )


@pytest.mark.parametrize("short_by", [1, 200, 100_000])
def test_a_disk_that_cannot_hold_the_image_leaves_none(full, tmp_path, log, short_by):
    download_imagery(*arguments(tmp_path, full, connections=32), zoom=ZOOM, log=log)
    clean = results(tmp_path)
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    limit_bytes = len(clean["r00c00.tif"]) - short_by
    child = start_download(arguments(tmp_path, full), zoom=ZOOM, log=tmp_path / "log", limit_bytes=limit_bytes)
    child.join(30)
    lines = (tmp_path / "log").read_text().splitlines()[1:]  # after the summary of the tiles, which are all cached
    assert child.exitcode == 1 and len(lines) == 1 and "r00c00.tif: cannot be written" in lines[0]
    assert results(tmp_path) == {}


def test_a_cache_in_the_way_is_one_line(full, tmp_path, log):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DownloadError, match=r"the cache cannot be written \(.+\); make its folder writable"):
        download_imagery(*arguments(tmp_path, full), zoom=ZOOM, log=log)


def test_a_cache_of_the_first_format_is_read_as_it_is(full, tmp_path, log):
    """Its path and its tiles are a promise: nobody fetches a region twice because of a new version."""
    url = full.url()
    path = tmp_path / "cache/here/tiles/oam" / hashlib.sha256(f"1 {url}".encode()).hexdigest()[:10] / "r00c00.sqlite"
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        db.execute(
            "CREATE TABLE tiles (z INTEGER NOT NULL, x INTEGER NOT NULL, y INTEGER NOT NULL, status INTEGER NOT NULL, "
            "body BLOB, content_type TEXT NOT NULL, sha256 TEXT NOT NULL, etag TEXT NOT NULL, fetched TEXT NOT NULL, "
            "PRIMARY KEY (z, x, y))"
        )
        for x in range(X0, X0 + N):
            for y in range(Y0, Y0 + N):
                body = full.tiles.get((ZOOM, x, y), b"")
                row = (ZOOM, x, y, 200 if body else 404, body, "image/png", hashlib.sha256(body).hexdigest(), '"e"')
                db.execute("INSERT INTO tiles VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, "2024-05-06T07:08:09+00:00"))
    db.close()
    blank = {"colours": [[1, 2, 3]]}  # looks into bodies whose colour nobody noted
    result = download_imagery(*arguments(tmp_path, full, blank=blank), zoom=ZOOM, log=log)
    assert full.asked == [] and "64 from the cache" in log.lines[-1] and "fetched 2024-05-06" in log.lines[-1]
    assert result["tiles"] == {"requested": 64, "missing": 1}
    with TileCache(path, url, log) as cache:
        assert len(cache.entries()) == 64
    with rasterio.open(tmp_path / "out" / "r00c00.tif") as raster:
        assert (raster.dataset_mask() == 0).sum() == 256 * 256
    assert json.loads((tmp_path / "out" / "r00c00.json").read_text()) == result
