"""Tiles of the world's x/y/z pyramid on a grid."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from pipeline.errors import DataError
from pipeline.grid import MERCATOR_HALF_M, TILE_PX, Grid, tile_of_grid
from pipeline.sources._base import Layout, TiledSource


def pyramid_layout(source: TiledSource, name: str, grid: Grid, zoom: int | None, tile_px: int, key: str = "") -> Layout:
    """The layout of tiles of `tile_px` whose pixels are those of the pyramid at `zoom` (None: the one that fits).

    A tile of 512 px at zoom z has the pixels of zoom z + 1: `zoom` is that of pixels, the layout's and the source's
    that of tiles. `key` is the layout's; "" becomes what `source.values` says.

    Raises:
        DataError: the grid is another, or the zoom is outside the source's.
    """
    zoom = pyramid_zoom(name, grid, zoom)
    own = zoom - round(math.log2(tile_px / TILE_PX))
    check_zoom(source, name, own)
    col, row = tile_of_grid(grid, zoom)
    return Layout(own, tile_px, row, col, columns=2**own, key=key or values_key(source.values))


def pyramid_zoom(name: str, grid: Grid, zoom: int | None) -> int:
    """The zoom whose 256 px tiles have the grid's pixels: `zoom`, or the one that fits; DataError when it does not."""
    if zoom is None:
        zoom = round(math.log2(2 * MERCATOR_HALF_M / (TILE_PX * grid.res_x)))
    res = 2 * MERCATOR_HALF_M / (TILE_PX * 2**zoom)
    if grid.crs != "EPSG:3857" or abs(grid.res_x / res - 1) > 1e-9 or abs(grid.res_y / res - 1) > 1e-9:
        raise DataError(
            f"imagery {name!r}: the grid ({grid.crs[:40]}, {grid.res_x:g} per pixel) is not that of x/y/z tiles at "
            f"zoom {zoom} (EPSG:3857, {res:g}); give the region grid: {{zoom: …}}"
        )
    return zoom


def check_zoom(source: TiledSource, name: str, zoom: int) -> None:
    """DataError unless the source has tiles of `zoom`."""
    if not source.min_zoom <= zoom <= source.max_zoom:
        raise DataError(
            f"imagery {name!r}: zoom {zoom} is not one of the source's ({source.min_zoom} to {source.max_zoom})"
        )


def values_key(values: Mapping[str, object]) -> str:
    """A cache key of what is asked for beside the url; "" for nothing."""
    return json.dumps(values, sort_keys=True, ensure_ascii=False) if values else ""
