"""One shard of a region's imagery, from whatever kind of source the config names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.acquire.rows import FileRow, TileRow, write_rows
from pipeline.acquire.tiles import download_tiles
from pipeline.acquire.windowed import download_windowed
from pipeline.command import Log
from pipeline.errors import DownloadError
from pipeline.files import write_json
from pipeline.grid import Grid, Shard
from pipeline.sources._base import ImagerySource, TiledSource, WindowedSource


def download_imagery(
    name: str,
    source: ImagerySource,
    grid: Grid,
    shard: Shard,
    cache: Path,
    out: Path,
    manifest: Path,
    *,
    zoom: int | None,
    tiles: Path | None = None,
    log: Log,
) -> dict[str, Any]:
    """Bring one shard of imagery onto the region's grid: the GeoTIFF `out` and its small JSON `manifest`.

    Args:
        name: the source's name in the region, part of messages and of the cache's path.
        source: where the imagery comes from.
        grid, shard: the pixels wanted.
        cache: folder of fetched bytes; tiles go to ``<cache>/tiles/<name>/<hash of the url>/<shard>.sqlite``, blocks of
            files that are read by window to ``<cache>/files/<name>/<hash of the url>.sqlite``.
        out: a GeoTIFF, tiled and deflated, in the source's dtype (uint8 RGB for tiles), all bands but alpha, with an
            internal mask band: 255 where there is imagery, 0 where there is none; pixels without imagery are 0.
        manifest: where the returned mapping is written; equal pixels from an equal source give an equal file.
        zoom: zoom of the grid's x/y/z pixels; None takes the source's, else the one that fits the grid.
        tiles: where a CSV goes with one row per tile or file (see `pipeline.acquire.rows`); default:
            ``<shard>_tiles.csv`` beside the manifest.
        log: takes progress, counts and dates.

    Returns:
        The manifest: source, attribution, terms, tiles or path, `share_missing` (share of pixels without imagery),
        and `sha256` over the pixels and the mask.

    Raises:
        DownloadError: terms not accepted, tiles that could not be had, or more of them missing than `max_missing`.
        DataError: a raster that cannot be read or does not cover the grid.
    """
    tiles = tiles or manifest.with_name(f"{manifest.stem}_tiles.csv")
    off = source.off(name)
    if off is not None:
        raise DownloadError(off)
    if isinstance(source, TiledSource):
        result, rows = download_tiles(name, source, grid, shard, cache, out, zoom=zoom, log=log)
        write_rows(tiles, TileRow, rows)
    elif isinstance(source, WindowedSource):
        result, files = download_windowed(name, source, grid, shard, cache, out, log)
        write_rows(tiles, FileRow, files)
    else:
        raise NotImplementedError(source.kind)
    write_json(manifest, result)
    return result
