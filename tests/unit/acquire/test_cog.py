"""GeoTIFFs on a server, read by window."""

from __future__ import annotations

import csv
import itertools
import random
import re
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import Resampling
from rasterio.shutil import copy
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from pipeline.acquire import blocks, cog
from pipeline.acquire.answer import NotThere
from pipeline.acquire.cog import FileChanged, open_windowed
from pipeline.acquire.fetch import Fetcher
from pipeline.acquire.http import Policy
from pipeline.acquire.imagery import download_imagery
from pipeline.acquire.raster import raster_grid
from pipeline.errors import DataError, DownloadError
from pipeline.grid import Grid, web_mercator_grid
from pipeline.sources.cog import Source
from tests.support.ranges import RangeServer
from tests.support.rasters import NORTH, RES, UTM, WEST, write

QUICK = Policy(retries=6, timeout_s=5, backoff_s=0.002, use_proxy=False)
SIDE = 3000


def noise(bands, height, width, seed=3):
    return np.random.default_rng(seed).integers(1, 250, (bands, height, width), dtype=np.uint8)


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A cloud-optimised GeoTIFF of 9 MB that does not compress, with overviews."""
    folder = tmp_path_factory.mktemp("big")
    plain = write(folder / "plain.tif", noise(1, SIDE, SIDE))
    copy(plain, folder / "big.tif", driver="COG", compress="deflate", blocksize=256, overview_resampling="nearest")
    return folder / "big.tif"


@pytest.fixture
def files(big):
    with RangeServer({"/big.tif": big}).running() as running:
        yield running


@pytest.fixture
def fetcher(log, tmp_path):
    with Fetcher("the source", QUICK, log, turns=tmp_path / "cache") as ready:
        yield ready


@pytest.fixture
def quick(monkeypatch):
    """Sources ask without waiting long between tries."""
    monkeypatch.setattr("pipeline.acquire.windowed.Policy", lambda **given: Policy(**given | {"backoff_s": 0.002}))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def spans(server):
    """(first, last byte) of every range that was answered."""
    found = [re.fullmatch(r"bytes=(\d+)-(\d+)", asked.headers.get("range", "")) for asked in server.asked]
    return [(int(m[1]), int(m[2])) for m, asked in zip(found, server.asked, strict=True) if m and asked.status == 206]


def asked_twice(server):
    ordered = sorted(spans(server))
    return [pair for pair in itertools.pairwise(ordered) if pair[1][0] <= pair[0][1]]


def test_a_window_is_rasterios_and_costs_little(files, fetcher, big, tmp_path):
    window = Window(1100, 700, 300, 200)
    for _ in range(2):
        with open_windowed(files.url("/big.tif"), fetcher, tmp_path / "c") as remote, rasterio.open(big) as local:
            assert np.array_equal(remote.read(window=window), local.read(window=window))
            assert remote.overviews(1) == local.overviews(1)
    assert files.sent < 0.15 * big.stat().st_size and not asked_twice(files)


@pytest.mark.parametrize(("pixels", "level"), [(16, 3), (5, 1), (2, 0), (1.9, None)])
def test_a_coarser_grid_reads_overviews(files, big, tmp_path, log, quick, pixels, level):
    own, side = raster_grid(big, None, 256), int(SIDE // pixels)
    coarse = {"res_x": pixels * RES, "res_y": pixels * RES, "width": side, "height": side}
    grid = Grid(**{**own.__dict__, **coarse})
    manifest, found, mask = shard_of(tmp_path, files.url("/big.tif"), grid, log)
    options = {} if level is None else {"overview_level": level}
    scale = f"{(1 if level is None else 2 ** (level + 1)) / pixels:.6f}"
    with (
        rasterio.open(big, **options) as local,
        WarpedVRT(
            local,
            crs=UTM,
            transform=Affine(*grid.transform()),
            width=side,
            height=side,
            resampling=Resampling.bilinear,
            add_alpha=True,
            XSCALE=scale,
            YSCALE=scale,
        ) as seen,
    ):
        assert np.array_equal(found, seen.read([1])) and (mask == 255).all()
    assert manifest["resampled"] is (pixels != 2)  # an overview of the grid's own pixels is copied
    assert files.sent < {16: 0.1, 5: 0.15, 2: 0.35, 1.9: 1.01}[pixels] * big.stat().st_size


def test_parts_of_one_read_are_asked_for_at_once(files, fetcher, big, tmp_path):
    at_once, most, lock = 0, 0, threading.Lock()

    def slow(asked):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.05)
        with lock:
            at_once -= 1

    files.respond = slow
    with open_windowed(files.url("/big.tif"), fetcher, tmp_path / "c") as remote:
        remote.read(window=Window(0, 0, 256, SIDE))
    assert 1 < most <= QUICK.connections


def test_faults_lose_nothing(files, fetcher, big, tmp_path):
    random.seed(4)
    kinds = ("429", "500", "reset", "truncated")
    files.fault = lambda asked, number: kinds[number % 4] if number % 5 in (1, 3) else None
    with open_windowed(files.url("/big.tif"), fetcher, tmp_path / "c") as remote, rasterio.open(big) as local:
        assert np.array_equal(remote.read(), local.read())
    assert len({asked.status for asked in files.asked}) == 4  # 0: reset


CHILD = """
import sys
from pathlib import Path
from pipeline.acquire.cog import open_windowed
from pipeline.acquire.fetch import Fetcher
from pipeline.acquire.http import Policy
from pipeline.command import Log
cache = Path(sys.argv[2])
with Fetcher("child", Policy(use_proxy=False), Log(), turns=cache / "all") as fetcher:
    with open_windowed(sys.argv[1], fetcher, cache) as remote:
        print(int(remote.read().sum()))
