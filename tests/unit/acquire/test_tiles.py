"""Tiles onto the grid: every pixel where it belongs, nothing lost to faults or kills, missing means missing."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pyproj
import pytest
import rasterio
from PIL import Image

from pipeline.acquire.imagery import download_imagery
from pipeline.acquire.images import decode_tile
from pipeline.acquire.shards import Mosaic
from pipeline.config import XyzSource
from pipeline.errors import DataError, DownloadError
from pipeline.grid import mercator_lonlat, web_mercator_grid
from pipeline.sources.wms import Source as WmsSource

ZOOM = 16
X0, Y0, NX, NY = 35000, 22000, 6, 5  # tiles of the test region
INSET = 37  # pixels by which the region is smaller than its tiles: nothing lies on a tile's edge


def region(shard_px=4096, inset_px=INSET):
    west, north = mercator_lonlat(X0 * 256 + inset_px, Y0 * 256 + inset_px, ZOOM)
    east, south = mercator_lonlat((X0 + NX) * 256 - inset_px, (Y0 + NY) * 256 - inset_px, ZOOM)
    return web_mercator_grid((west, south, east, north), ZOOM, shard_px)


def expected(tiles, skip=()):
    """The region pasted together tile by tile: pixels [3, h, w]."""
    canvas = np.zeros((NY * 256, NX * 256, 3), dtype=np.uint8)
    for x in range(NX):
        for y in range(NY):
            if (X0 + x, Y0 + y) not in skip:
                canvas[y * 256 : y * 256 + 256, x * 256 : x * 256 + 256] = tiles["noise"]((ZOOM, X0 + x, Y0 + y))
    return canvas[INSET:-INSET, INSET:-INSET].transpose(2, 0, 1)


def source(url, **settings):
    return XyzSource(**{"kind": "xyz", "url": url, "timeout_s": 1.0, "connections": 16, **settings})


def download(folder, url, log, grid=None, shard=None, zoom=ZOOM, name="oam", cache="cache", **settings):
    grid = grid or region()
    shard = shard or grid.shards()[0]
    out, manifest = folder / f"{shard.name}.tif", folder / f"{shard.name}.json"
    result = download_imagery(
        name, source(url, **settings), grid, shard, folder / cache, out, manifest, zoom=zoom, log=log
    )
    assert json.loads(manifest.read_text()) == result
    return result, out


@pytest.fixture
def full(server):
    server.fill(ZOOM, range(X0, X0 + NX), range(Y0, Y0 + NY))
    return server


def test_every_pixel_is_where_it_belongs(full, tmp_path, log, tiles):
    result, out = download(tmp_path, full.url(), log, attribution="© them", terms="https://terms")
    with rasterio.open(out) as raster:
        assert np.array_equal(raster.read(), expected(tiles))
        assert (raster.read_masks(1) == 255).all() and raster.mask_flag_enums[0] == [
            rasterio.enums.MaskFlags.per_dataset
        ]
        assert (raster.count, raster.dtypes[0], raster.block_shapes[0]) == (3, "uint8", (256, 256))
        assert raster.compression.name == "deflate" and raster.crs.to_epsg() == 3857
        to_mercator = pyproj.Transformer.from_crs(4326, 3857, always_xy=True)
        corner = to_mercator.transform(*mercator_lonlat(X0 * 256 + INSET, Y0 * 256 + INSET, ZOOM))
        assert np.allclose((raster.bounds.left, raster.bounds.top), corner, atol=0.01)
    assert result["tiles"] == {"requested": 30, "missing": 0} and result["share_missing"] == 0
    assert (result["attribution"], result["terms"]) == ("© them", "https://terms")
    assert result["tile_bytes"] == sum(map(len, full.tiles.values()))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_missing_tiles_are_masked_and_counted(full, tmp_path, log, tiles):
    missing = [(X0, Y0), (X0 + 3, Y0 + 2)]
    for x, y in missing:
        del full.tiles[ZOOM, x, y]
    result, out = download(tmp_path, full.url(), log, max_missing=2 / 30)
    pixels = expected(tiles, missing)
    with rasterio.open(out) as raster:
        assert np.array_equal(raster.read(), pixels)
        assert np.array_equal(raster.read_masks(1), np.where(pixels.any(axis=0), 255, 0))
    assert result["tiles"] == {"requested": 30, "missing": 2}
    assert result["share_missing"] == pytest.approx(1 - pixels.any(axis=0).mean(), abs=1e-6)


def test_too_many_missing_tiles_are_an_error(full, tmp_path, log):
    for x in range(3):
        del full.tiles[ZOOM, X0 + x, Y0]
    with pytest.raises(DownloadError, match=r"3 of 30 tiles \(10\.0%\) are missing.*max_missing: 0\.05"):
        download(tmp_path, full.url(), log, max_missing=0.05)
    assert not (tmp_path / "r00c00.tif").exists() and not (tmp_path / "r00c00.json").exists()


def test_tiles_remembered_as_missing_come_after_deleting_the_file_that_the_error_names(full, tmp_path, log):
    body = full.tiles.pop((ZOOM, X0, Y0))
    with pytest.raises(DownloadError, match="max_missing: 0 "):
        download(tmp_path, full.url(), log)
    full.tiles[ZOOM, X0, Y0] = body
    with pytest.raises(DownloadError, match=r"exist by now, delete \S+ and") as caught:
        download(tmp_path, full.url(), log)
    path = re.search(r"delete (\S+) and", str(caught.value))[1]
    assert os.path.isfile(path)  # noqa: PTH113
    os.unlink(path)  # noqa: PTH108
    assert download(tmp_path, full.url(), log)[0]["tiles"] == {"requested": 30, "missing": 0}


def test_an_edit_of_the_url_costs_no_fetched_tile(full, tmp_path, log, tiles):
    download(tmp_path, full.url(), log)
    full.asked.clear()
    with pytest.raises(DownloadError):
        download(tmp_path, full.url(".jpg").replace(str(full.port), "1"), log, retries=0)
    result, out = download(tmp_path, full.url(), log)
    assert full.asked == [] and result["tiles"]["missing"] == 0
    with rasterio.open(out) as raster:
        assert np.array_equal(raster.read(), expected(tiles))
    other, _ = download(tmp_path, full.url("?layer=other"), log)
    assert len(full.asked) == 30 and other["sha256"] == result["sha256"]
    full.asked.clear()
    download(tmp_path, full.url("?layer=other"), log)
    download(tmp_path, full.url(), log)
    assert full.asked == []


def test_another_key_is_not_another_cache(full, tmp_path, log, monkeypatch):
    url = full.url("?key=${TILE_KEY}")
    monkeypatch.setenv("TILE_KEY", "s3cr3t-one")
    download(tmp_path, url, log)
    first = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    monkeypatch.setenv("TILE_KEY", "s3cr3t-two")
    result, _ = download(tmp_path, url, log)
    asked = full.url("?key=${TILE_KEY}").replace("{z}/{x}/{y}", f"{ZOOM}/{X0}/{Y0}")
    assert result["first_request"] == asked
    assert len(full.asked) == 30 and set(full.paths) == {path for path in full.paths if path.endswith("s3cr3t-one")}
    assert first == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    (found,) = (tmp_path / "cache" / "tiles" / "oam").glob("*/r00c00.sqlite")
    assert re.fullmatch("[0-9a-f]{10}", found.parent.name)
    assert found.parent.name not in {hashlib.sha256(full.url(f"?key={key}").encode()).hexdigest()[:10]
                                     for key in ("s3cr3t-one", "s3cr3t-two")}  # fmt: skip


@pytest.mark.parametrize(("inset_px", "most"), [(0, 1), (INSET, 4)])
def test_a_tile_is_fetched_once_per_shard_that_it_lies_in(full, tmp_path, log, inset_px, most):
    """Docs/data-sources.md: with the grid on the tiles' edges and whole tiles per shard, once at all."""
    grid = region(shard_px=512, inset_px=inset_px)
    wanted = Counter()
    for shard in grid.shards():
        xs = {(inset_px + col) // 256 for col in range(shard.col_px, shard.col_px + shard.width)}
        ys = {(inset_px + row) // 256 for row in range(shard.row_px, shard.row_px + shard.height)}
        wanted.update((ZOOM, X0 + x, Y0 + y) for x in xs for y in ys)
        download(tmp_path, full.url(), log, grid, shard)
    assert Counter(full.asked) == wanted and len(wanted) == 30 and max(wanted.values()) == most


def test_faults_leave_no_trace_in_the_result(full, tmp_path, log, tiles):
    clean, _ = download(tmp_path / "clean", full.url(), log)
    full.fault = tiles["one_in_five"]
    result, out = download(tmp_path / "faulty", full.url(), log)
    assert full.faults.total() >= 5
    assert result == clean
    with rasterio.open(out) as raster:
        assert np.array_equal(raster.read(), expected(tiles))


def test_two_shards_joined_equal_one(full, tmp_path, log, tiles):
    grid = region(shard_px=512)
    assert len(grid.shards()) == 9
    paths = {shard.name: download(tmp_path, full.url(), log, grid, shard)[1] for shard in grid.shards()}
    whole = expected(tiles)
    with Mosaic(paths, grid) as mosaic:
        for row, col, height, width in [(0, 0, grid.height, grid.width), (500, 490, 30, 40), (511, 0, 1, 1462)]:
            pixels, valid = mosaic.read(row, col, height, width)
            assert np.array_equal(pixels, whole[:, row : row + height, col : col + width]) and valid.all()


SHARD_CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_tiles import download, region
from pipeline.command import Log
grid = region(shard_px=512)
number = int(sys.argv[4])
own = {"name": f"oam_{number}", "cache": f"cache_{number}", "connections": 3, "timeout_s": 30}
download(Path(sys.argv[1]), sys.argv[2], Log(), grid, grid.shards()[number], **own)
"""


def shard_child(folder, url, number, stderr):
    """A process of its own that downloads one shard."""
    here = os.path.dirname(__file__)  # noqa: PTH120
    command = [sys.executable, "-c", SHARD_CHILD, str(folder), url, here, str(number)]
    return subprocess.Popen(command, stderr=stderr, text=True)


def test_one_download_at_a_time_asks_a_host(full, tmp_path, log, tiles):
    """Also of sources and regions that have nothing in common but that host."""
    full.delay_s = 0.6  # nine tiles, three at once: longer than the starts of three interpreters differ
    running = [shard_child(tmp_path, full.url(), number, subprocess.PIPE) for number in (0, 4, 8)]
    texts = [child.communicate(timeout=60)[1] for child in running]
    assert [child.returncode for child in running] == [0, 0, 0], texts
    assert full.most_at_once == 3 and len(full.asked) == 9 + 9 + 2
    waited = [text for text in texts if "waiting" in text]
    assert 1 <= len(waited) <= 2 and all(text.count("waiting") == 1 and "oam" in text for text in waited)
    grid = region(shard_px=512)
    for number in (0, 4, 8):
        shard = grid.shards()[number]
        window = (slice(shard.row_px, shard.row_px + shard.height), slice(shard.col_px, shard.col_px + shard.width))
        with rasterio.open(tmp_path / f"{shard.name}.tif") as raster:
            assert np.array_equal(raster.read(), expected(tiles)[(slice(None), *window)])


def test_cached_shards_and_local_tiles_wait_for_nobody(full, tmp_path, log):
    grid = region(shard_px=512)
    first = grid.shards()[0]
    download(tmp_path, full.url(), log, grid, first)
    local = tmp_path / "local" / str(ZOOM)
    for (_, x, y), body in full.tiles.items():
        (local / str(x)).mkdir(parents=True, exist_ok=True)
        (local / str(x) / f"{y}.png").write_bytes(body)
    full.delay_s, asked = 2.0, len(full.asked)
    with shard_child(tmp_path, full.url(), 4, subprocess.DEVNULL) as other:
        end = time.monotonic() + 20
        while len(full.asked) == asked and time.monotonic() < end:
            time.sleep(0.01)
        log.lines.clear()
        download(tmp_path, full.url(), log, grid, first)
        download(tmp_path, "http://{host}/{z}/{x}/{y}.png", log, grid, first, serve=local.parent)
        assert other.poll() is None
        other.kill()
    assert ["9 from the cache, 0 asked for" in line for line in log.lines] == [True, False]
    assert "0 from the cache, 9 asked for" in log.lines[1]


def test_an_alpha_band_becomes_the_mask(full, tmp_path, log, tiles):
    tile = (ZOOM, X0 + 2, Y0 + 2)
    rgba = tiles["noise"](tile, 4)
    rgba[:, :100, 3] = 0
    full.tiles[tile] = tiles["encode"](rgba)
    _, out = download(tmp_path, full.url(), log)
    window = rasterio.windows.Window(2 * 256 - INSET, 2 * 256 - INSET, 256, 256)
    with rasterio.open(out) as raster:
        assert raster.count == 3
        assert (
            not raster.read(window=window)[:, :, :100].any() and not raster.read_masks(1, window=window)[:, :100].any()
        )
        assert np.array_equal(raster.read(window=window)[:, :, 100:], rgba[:, 100:, :3].transpose(2, 0, 1))
        assert int((raster.read_masks(1) == 0).sum()) == 256 * 100


@pytest.mark.parametrize(
    ("form", "mode"),
    [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "P"), ("PNG", "L"), ("WEBP", "RGB"), ("GIF", "P")],
)
def test_the_content_counts_not_the_suffix(tiles, form, mode):
    body = tiles["encode"](tiles["noise"]((1, 2, 3)), form, mode)
    pixels, valid = decode_tile(body, 256)
    with Image.open(io.BytesIO(body)) as image:
        assert image.format == form
        assert np.array_equal(pixels, np.asarray(image.convert("RGB")).transpose(2, 0, 1))
    assert valid.all() and (mode != "L" or np.array_equal(pixels[0], pixels[2]))


def test_a_transparent_palette_colour_is_no_imagery(tiles):
    indices = tiles["noise"]((4, 4, 4), 1)[:, :, 0] % 4
    image = Image.fromarray(indices).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    out = io.BytesIO()
    image.save(out, "PNG", transparency=2)
    pixels, valid = decode_tile(out.getvalue(), 256)
    assert np.array_equal(valid, indices != 2)
    assert np.array_equal(pixels[1][valid], np.array([20, 50, 80, 110])[indices][valid])


def test_tiles_of_another_size_are_named_and_not_asked_for_again(full, tmp_path, log, tiles):
    full.tiles = dict.fromkeys(full.tiles, tiles["encode"](np.zeros((512, 512, 3), np.uint8)))
    with pytest.raises(DownloadError, match=rf"tile {ZOOM}/3500\d/2200\d of .* is 512 × 512 px, not 256 × 256"):
        download(tmp_path, full.url(), log, connections=4)
    assert len(full.asked) <= 4


def test_sixteen_bits_are_named(tiles):
    with pytest.raises(DataError, match="mode I;16"):
        decode_tile(tiles["encode"](np.zeros((256, 256), np.uint16)), 256)


@pytest.mark.parametrize("px", [9000, 60000])
def test_a_decompression_bomb_is_not_unpacked(px):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes(1000 * 1000), 9)
    head = struct.pack(">IIBBBBB", px, px, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    with pytest.raises(DataError, match=r"larger|9000 × 9000"):
        decode_tile(bomb, 256)


def test_local_tiles_are_served_and_changed_ones_fetched_again(full, tmp_path, log, tiles):
    folder = tmp_path / "tiles"
    for (z, x, y), body in full.tiles.items():
        path = folder / str(z) / str(x) / f"{y}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    url = "http://{host}/{z}/{x}/{y}.png"
    first, out = download(tmp_path, url, log, serve=folder)
    with rasterio.open(out) as raster:
        assert np.array_equal(raster.read(), expected(tiles))
    assert first["url"] == url and "127.0.0.1" not in json.dumps(first)
    assert download(tmp_path, url, log, serve=folder)[0] == first
    assert "30 from the cache" in log.lines[-1]
    (folder / str(ZOOM) / str(X0 + 1) / f"{Y0 + 1}.png").unlink()
    changed, _ = download(tmp_path, url, log, serve=folder, max_missing=0.1)
    assert changed["tiles"]["missing"] == 1


@pytest.mark.parametrize("zoom", [ZOOM + 1, ZOOM - 1])
def test_a_zoom_that_is_not_the_grids_is_an_error(full, tmp_path, log, zoom):
    with pytest.raises(DataError, match=f"zoom {zoom}"):
        download(tmp_path, full.url(), log, zoom=zoom)
    assert full.asked == []


def test_the_zoom_follows_from_the_grid(full, tmp_path, log):
    assert download(tmp_path, full.url(), log, zoom=None)[0]["zoom"] == ZOOM


def test_progress_tells_rate_and_time_left(full, tmp_path, log):
    log.every_s = 0.0
    download(tmp_path, full.url(), log)
    assert sum("tiles/s" in line and "s left" in line for line in log.lines) == 30
    assert log.lines[-1].startswith("oam, shard r00c00: 30 tiles, 0 from the cache, 30 asked for")


def rows(out):
    with open(out.with_name(f"{out.stem}_tiles.csv"), newline="") as handle:
        return list(csv.DictReader(handle))


def test_every_tile_has_a_row(full, tmp_path, log, monkeypatch):
    key = "s3cr3t-value"
    monkeypatch.setenv("TILE_KEY", key)
    del full.tiles[ZOOM, X0 + 1, Y0]
    full.statuses[ZOOM, X0 + 2, Y0 + 3] = 204
    _, out = download(tmp_path, full.url("?k=${TILE_KEY}"), log, max_missing=0.1)
    found = rows(out)
    assert list(found[0]) == ["zoom", "x", "y", "status", "reason", "bytes", "sha256", "date", "etag"]
    places = [(int(row["zoom"]), int(row["x"]), int(row["y"])) for row in found]
    assert places == sorted((ZOOM, X0 + x, Y0 + y) for x in range(NX) for y in range(NY))
    today = datetime.now(UTC).date().isoformat()
    for place, row in zip(places, found, strict=True):
        body = full.tiles.get(place, b"") if full.statuses.get(place) != 204 else b""
        assert (row["bytes"], row["sha256"]) == (str(len(body)), hashlib.sha256(body).hexdigest())
        assert row["date"] in (today, datetime.now(UTC).date().isoformat()) and "${TILE_KEY}" in row["etag"]
    assert {row["reason"] for row in found if row["status"] == "200"} == {""}
    assert [(row["x"], row["status"], row["reason"]) for row in found if row["reason"]] == [
        (str(X0 + 1), "404", "HTTP 404"),
        (str(X0 + 2), "204", "HTTP 204"),
    ]
    written = out.with_name("r00c00_tiles.csv").read_bytes()
    assert key.encode() not in written
    download(tmp_path, full.url("?k=${TILE_KEY}"), log, max_missing=0.1)
    assert out.with_name("r00c00_tiles.csv").read_bytes() == written


GREY = np.full((256, 256, 3), 238, np.uint8)


@pytest.mark.parametrize("how", ["headers", "sha256", "colours"])
def test_blank_tiles_are_missing(full, tmp_path, log, tiles, how):
    holes = [(X0, Y0), (X0 + 4, Y0 + 1), (X0 + 5, Y0 + 4)]
    blank_body = tiles["encode"](GREY)
    for x, y in holes:
        full.tiles[ZOOM, x, y] = blank_body
        full.headers[ZOOM, x, y] = {"X-VE-Tile-Info": "no-tile"}
    seen, _ = download(tmp_path / "unknowing", full.url(), log)
    assert seen["tiles"]["missing"] == 0
    blank = {"headers": {"x-ve-tile-info": "no-tile"}, "sha256": [hashlib.sha256(blank_body).hexdigest().upper()]}
    chosen = {how: {**blank, "colours": [[1, 1, 1], [238, 238, 238]]}[how]}
    with pytest.raises(DownloadError, match=r"3 of 30 tiles .* missing .*3 × blank: .*max_missing: 0\.05"):
        download(tmp_path, full.url(), log, blank=chosen, max_missing=0.05)
    result, out = download(tmp_path, full.url(), log, blank=chosen, max_missing=0.1)
    assert result["tiles"] == {"requested": 30, "missing": 3} and sum(result["missing"].values()) == 3
    with rasterio.open(out) as raster:
        assert np.array_equal(raster.read(), expected(tiles, holes))
        assert np.array_equal(raster.dataset_mask() > 0, expected(tiles, holes).any(axis=0))
    assert {(int(row["x"]), int(row["y"])) for row in rows(out) if row["reason"].startswith("blank: ")} == set(holes)
    if how != "headers":  # what a body says is seen in the cache too
        asked = len(full.asked)
        with pytest.raises(DownloadError, match="3 of 30 tiles"):
            download(tmp_path / "unknowing", full.url(), log, blank=chosen)
        assert len(full.asked) == asked


def test_a_tile_transparent_all_over_is_missing(full, tmp_path, log, tiles):
    clear = tiles["noise"]((1, 1, 1), 4).copy()
    clear[..., 3] = 0
    full.tiles[ZOOM, X0 + 3, Y0 + 3] = tiles["encode"](clear)
    with pytest.raises(DownloadError, match=r"1 of 30 tiles .* are missing .*1 × transparent"):
        download(tmp_path, full.url(), log)
    result, out = download(tmp_path, full.url(), log, max_missing=0.1)
    assert result["tiles"]["missing"] == 1 and result["missing"] == {"transparent": 1}
    assert [row["reason"] for row in rows(out) if row["reason"]] == ["transparent"]
    with rasterio.open(out) as raster:
        assert (raster.dataset_mask() == 0).sum() == 256 * 256


def test_the_summary_names_what_looks_blank(full, tmp_path, log, tiles):
    sorry, grey = tiles["encode"](tiles["noise"]((7, 7, 7))), tiles["encode"](GREY)
    for x in range(5):
        full.tiles[ZOOM, X0 + x, Y0] = sorry
    for x in range(2):
        full.tiles[ZOOM, X0 + x, Y0 + 1] = grey
    result, _ = download(tmp_path, full.url(), log)
    assert result["tiles"]["missing"] == 0
    assert "2 of one colour (2 × #eeeeee)" in log.lines[-1]
    assert f"5 the same image (sha256 {hashlib.sha256(sorry).hexdigest()})" in log.lines[-1]
    blank = {"sha256": [hashlib.sha256(sorry).hexdigest()], "colours": [[238] * 3]}
    download(tmp_path, full.url(), log, blank=blank, max_missing=0.3)
    assert "one colour (2" not in log.lines[-1] and "same image" not in log.lines[-1]


@pytest.mark.parametrize("px", [512, 1024])
@pytest.mark.parametrize("shard_px", [4096, 700])
def test_bigger_tiles_lie_as_they_should(server, tmp_path, log, tiles, px, shard_px):
    step = px // 256
    zoom, x0, y0 = ZOOM - step.bit_length() + 1, X0 // step, Y0 // step
    xs, ys = range(x0, x0 + NX // step + 2), range(y0, y0 + NY // step + 2)
    server.fill(zoom, xs, ys, px=px)
    grid = region(shard_px)
    canvas = np.hstack([np.vstack([tiles["noise"]((zoom, x, y), px=px) for y in ys]) for x in xs])
    row, col = Y0 * 256 + INSET - y0 * px, X0 * 256 + INSET - x0 * px
    whole = canvas[row : row + grid.height, col : col + grid.width].transpose(2, 0, 1)
    for shard in grid.shards():
        result, out = download(tmp_path, server.url(), log, grid, shard, tile_px=px)
        window = (slice(shard.row_px, shard.row_px + shard.height), slice(shard.col_px, shard.col_px + shard.width))
        with rasterio.open(out) as raster:
            assert np.array_equal(raster.read(), whole[(slice(None), *window)])
        assert (result["zoom"], result["tile_px"]) == (zoom, px)


def test_across_the_antimeridian_columns_start_anew(server, tmp_path, log, tiles):
    zoom = 4
    server.fill(zoom, range(16), range(5, 7))
    west, north = mercator_lonlat(14 * 256 + 5, 5 * 256 + 5, zoom)
    east, south = mercator_lonlat(2 * 256 - 5, 7 * 256 - 5, zoom)
    grid = web_mercator_grid((west, south, east + 360, north), zoom, 4096)
    _, out = download(tmp_path, server.url(), log, grid, zoom=zoom)
    assert set(server.asked) == {(zoom, x, y) for x in (14, 15, 0, 1) for y in (5, 6)}
    columns = [np.vstack([tiles["noise"]((zoom, x, y)) for y in (5, 6)]) for x in (14, 15, 0, 1)]
    with rasterio.open(out) as raster:
        assert np.array_equal(raster.read(), np.hstack(columns)[5:-5, 5:-5].transpose(2, 0, 1))


def test_terms_that_nobody_accepted_stop_before_any_request(full, tmp_path, log):
    with pytest.raises(DownloadError, match=r"imagery 'oam' is off: its terms \(https://t\).*accept_terms: true"):
        download(tmp_path, full.url(), log, requires_terms=True, terms="https://t")
    assert full.asked == [] and list(tmp_path.iterdir()) == []
    assert download(tmp_path, full.url(), log, requires_terms=True, accept_terms=True)[0]["tiles"]["missing"] == 0


def test_a_key_that_is_not_set_stops_before_any_request(full, tmp_path, log, monkeypatch):
    monkeypatch.delenv("TILE_KEY", raising=False)
    for url, headers in ((full.url("?k=${TILE_KEY}"), {}), (full.url(), {"X-Key": "${TILE_KEY}"})):
        with pytest.raises(DownloadError, match="environment variable TILE_KEY that the source at http"):
            download(tmp_path, url, log, headers=headers)
    assert full.asked == []


def test_a_service_that_refuses_is_one_line_in_its_own_words(full, tmp_path, log, monkeypatch):
    monkeypatch.setenv("TILE_KEY", "s3cr3t-value")
    words = "Layer 'dop' is not defined.\n  token s3cr3t-value is unknown"
    body = f'<?xml version="1.0"?><ServiceExceptionReport><ServiceException>{words}</ServiceException>'
    full.misbehave = lambda handler, fault, _: full.send(
        handler, 200, f"{body}</ServiceExceptionReport>".encode(), {"Content-Type": "application/vnd.ogc.se_xml"}
    )
    full.fault = lambda tile, attempt: "refused"
    source = WmsSource(kind="wms", url=full.url("").replace("{z}/{x}/{y}", "1/1/1?k=${TILE_KEY}"), layers="dop")
    grid, out = region(), tmp_path / "r00c00.tif"
    with pytest.raises(DownloadError, match="Layer 'dop' is not defined") as caught:
        download_imagery(
            "dop", source, grid, grid.shards()[0], tmp_path / "c", out, out.with_suffix(".json"), zoom=ZOOM, log=log
        )
    assert "\n" not in str(caught.value) and "s3cr3t-value" not in str(caught.value) and not out.exists()
    assert len(full.asked) <= source.connections


def test_old_tiles_are_renewed_and_the_summary_says_so(full, tmp_path, log):
    download(tmp_path, full.url(), log)
    full.fault = lambda tile, attempt: "500" if tile == (ZOOM, X0, Y0) else None
    result, _ = download(tmp_path, full.url(), log, max_age_days=0.0, retries=1)
    assert result["tiles"] == {"requested": 30, "missing": 0}
    assert "29 unchanged since they were fetched" in log.lines[-1]
    assert "1 old ones kept, since asking again failed (1 × HTTP 500)" in log.lines[-1]
