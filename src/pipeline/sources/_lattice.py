"""Squares of any size on any grid, for services that render a box: the same ones for every shard and neighbour."""

from __future__ import annotations

import math
from decimal import Decimal

from pipeline.errors import DataError
from pipeline.grid import MERCATOR_HALF_M, MERCATOR_MAX_LAT, TILE_PX, Grid, mercator_gsd_m, tile_of_grid
from pipeline.sources._base import Layout, Tile, TiledSource
from pipeline.sources._pyramid import check_zoom, pyramid_zoom

MAX_ZOOM = 23  # the default of max_zoom, which forbids nothing


def lattice(source: TiledSource, name: str, grid: Grid, zoom: int | None, tile_px: int, key: str) -> Layout:
    """Squares of `tile_px` from the world's top-left corner on (x/y/z grids), else from the system's origin on.

    Args:
        source, name: whose zooms count, and what messages call it.
        grid, zoom: the region's grid; its x/y/z zoom, None for another grid.
        tile_px: edge of a square in pixels.
        key: what is asked for beside the url.

    Raises:
        DataError: the zoom is not one of the source's (that of pixels as large on the ground, on another grid), or
            squares that do not close around the world would have to.
    """
    if zoom is None:
        _check_ground(source, name, grid)
        col, row = round(grid.left / grid.res_x), round(-grid.top / grid.res_y)
        phase = [round(grid.left / grid.res_x - col, 4) + 0.0, round(-grid.top / grid.res_y - row, 4) + 0.0]
        return Layout(0, tile_px, row, col, key=f"{key} {grid.res_x!r} {grid.res_y!r} {phase}")
    check_zoom(source, name, pyramid_zoom(name, grid, zoom))
    col, row = tile_of_grid(grid, zoom)
    columns, rest = divmod(TILE_PX * 2**zoom, tile_px)
    if rest and col + grid.width > TILE_PX * 2**zoom:
        raise DataError(f"imagery {name!r}: a region across 180 degrees needs a tile_px that is a power of two")
    return Layout(zoom, tile_px, row, col, columns=None if rest else columns, key=key)


def _check_ground(source: TiledSource, name: str, grid: Grid) -> None:
    """DataError for a grid beyond 180 degrees, which no server renders, and for pixels too fine or too coarse."""
    from pyproj import CRS, Transformer

    left, bottom, right, top = grid.bounds
    system = CRS.from_user_input(grid.crs)
    half = MERCATOR_HALF_M if grid.crs == "EPSG:3857" else math.inf
    if system.is_geographic:
        half = math.pi / float(system.axis_info[0].unit_conversion_factor)
    if max(-left, right) > half + grid.res_x:
        raise DataError(f"imagery {name!r}: a region across 180 degrees needs grid: {{zoom: …}} for this kind")
    to_lonlat = Transformer.from_crs(system, "EPSG:4326", always_xy=True)
    _, lat = to_lonlat.transform((left + right) / 2, (bottom + top) / 2)
    if not abs(lat) < MERCATOR_MAX_LAT:  # the world's pyramid is not there to compare with
        return
    zoom = round(math.log2(sum(mercator_gsd_m(0, lat)) / 2 / grid.gsd_m))
    if not source.min_zoom <= max(0, min(zoom, MAX_ZOOM)) <= source.max_zoom:
        raise DataError(
            f"imagery {name!r}: pixels of {grid.gsd_m:.3g} m on the ground are those of zoom {zoom} here, which is not "
            f"one of the source's ({source.min_zoom} to {source.max_zoom}); give the region another grid.resolution, "
            f"or imagery.{name} another min_zoom or max_zoom"
        )


def tile_box(tile: Tile, layout: Layout, grid: Grid) -> tuple[str, str, str, str]:
    """Left, bottom, right, top of exactly the tile's pixels in the grid's system, to a millionth of a pixel."""
    _, x, y = tile
    left = grid.left + (x * layout.tile_px - layout.col) * grid.res_x
    top = grid.top - (y * layout.tile_px - layout.row) * grid.res_y
    right, bottom = left + layout.tile_px * grid.res_x, top - layout.tile_px * grid.res_y
    digits = max(0, math.ceil(6 - math.log10(min(grid.res_x, grid.res_y))))
    return _number(left, digits), _number(bottom, digits), _number(right, digits), _number(top, digits)


def _number(value: float, digits: int) -> str:
    """`value` with at most `digits` decimals, without an exponent or a negative zero."""
    text = f"{Decimal(repr(value)):.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text
