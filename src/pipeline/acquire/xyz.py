"""x/y/z tiles onto the region's grid, unresampled: fetched into the cache, then written strip by strip."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.acquire.cache import Tile, TileCache, cache_path, holding
from pipeline.acquire.http import BadTile, Check, Fetched, Policy, TileUrl, fetch_all
from pipeline.acquire.serve import serve_tiles
from pipeline.acquire.shards import BLOCK_PX, Pixels, Valid, write_shard
from pipeline.command import Log
from pipeline.config import XyzSource
from pipeline.errors import DataError, DownloadError
from pipeline.grid import MERCATOR_HALF_M, TILE_PX, Grid, Shard, tile_of_grid

BANDS = 3
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr"}


@dataclass(frozen=True)
class Window:
    """A shard in pixels of the world's pyramid: zoom, global row and column of its corner, height and width."""

    zoom: int
    row: int
    col: int
    height: int
    width: int

    @property
    def rows(self) -> range:
        """Tile rows (y) that the window touches."""
        return range(self.row // TILE_PX, (self.row + self.height - 1) // TILE_PX + 1)

    @property
    def cols(self) -> range:
        """Tile columns (x) that the window touches."""
        return range(self.col // TILE_PX, (self.col + self.width - 1) // TILE_PX + 1)

    @property
    def tiles(self) -> list[Tile]:
        """Every tile, row by row."""
        return [(self.zoom, x, y) for y in self.rows for x in self.cols]


def download_xyz(
    name: str, source: XyzSource, grid: Grid, shard: Shard, cache: Path, out: Path, *, zoom: int | None, log: Log
) -> dict[str, Any]:
    """Fetch the tiles of one shard and write them to `out`; return the manifest (see `download_imagery`).

    Tiles become uint8 [3, 256, 256] whatever their format: grey is repeated, palettes are looked up, alpha 0 and
    missing tiles are without imagery. One shard of a source at a time asks its server, so that `connections` and
    Retry-After hold for the source. With `source.serve`, a server on loopback lives as long as the download, shards
    take no turns, and tiles are read again once files changed.
    """
    window = _window(name, source, grid, shard, zoom)
    label = f"{name}, shard {shard.name}"
    with ExitStack() as stack:
        host = stack.enter_context(serve_tiles(source.serve)) if source.serve is not None else ""
        url = TileUrl(source.url, host)
        template = source.url if source.serve is None else f"{source.url} from {source.serve}"
        files = "" if source.serve is None else _files_of(source.serve, window)
        path = cache_path(cache, name, template, shard.name)
        store = stack.enter_context(TileCache(path, url.public, log, files=files))
        policy = Policy(source.connections, source.retries, source.timeout_s, use_proxy=source.serve is None)
        alone = source.serve is None and not store.statuses().keys() >= set(window.tiles)
        waiting = f"{label}: waiting for another shard of {name}; one at a time asks its server"
        with holding(path.parents[1] / "download.lock", waiting, log) if alone else nullcontext():
            done = fetch_all(label, window.tiles, url, store, _check(label, url), policy, log)
        _report(label, done, store.dates(), log)
        share = done.missing / done.requested
        if share > source.max_missing:
            raise DownloadError(
                f"{label}: {done.missing} of {done.requested} tiles ({share:.1%}) are missing at {url.public}, above "
                f"max_missing: {source.max_missing:g} of a shard; correct the bbox, raise imagery.{name}.max_missing, "
                f"or, if they exist by now, delete {path} and run again"
            )
        totals = _Totals()
        written = write_shard(out, grid, shard, BANDS, "uint8", _strips(window, store, totals))
    return {
        "source": name,
        "kind": "xyz",
        "url": url.public,
        "attribution": source.attribution,
        "terms": source.terms,
        "shard": shard.name,
        "zoom": window.zoom,
        "tiles": {"requested": done.requested, "missing": done.missing},
        "tile_bytes": totals.tile_bytes,
        "bands": BANDS,
        "dtype": "uint8",
        "height": shard.height,
        "width": shard.width,
        "share_missing": round(1 - written.valid_px / (shard.height * shard.width), 6),
        "sha256": written.sha256,
    }


def _window(name: str, source: XyzSource, grid: Grid, shard: Shard, zoom: int | None) -> Window:
    if zoom is None:
        zoom = source.zoom
    if zoom is None:
        zoom = round(math.log2(2 * MERCATOR_HALF_M / (TILE_PX * grid.res_x)))
    res = 2 * MERCATOR_HALF_M / (TILE_PX * 2**zoom)
    if grid.crs != "EPSG:3857" or abs(grid.res_x / res - 1) > 1e-9 or abs(grid.res_y / res - 1) > 1e-9:
        raise DataError(
            f"imagery {name!r}: the grid ({grid.crs[:40]}, {grid.res_x:g} per pixel) is not that of x/y/z tiles at "
            f"zoom {zoom} (EPSG:3857, {res:g}); give the region grid: {{zoom: …}}"
        )
    col, row = tile_of_grid(grid, zoom)
    return Window(zoom, row + shard.row_px, col + shard.col_px, shard.height, shard.width)


def _files_of(folder: Path, window: Window) -> str:
    """A fingerprint of the names, sizes and times of the window's tile files in `folder`."""
    digest = hashlib.sha256()
    for x in window.cols:
        column = folder / str(window.zoom) / str(x)
        if not column.is_dir():
            continue
        with os.scandir(column) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                stem = entry.name.partition(".")[0]
                if stem.isdecimal() and int(stem) in window.rows:
                    status = entry.stat()
                    digest.update(f"{x}/{entry.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def _report(label: str, done: Fetched, dates: tuple[str, str] | None, log: Log) -> None:
    text = f"{label}: {done.requested} tiles, {done.cached} from the cache, {done.fetched} asked for"
    if done.fetched:
        rate = done.fetched / max(done.seconds, 1e-6)
        text += f" ({done.received_bytes / 1e6:.1f} MB, {rate:.0f} tiles/s)"
    text += f", {done.missing} missing"
    if done.retries:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in done.retries.most_common(5))
        text += f"; {done.retries.total()} retries ({reasons})"
    if dates is not None:
        text += f"; fetched {dates[0]}" + (f" to {dates[1]}" if dates[1] != dates[0] else "")
    log(text)


def _check(label: str, url: TileUrl) -> Check:
    def check(tile: Tile, body: bytes) -> None:
        try:
            decode_tile(body)
        except DataError as error:
            where = "/".join(map(str, tile))
            raise DownloadError(f"{label}: tile {where} of {url.public} {error}") from None

    return check


def decode_tile(body: bytes) -> tuple[Pixels, Valid]:
    """Decode one tile by its content, whatever its name says.

    Returns:
        pixels uint8 [3, 256, 256] (red, green, blue) and valid bool [256, 256] (alpha above 0).

    Raises:
        BadTile: no image, or one that is cut off.
        DataError: an image of another size than 256 × 256 px (found before its pixels are unpacked) or above 8 bits.
    """
    try:
        image = Image.open(io.BytesIO(body), formats=FORMATS)
    except Image.DecompressionBombError:
        raise DataError(f"is far larger than {TILE_PX} × {TILE_PX} px") from None
    except Exception:
        raise BadTile("no image") from None
    with image:
        if image.size != (TILE_PX, TILE_PX):
            raise DataError(f"is {image.width} × {image.height} px, not {TILE_PX} × {TILE_PX}; take another url")
        if image.mode not in MODES:
            raise DataError(f"has pixels of mode {image.mode}; only 8 bits per band are read")
        try:
            rgba = np.asarray(image.convert("RGBA"))
        except Exception:
            raise BadTile("broken image") from None
    return rgba[:, :, :BANDS].transpose(2, 0, 1), rgba[:, :, BANDS] > 0


@dataclass
class _Totals:
    tile_bytes: int = 0


def _strips(window: Window, cache: TileCache, totals: _Totals) -> Iterator[tuple[Pixels, Valid]]:
    """Strips of `BLOCK_PX` rows of the window; every tile is decoded once, two rows of tiles are in memory."""
    rows: dict[int, tuple[Pixels, Valid]] = {}
    for top in range(window.row, window.row + window.height, BLOCK_PX):
        bottom = min(top + BLOCK_PX, window.row + window.height)
        pixels = np.zeros((BANDS, bottom - top, window.width), dtype=np.uint8)
        valid = np.zeros((bottom - top, window.width), dtype=bool)
        for y in range(top // TILE_PX, (bottom - 1) // TILE_PX + 1):
            if y not in rows:
                rows[y] = _tile_row(window, y, cache, totals)
            r0, r1 = max(top, y * TILE_PX), min(bottom, (y + 1) * TILE_PX)
            source, target = slice(r0 - y * TILE_PX, r1 - y * TILE_PX), slice(r0 - top, r1 - top)
            pixels[:, target] = rows[y][0][:, source]
            valid[target] = rows[y][1][source]
        rows = {y: row for y, row in rows.items() if (y + 1) * TILE_PX > bottom}
        yield pixels, valid


def _tile_row(window: Window, y: int, cache: TileCache, totals: _Totals) -> tuple[Pixels, Valid]:
    """One row of tiles, cropped to the window's columns: pixels [3, 256, width], valid [256, width]."""
    pixels = np.zeros((BANDS, TILE_PX, window.width), dtype=np.uint8)
    valid = np.zeros((TILE_PX, window.width), dtype=bool)
    for x in window.cols:
        found = cache.get((window.zoom, x, y))
        if found is None or found.status != 200:
            continue
        totals.tile_bytes += len(found.body)
        tile, tile_valid = decode_tile(found.body)
        c0, c1 = max(window.col, x * TILE_PX), min(window.col + window.width, (x + 1) * TILE_PX)
        source, target = slice(c0 - x * TILE_PX, c1 - x * TILE_PX), slice(c0 - window.col, c1 - window.col)
        pixels[:, :, target] = tile[:, :, source]
        valid[:, target] = tile_valid[:, source]
    return pixels, valid
