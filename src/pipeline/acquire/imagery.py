"""One shard of a region's imagery, from whatever kind of source the config names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.acquire.raster import download_raster
from pipeline.acquire.xyz import download_xyz
from pipeline.command import Log
from pipeline.config import RasterSource, XyzSource
from pipeline.files import write_json
from pipeline.grid import Grid, Shard


def download_imagery(
    name: str,
    source: XyzSource | RasterSource,
    grid: Grid,
    shard: Shard,
    cache: Path,
    out: Path,
    manifest: Path,
    *,
    zoom: int | None,
    log: Log,
) -> dict[str, Any]:
    """Bring one shard of imagery onto the region's grid: the GeoTIFF `out` and its small JSON `manifest`.

    Args:
        name: the source's name in the region, part of messages and of the cache's path.
        source: where the imagery comes from.
        grid, shard: the pixels wanted.
        cache: folder of fetched bytes; tiles go to ``<cache>/tiles/<name>/<hash of the url>/<shard>.sqlite``.
        out: a GeoTIFF, tiled and deflated, in the source's dtype (uint8 RGB for tiles), all bands but alpha, with an
            internal mask band: 255 where there is imagery, 0 where there is none; pixels without imagery are 0.
        manifest: where the returned mapping is written; equal pixels from an equal source give an equal file.
        zoom: zoom of the grid's x/y/z pixels; None takes the source's, else the one that fits the grid.
        log: takes progress, counts and dates.

    Returns:
        The manifest: source, attribution, terms, tiles or path, `share_missing` (share of pixels without imagery),
        and `sha256` over the pixels and the mask.

    Raises:
        DownloadError: tiles that could not be had, or more of them missing than `max_missing`.
        DataError: a raster that cannot be read or does not cover the grid.
    """
    if isinstance(source, XyzSource):
        result = download_xyz(name, source, grid, shard, cache, out, zoom=zoom, log=log)
    else:
        result = download_raster(name, source, grid, shard, out, log)
    write_json(manifest, result)
    return result
