"""Where a grid lies in other coordinate systems, the world's seam at 180 degrees included."""

from __future__ import annotations

import math

import numpy as np
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from pipeline.errors import DataError
from pipeline.grid import MERCATOR_HALF_M, Grid

Box = tuple[float, float, float, float]
MARGIN = 0.01  # of a box's size: what bulges between the points that its edges are followed at
EDGE_POINTS = 21


def world_width(crs: CRS) -> float | None:
    """Once around the Earth in units of `crs`, where its x counts that (longitudes, EPSG:3857), else None."""
    if crs.is_geographic:
        return 2 * math.pi / crs.axis_info[0].unit_conversion_factor
    return 2 * MERCATOR_HALF_M if crs.to_epsg() == 3857 else None


def boxes_in(grid: Grid, crs: CRS) -> list[Box]:
    """Boxes (left, bottom, right, top) in units of `crs` that cover the grid with a margin of a hundredth.

    More than one where the grid crosses the seam of the world; longitudes stay within ±180 degrees, x of EPSG:3857
    within the world. DataError where `crs` cannot show the region.
    """
    world = world_width(crs)
    boxes = []
    for part in _within_world(grid):
        left, bottom, right, top = _bounds(part, CRS.from_user_input(grid.crs), crs)
        spans = [(left, right)]
        if world is not None and left > right:
            spans = [(left, world / 2), (-world / 2, right)]
        for west, east in spans:
            aside, above = MARGIN * (east - west), MARGIN * (top - bottom)
            box = (west - aside, bottom - above, east + aside, top + above)
            if world is not None:
                box = (max(box[0], -world / 2), box[1], min(box[2], world / 2), box[3])
            boxes.append(box)
    return boxes


def around(x: np.ndarray, world: float, centre: float) -> np.ndarray:
    """`x` moved by whole worlds to within half a world of `centre`."""
    moved: np.ndarray = x - world * np.round((x - centre) / world)
    return moved


def _within_world(grid: Grid) -> list[Box]:
    """The grid's bounds, cut at the world's seam and moved into the world."""
    left, bottom, right, top = grid.bounds
    world = world_width(CRS.from_user_input(grid.crs))
    if world is None:
        return [grid.bounds]
    parts = []
    for turn in range(math.floor(left / world + 0.5), math.ceil(right / world - 0.5) + 1):
        west, east = max(left - turn * world, -world / 2), min(right - turn * world, world / 2)
        if east > west:
            parts.append((west, bottom, east, top))
    return parts


def _bounds(box: Box, source: CRS, target: CRS) -> Box:
    try:
        transformer = Transformer.from_crs(source, target, always_xy=True)
        found: Box = transformer.transform_bounds(*box, densify_pts=EDGE_POINTS)
    except ProjError as error:
        raise DataError(f"the region cannot be shown in {target.name[:60]}: {' '.join(str(error).split())}") from None
    if not all(map(math.isfinite, found)):
        raise DataError(f"the region cannot be shown in {target.name[:60]}: it lies outside of what that can show")
    return found
