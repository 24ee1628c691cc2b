"""Tiles of the world's x/y/z pyramid on a grid."""

from __future__ import annotations

import math

from pipeline.errors import DataError
from pipeline.grid import MERCATOR_HALF_M, TILE_PX, Grid, tile_of_grid
from pipeline.sources._base import Layout, TiledSource


def pyramid_layout(source: TiledSource, name: str, grid: Grid, zoom: int | None, tile_px: int) -> Layout:
    """The layout of tiles of `tile_px` whose pixels are those of the pyramid at `zoom` (None: the one that fits).

    Raises:
        DataError: the grid is another, or the zoom is outside the source's.
    """
    if zoom is None:
        zoom = round(math.log2(2 * MERCATOR_HALF_M / (TILE_PX * grid.res_x)))
    res = 2 * MERCATOR_HALF_M / (TILE_PX * 2**zoom)
    if grid.crs != "EPSG:3857" or abs(grid.res_x / res - 1) > 1e-9 or abs(grid.res_y / res - 1) > 1e-9:
        raise DataError(
            f"imagery {name!r}: the grid ({grid.crs[:40]}, {grid.res_x:g} per pixel) is not that of x/y/z tiles at "
            f"zoom {zoom} (EPSG:3857, {res:g}); give the region grid: {{zoom: …}}"
        )
    col, row = tile_of_grid(grid, zoom)
    own = zoom - round(math.log2(tile_px / TILE_PX))
    if not source.min_zoom <= own <= source.max_zoom:
        raise DataError(
            f"imagery {name!r}: zoom {own} is not one of the source's ({source.min_zoom} to {source.max_zoom})"
        )
    return Layout(own, tile_px, row, col, columns=2**own)