"""


def test_a_kill_loses_nothing_that_arrived(files, fetcher, big, tmp_path):
    stop = threading.Event()
    files.respond = lambda asked: None if len(files.asked) <= 3 else stop.wait(20) and None
    child = subprocess.Popen([sys.executable, "-c", CHILD, files.url("/big.tif"), str(tmp_path)])
    while len(files.asked) < 4:
        time.sleep(0.02)
        assert child.poll() is None
    time.sleep(0.2)
    child.kill()
    child.wait()
    stop.set()
    time.sleep(0.1)
    database = next(tmp_path.glob("*.sqlite"))
    with sqlite3.connect(database) as db:
        there = {row[0] for row in db.execute("SELECT number FROM blocks")}
    assert there
    files.asked.clear()
    files.respond = lambda asked: None
    with open_windowed(files.url("/big.tif"), fetcher, tmp_path) as remote, rasterio.open(big) as local:
        assert np.array_equal(remote.read(), local.read())
    again = {
        n for first, last in spans(files) for n in range(first // blocks.BLOCK_BYTES, last // blocks.BLOCK_BYTES + 1)
    }
    assert again and not again & there


def test_two_processes_share_what_they_fetch(files, big, tmp_path):
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, files.url("/big.tif"), str(tmp_path)], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    sums = {int(child.communicate()[0]) for child in children}
    with rasterio.open(big) as local:
        assert sums == {int(local.read().sum())}
    assert not asked_twice(files) or files.sent < 1.1 * big.stat().st_size


def test_a_file_that_changes_while_it_is_read_is_never_mixed(files, fetcher, big, tmp_path):
    def read(*corner):
        with open_windowed(files.url("/big.tif"), fetcher, tmp_path / "c") as remote:
            remote.read(window=Window(*corner, 100, 100))

    read(0, 0)
    files.etags["/big.tif"] = '"new"'
    read(0, 0)
    with pytest.raises(FileChanged, match=r"big\.tif: changed on the server since .* run again"):
        read(2000, 2000)
    files.asked.clear()
    read(2000, 2000)
    read(0, 0)
    assert not asked_twice(files) and {asked.status for asked in files.asked} == {206}


@pytest.mark.parametrize("guard", ["etag", "size"])
def test_a_file_that_changed_takes_the_place_of_the_old_one(tmp_path, log, quick, guard):
    old, new = noise(1, 1200, 600), noise(1, 1200 if guard == "etag" else 1300, 600, seed=9)
    first = write(tmp_path / "a.tif", old, tiled=True, blockxsize=256, blockysize=256)
    second = write(tmp_path / "b.tif", new, tiled=True, blockxsize=256, blockysize=256)
    grid = raster_grid(first, None, 256)
    top = Grid(**{**grid.__dict__, "height": 100})
    etag = {"/a.tif": ""} if guard == "size" else {}
    with RangeServer({"/a.tif": first}, etags=etag).running() as files:
        assert np.array_equal(shard_of(tmp_path, files.url("/a.tif"), top, log)[1], old[:, :100])
        files.files["/a.tif"] = second
        if guard == "etag":
            files.etags["/a.tif"] = '"new"'
        assert np.array_equal(shard_of(tmp_path, files.url("/a.tif"), grid, log)[1], new[:, :1200])
    assert any("changed on the server" in line for line in log.lines)


def shard_of(folder, url, grid, log, shard=None, name="remote", **more):
    shard = shard or grid.shards()[0]
    out = folder / f"{shard.name}.out.tif"
    source = Source(kind="cog", url=url, **more)
    cache = folder / "cache" / "region"
    manifest = download_imagery(name, source, grid, shard, cache, out, folder / "manifest.json", zoom=None, log=log)
    with rasterio.open(out) as raster:
        return manifest, raster.read(), raster.read_masks(1)


def rows_of(folder):
    with open(folder / "manifest_tiles.csv") as handle:
        return list(csv.DictReader(handle))


def test_a_shard_of_a_remote_file_is_that_of_the_local_one(files, big, tmp_path, log, quick):
    whole = raster_grid(big, None, 256)
    grid = Grid(**{**whole.__dict__, "left": whole.left + 500 * RES, "width": 400, "height": 300})
    manifest, found, mask = shard_of(tmp_path, files.url("/big.tif?v=1"), grid, log)
    with rasterio.open(big) as local:
        assert np.array_equal(found, local.read(window=Window(500, 0, 400, 300))) and (mask == 255).all()
    assert manifest["resampled"] is False and manifest["files"] == {"requested": 1, "missing": 0}
    size = str(big.stat().st_size)
    (row,) = rows_of(tmp_path)
    assert (row["file"], row["status"], row["bytes"], row["etag"]) == (
        files.url("/big.tif?v=1"),
        "200",
        size,
        f'"{size}"',
    )
    before = (tmp_path / "manifest_tiles.csv").read_bytes()
    count = len(files.asked)
    shard_of(tmp_path, files.url("/big.tif?v=1"), grid, log)
    assert len(files.asked) == count and (tmp_path / "manifest_tiles.csv").read_bytes() == before
    assert "0.0 MB fetched" in log.lines[-1]


def test_the_first_valid_pixel_wins(tmp_path, log, quick):
    upper, lower = noise(2, 300, 300, 1), noise(2, 300, 300, 2)
    upper[:, 100:200, 150:250] = 0
    moved = Affine(RES, 0, WEST + 200 * RES, 0, -RES, NORTH)
    one = write(tmp_path / "one.tif", upper, nodata=0)
    two = write(tmp_path / "two.tif", lower, transform=moved, nodata=0)
    grid = Grid(**{**raster_grid(one, None, 256).__dict__, "width": 550, "shard_px": 550})
    with RangeServer({"/one.tif": one, "/two.tif": two}).running() as files:
        _, found, mask = shard_of(tmp_path, [files.url("/one.tif"), files.url("/two.tif")], grid, log)
        want = np.zeros((2, 300, 550), np.uint8)
        want[:, :, 200:500], want[:, :, :300] = lower, np.where(upper, upper, want[:, :, :300])
        hole = upper[0] == 0
        want[:, :, 200:300][:, hole[:, 200:]] = lower[:, :, :100][:, hole[:, 200:]]
        assert np.array_equal(found, want) and np.array_equal(mask > 0, want.any(axis=0))
        swapped = shard_of(tmp_path, [files.url("/two.tif"), files.url("/one.tif")], grid, log, name="swapped")[1]
        assert np.array_equal(swapped[:, :, 200:500], lower) and not np.array_equal(swapped, want)
    assert [row["file"].rpartition("/")[2] for row in rows_of(tmp_path)] == ["one.tif", "two.tif"]


def test_zones_and_shards_make_one_picture(tmp_path, log, quick, monkeypatch):
    """Files in two UTM zones, warped to shards of x/y/z pixels: each shard is that part of one big shard."""
    monkeypatch.setattr("pipeline.acquire.windowed.OPEN_STACKS", 1)
    files = RangeServer()
    for epsg, left in ((32631, 735_000), (32632, 264_000)):
        path = write(
            tmp_path / f"{epsg}.tif", noise(3, 400, 400, epsg), f"EPSG:{epsg}", Affine(5, 0, left, 0, -5, 5_000_000)
        )
        files.files[f"/{epsg}.tif"] = path
    with files.running():
        urls = [files.url(f"/{epsg}.tif") for epsg in (32631, 32632)]
        box = (5.985, 45.08, 6.03, 45.115)
        one, parts = web_mercator_grid(box, 14, 65536), web_mercator_grid(box, 14, 256)
        _, whole, mask = shard_of(tmp_path, urls, one, log)
        assert len(parts.shards()) > 3 and 0.2 < (mask > 0).mean() < 1
        for shard in parts.shards():
            _, found, valid = shard_of(tmp_path, urls, parts, log, shard)
            part = np.s_[shard.row_px : shard.row_px + shard.height, shard.col_px : shard.col_px + shard.width]
            assert np.array_equal(valid, mask[part]) and np.array_equal(found, whole[(slice(None), *part)])


def test_absent_files_are_counted_and_above_a_share_an_error(files, big, tmp_path, log, quick):
    grid = Grid(**{**raster_grid(big, None, 256).__dict__, "width": 256, "height": 256})
    urls = [files.url("/sea.tif"), files.url("/big.tif")]
    with pytest.raises(
        DownloadError, match=r"1 of 2 files are not on the server, e\.g\. \S+sea\.tif, above max_missing: 0"
    ):
        shard_of(tmp_path, urls, grid, log)
    manifest = shard_of(tmp_path, urls, grid, log, max_missing=0.5)[0]
    assert manifest["files"] == {"requested": 2, "missing": 1}
    assert [(row["status"], row["reason"]) for row in rows_of(tmp_path)] == [("200", ""), ("404", "not on the server")]
    with pytest.raises(DownloadError, match="none of its 1 files is on the server"):
        shard_of(tmp_path, urls[0], grid, log, max_missing=1)


def test_a_server_without_ranges(tmp_path, log, quick, files, big, monkeypatch):
    files.ranges = False
    grid = Grid(**{**raster_grid(big, None, 256).__dict__, "width": 256, "height": 256})
    monkeypatch.setattr(cog, "WHOLE_BYTES", 1 << 20)
    with pytest.raises(DownloadError, match=r"sends no parts of files .* the whole of 1?\d MB is more than 1 M"):
        shard_of(tmp_path, files.url("/big.tif"), grid, log)
    assert len(files.asked) == 1
    monkeypatch.undo()
    with rasterio.open(big) as local:
        assert np.array_equal(
            shard_of(tmp_path, files.url("/big.tif"), grid, log)[1], local.read(window=Window(0, 0, 256, 256))
        )


def test_bad_answers_are_one_line_and_leave_nothing(tmp_path, log, quick, files, big):
    grid = Grid(**{**raster_grid(big, None, 256).__dict__, "width": 1200, "height": 1200})
    files.files |= {"/page.tif": b"<html>sign in</html>", "/empty.tif": b"", "/none.tif": noise(1, 9, 9).tobytes()}
    raw = big.read_bytes()
    files.files["/cut.tif"], files.files["/torn.tif"] = raw[: len(raw) // 2], raw[:8] + b"no directory" * 9
    files.files["/away.tif"] = write(tmp_path / "away.tif", noise(1, 9, 9), transform=Affine(2, 0, 0, 0, -2, 9e5))
    files.files["/nocrs.tif"] = write(tmp_path / "nocrs.tif", noise(1, 9, 9), crs=None)
    for name, text in {
        "page": "is no GeoTIFF, it begins with b'<html>sign i'; check the url",
        "none": "is no GeoTIFF, it begins with",
        "torn": "is not readable as a raster",
        "cut": "is not readable as a raster",
        "empty": "is empty, or the server does not tell its size",
        "away": "lies outside the region",
        "nocrs": "has no coordinate system",
    }.items():
        with pytest.raises((DataError, DownloadError), match=text) as error:
            shard_of(tmp_path, files.url(f"/{name}.tif"), grid, log)
        assert "\n" not in str(error.value) and "vsi" not in str(error.value)
    files.respond = lambda asked: (403, {}, b"no")
    with pytest.raises(DownloadError, match="HTTP 403; check the key or token"):
        shard_of(tmp_path, files.url("/secret.tif"), grid, log)
    assert not [path for path in tmp_path.iterdir() if "part" in path.name or "out" in path.name]


def test_files_that_differ_in_bands_are_one_line(tmp_path, log, quick):
    one = write(tmp_path / "one.tif", noise(3, 50, 50))
    two = write(tmp_path / "two.tif", noise(1, 50, 50))
    with RangeServer({"/one.tif": one, "/two.tif": two}).running() as files:
        urls = [files.url("/one.tif"), files.url("/two.tif")]
        with pytest.raises(DataError, match=r"two\.tif has 1 bands of uint8, other files have 3 bands of uint8"):
            shard_of(tmp_path, urls, raster_grid(one, None, 256), log)
        assert shard_of(tmp_path, urls, raster_grid(one, None, 256), log, bands=[1])[1].shape == (1, 50, 50)


def test_a_key_reaches_the_server_and_no_file(files, big, tmp_path, log, quick, monkeypatch, everything_below):
    monkeypatch.setenv("MY_KEY", "hush7hush")
    grid = Grid(**{**raster_grid(big, None, 256).__dict__, "width": 256, "height": 256})
    shard_of(tmp_path, files.url("/big.tif?key=${MY_KEY}"), grid, log, headers={"X-Key": "${MY_KEY}"})
    assert all("hush7hush" in asked.path and asked.headers["x-key"] == "hush7hush" for asked in files.asked)
    assert b"hush7hush" not in everything_below(tmp_path) and "hush7hush" not in "".join(log.lines)
    assert rows_of(tmp_path)[0]["file"].endswith("/big.tif?key=${MY_KEY}")


def test_a_damaged_cache_is_fetched_again(files, big, tmp_path, log):
    def sums():
        with (
            Fetcher("the source", QUICK, log) as fetcher,
            open_windowed(files.url("/big.tif"), fetcher, tmp_path / "c") as remote,
        ):
            return int(remote.read().sum())

    right = sums()
    path = next((tmp_path / "c").glob("*.sqlite"))
    with sqlite3.connect(path) as db:
        db.execute("UPDATE blocks SET body = zeroblob(length(body)) WHERE number = 60")
    assert sums() == right and any("block 60 is damaged" in line for line in log.lines)
    path.write_bytes(b"not a database, whatever its name says" * 400)
    assert sums() == right and any("is damaged" in line and ".damaged" in line for line in log.lines)


def test_an_old_file_is_asked_for_again(files, big, tmp_path, fetcher):
    def read(days):
        with open_windowed(files.url("/big.tif"), fetcher, tmp_path / "c", days) as remote:
            remote.read(window=Window(0, 0, 50, 50))

    read(None)
    count = len(files.asked)
    read(1)
    assert len(files.asked) == count
    with sqlite3.connect(next((tmp_path / "c").glob("*.sqlite"))) as db:
        db.execute("UPDATE head SET fetched = '2020-01-01T00:00:00+00:00'")
    read(None)
    assert len(files.asked) == count
    read(1)
    read(1)
    assert len(files.asked) == count + 1


def test_a_file_that_is_not_there_can_be_told_apart(files, fetcher, tmp_path):
    with pytest.raises(NotThere), open_windowed(files.url("/sea.tif"), fetcher, tmp_path / "c"):
        pass
    assert not list((tmp_path / "c").glob("*.tif"))
