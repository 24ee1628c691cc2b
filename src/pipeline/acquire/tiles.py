"""Tiles of any source onto the region's grid, unresampled: fetched into the cache, then written strip by strip."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.acquire.cache import Answer, Entry, TileCache, cache_path
from pipeline.acquire.hosts import turn
from pipeline.acquire.http import MISSING, Check, Errand, Fetched, Policy, Refused, fetch_all
from pipeline.acquire.images import TRANSPARENT, decode_tile, one_colour
from pipeline.acquire.keys import TileUrl, public
from pipeline.acquire.rows import TileRow
from pipeline.acquire.serve import file_served, serve_tiles
from pipeline.acquire.shards import BLOCK_PX, Pixels, Valid, write_shard
from pipeline.command import Log
from pipeline.errors import DataError, DownloadError
from pipeline.grid import Grid, Shard
from pipeline.sources._base import BlankTiles, Layout, Tile, TiledSource

BANDS = 3
DAY_S = 86_400.0
REPEATED = 5  # times that an image comes in one shard before the summary names it


def download_tiles(
    name: str, source: TiledSource, grid: Grid, shard: Shard, cache: Path, out: Path, *, zoom: int | None, log: Log
) -> tuple[dict[str, Any], list[TileRow]]:
    """Fetch the tiles of one shard and write them to `out`.

    Tiles become uint8 RGB whatever their format; alpha 0, missing and blank tiles are without imagery, and a tile that
    is clear all over counts as missing. One download at
    a time asks a host, whatever the source, shard and region, so that `connections`, `rate_per_s` and Retry-After hold
    for the host. With `source.serve`, a server on loopback lives as long as the download, nobody waits for it, and
    tiles are read again once files changed.

    Returns:
        The manifest (see `download_imagery`) and one row per tile.

    Raises:
        DownloadError: a key that is not set, tiles that could not be had, or too many of them missing.
        DataError: tiles of another kind than the source says.
    """
    layout = source.layout(name, grid, zoom)
    places = layout.tiles(shard)
    label = f"{name}, shard {shard.name}"
    with ExitStack() as stack:
        host = stack.enter_context(serve_tiles(source.serve)) if source.serve is not None else ""
        url = _url(source, layout, grid, host, next(iter(places)))
        template = source.url if source.serve is None else f"{source.url} from {source.serve}"
        files = "" if source.serve is None else _files_of(source.serve, [url.of(tile) for tile in places])
        path = cache_path(cache, name, template, shard.name, layout.key)
        store = stack.enter_context(TileCache(path, url.public, log, files=files))
        done = _fetch(label, source, url, layout, list(places), store, cache.parent, log)
        entries = store.entries()
        missing = _missing(places, entries, store, source.blank, layout.tile_px)
        _report(label, done, missing, {tile: entries[tile] for tile in places}, log)
        if len(missing) / len(places) > source.max_missing:
            raise DownloadError(_too_many(label, name, missing, len(places), url.public, path, source.max_missing))
        tiles = [tile for tile in places if tile not in missing]
        strips = _strips(shard, layout, {tile: places[tile] for tile in tiles}, store.body)
        written = write_shard(out, grid, shard, BANDS, "uint8", strips)
    manifest = {
        "source": name,
        "kind": source.kind,
        "url": url.public,
        "first_request": public(source.address(next(iter(places)), layout, grid)),  # layers, CRS and time stand in it
        "attribution": source.attribution,
        "terms": source.terms,
        "shard": shard.name,
        "zoom": layout.zoom,
        "tiles": {"requested": len(places), "missing": len(missing)},
        "missing": dict(Counter(missing.values())),
        "tile_px": layout.tile_px,
        "tile_bytes": sum(entries[tile].bytes for tile in tiles),
        "bands": BANDS,
        "dtype": "uint8",
        "height": shard.height,
        "width": shard.width,
        "share_missing": round(1 - written.valid_px / (shard.height * shard.width), 6),
        "sha256": written.sha256,
    }
    return manifest, [_row(tile, entries[tile], missing.get(tile, "")) for tile in places]


def _url(source: TiledSource, layout: Layout, grid: Grid, host: str, example: Tile) -> TileUrl:
    def address(tile: Tile) -> str:
        return source.address(tile, layout, grid)

    return TileUrl(source.url, host, address=address, example=example, headers=source.headers)


def _fetch(
    label: str,
    source: TiledSource,
    url: TileUrl,
    layout: Layout,
    tiles: list[Tile],
    store: TileCache,
    project_cache: Path,
    log: Log,
) -> Fetched:
    policy = Policy(
        source.connections,
        source.rate_per_s,
        source.retries,
        source.timeout_s,
        use_proxy=source.serve is None,
        http2=source.http2,
        max_age_s=None if source.max_age_days is None else source.max_age_days * DAY_S,
    )
    errand = Errand(label, url, policy, check_of(label, source, url, layout.tile_px), source.refusal)
    if source.serve is not None or (policy.max_age_s is None and store.entries().keys() >= set(tiles)):
        return fetch_all(errand, tiles, store, log)
    with turn(project_cache, source.url, label, log) as note:
        return fetch_all(replace(errand, note=note), tiles, store, log)


def check_of(label: str, source: TiledSource, url: TileUrl, tile_px: int) -> Check:
    """What tells a tile from anything else that comes with status 200 (see `pipeline.acquire.http.Errand`)."""
    blank = {} if source.blank is None else source.blank.headers

    def check(tile: Tile, answer: Answer, headers: Mapping[str, str]) -> Answer:
        for header, value in blank.items():
            if headers.get(header, "").strip().lower() == value.strip().lower():
                return replace(answer, reason="blank: header")
        refused = source.refusal(answer.body, answer.content_type)
        where = f"{label}: tile {'/'.join(map(str, tile))} of {url.public}"
        if refused is not None:
            words = f"the server refuses it: {url.redact(refused)[:200]}"
            raise Refused(f"{where}: {words}", words)
        try:
            colour = one_colour(answer.body, tile_px)
        except DataError as error:
            raise DownloadError(f"{where} {error}") from None
        return replace(answer, colour=colour, reason=TRANSPARENT if colour == TRANSPARENT else "")

    return check


def _missing(
    tiles: Mapping[Tile, Any], entries: Mapping[Tile, Entry], store: TileCache, blank: BlankTiles | None, tile_px: int
) -> dict[Tile, str]:
    """The tiles without imagery → why: what the server has not, what is clear, and what `blank` says is none."""
    hashes = set() if blank is None else {text.lower() for text in blank.sha256}
    colours = set() if blank is None else {bytes(colour).hex() for colour in blank.colours}
    found: dict[Tile, str] = {}
    for tile in tiles:
        entry = entries[tile]
        if entry.status in MISSING:
            found[tile] = f"HTTP {entry.status}"
        elif entry.reason or entry.colour == TRANSPARENT:  # the latter alone in caches of an earlier version
            found[tile] = entry.reason or TRANSPARENT
        elif entry.sha256 in hashes:
            found[tile] = "blank: placeholder"
        elif colours:
            colour = one_colour(store.body(tile), tile_px) if entry.colour is None else entry.colour
            if colour in colours:
                found[tile] = "blank: one colour"
    return found


def _files_of(folder: Path, addresses: list[str]) -> str:
    """A fingerprint of the names, sizes and times of the files in `folder` that the addresses ask for."""
    digest = hashlib.sha256()
    for address in addresses:
        path = file_served(folder, "/" + address.partition("://")[2].partition("/")[2])
        if path is not None and path.is_file():
            status = path.stat()
            digest.update(f"{path.relative_to(folder)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def _report(label: str, done: Fetched, missing: Mapping[Tile, str], entries: Mapping[Tile, Entry], log: Log) -> None:
    """The download in one line."""
    asked = done.fetched + done.renewed
    text = f"{label}: {done.requested} tiles, {done.cached} from the cache, {asked} asked for"
    if asked:
        text += f" ({done.received_bytes / 1e6:.1f} MB, {asked / max(done.seconds, 1e-6):.0f} tiles/s)"
    text += f", {len(missing)} missing" + (f" ({_counts(Counter(missing.values()))})" if missing else "")
    for suspect in _suspects([entry for tile, entry in entries.items() if tile not in missing]):
        text += f", {suspect}"
    if done.renewed:
        text += f", {done.renewed} unchanged since they were fetched"
    if done.kept:
        text += f"; {done.kept.total()} old ones kept, since asking again failed ({_counts(done.kept)})"
    if done.retries:
        text += f"; {done.retries.total()} retries ({_counts(done.retries)})"
    days = sorted(entry.fetched[:10] for entry in entries.values())
    first, last = days[0], days[-1]
    log(text + f"; fetched {first}" + (f" to {last}" if last != first else ""))


def _suspects(entries: list[Entry]) -> list[str]:
    """What looks like "no imagery" among tiles that count as imagery; that it is, only `blank` in the config says."""
    colours = Counter(f"#{entry.colour}" for entry in entries if entry.colour)
    bodies = Counter(entry.sha256 for entry in entries if entry.colour == "")
    body, times = max(bodies.items(), key=lambda item: item[1], default=("", 0))
    found = [f"{colours.total()} of one colour ({_counts(colours)})"] if colours else []
    return found + ([f"{times} the same image (sha256 {body})"] if times >= REPEATED else [])


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} × {reason}" for reason, count in counter.most_common(5))


def _too_many(label: str, name: str, missing: Mapping[Tile, str], count: int, url: str, path: Path, most: float) -> str:
    return (
        f"{label}: {len(missing)} of {count} tiles ({len(missing) / count:.1%}) are missing at {url} "
        f"({_counts(Counter(missing.values()))}), above max_missing: {most:g} of a shard; correct the bbox, raise "
        f"imagery.{name}.max_missing, or, if they exist by now, delete {path} and run again"
    )


def _row(tile: Tile, entry: Entry, reason: str) -> TileRow:
    return TileRow(*tile, entry.status, reason, entry.bytes, entry.sha256, entry.fetched[:10], entry.etag)


def _strips(
    shard: Shard, layout: Layout, places: Mapping[Tile, tuple[int, int]], body: Callable[[Tile], bytes]
) -> Iterator[tuple[Pixels, Valid]]:
    """Strips of `BLOCK_PX` rows of the shard; every tile is decoded once, the rows of tiles of one strip in memory."""
    px = layout.tile_px
    rows: dict[int, list[tuple[Tile, int]]] = {}
    for tile, (row, col) in places.items():
        rows.setdefault(row, []).append((tile, col))
    unpacked: dict[int, tuple[Pixels, Valid]] = {}
    for top in range(0, shard.height, BLOCK_PX):
        bottom = min(top + BLOCK_PX, shard.height)
        pixels = np.zeros((BANDS, bottom - top, shard.width), dtype=np.uint8)
        valid = np.zeros((bottom - top, shard.width), dtype=bool)
        for row in (row for row in rows if row < bottom and row + px > top):
            if row not in unpacked:
                unpacked[row] = _tile_row(shard, px, rows[row], body)
            r0, r1 = max(top, row), min(bottom, row + px)
            pixels[:, r0 - top : r1 - top] = unpacked[row][0][:, r0 - row : r1 - row]
            valid[r0 - top : r1 - top] = unpacked[row][1][r0 - row : r1 - row]
        unpacked = {row: found for row, found in unpacked.items() if row + px > bottom}
        yield pixels, valid


def _tile_row(
    shard: Shard, px: int, tiles: list[tuple[Tile, int]], body: Callable[[Tile], bytes]
) -> tuple[Pixels, Valid]:
    """One row of tiles, cropped to the shard's columns: pixels [3, px, width], valid [px, width]."""
    pixels = np.zeros((BANDS, px, shard.width), dtype=np.uint8)
    valid = np.zeros((px, shard.width), dtype=bool)
    for tile, col in tiles:
        found, found_valid = decode_tile(body(tile), px)
        c0, c1 = max(0, col), min(shard.width, col + px)
        pixels[:, :, c0:c1] = found[:, :, c0 - col : c1 - col]
        valid[:, c0:c1] = found_valid[:, c0 - col : c1 - col]
    return pixels, valid
