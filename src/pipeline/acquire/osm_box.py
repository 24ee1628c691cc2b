"""The box of a grid in degrees, across the antimeridian and over the poles too; the boxes that OSM data is cut by."""

from __future__ import annotations

import math

import numpy as np
import shapely
from pyproj import Transformer

from pipeline.errors import DataError
from pipeline.grid import Grid

BBox = tuple[float, float, float, float]
MARGIN_M = 250.0  # half the widest line a recipe may ask for
EDGE_POINTS = 1001  # of each edge of a grid, whose edges are bent in degrees


def expand_bbox(bbox: BBox, margin_m: float) -> BBox:
    """Return `bbox` (west, south, east, north; degrees) widened by at least `margin_m` metres on every side."""
    west, south, east, north = bbox
    lat_deg = margin_m / 110_500.0
    widest = min(89.0, max(abs(south - lat_deg), abs(north + lat_deg)))
    lon_deg = margin_m / (110_500.0 * math.cos(math.radians(widest)))
    return west - lon_deg, south - lat_deg, east + lon_deg, north + lat_deg


def grid_box(grid: Grid) -> BBox:
    """The box (west, south, east, north; degrees) around all of the grid.

    West lies in [-180, 180). East is above 180 when the grid crosses the antimeridian: 179 to 181 is two degrees wide,
    and 181 is the meridian of -179. A grid that is as wide as the world or holds a pole gets -180 to 180.

    Raises:
        DataError: an edge of the grid lies where its coordinate system is not defined.
    """
    left, bottom, right, top = grid.bounds
    along = np.linspace(0.0, 1.0, EDGE_POINTS)
    east_going, north_going = left + along * (right - left), bottom + along * (top - bottom)
    x = np.concatenate([east_going, np.full_like(along, right), east_going[::-1], np.full_like(along, left)])
    y = np.concatenate([np.full_like(along, bottom), north_going, np.full_like(along, top), north_going[::-1]])
    lon, lat = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True).transform(x, y)
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        raise DataError(f"the grid's edge leaves the area in which {grid.crs[:40]} is defined; choose a smaller box")
    lon = np.unwrap(lon, period=360.0)  # no step along the edge is wider than half the world
    south, north = float(lat.min()), float(lat.max())
    if abs(lon[-1] - lon[0]) > 180.0:  # once around a pole
        south, north = (south, 90.0) if lat.mean() > 0 else (-90.0, north)
        west, east = -180.0, 180.0
    else:
        west, east = _normal(float(lon.min()), float(lon.max()))
    return round(west, 7), round(south, 7), round(east, 7), round(north, 7)


def _normal(west: float, east: float) -> tuple[float, float]:
    """The same longitudes with west in [-180, 180)."""
    if east - west >= 360.0:
        return -180.0, 180.0
    turns = 360.0 * math.floor((west + 180.0) / 360.0)
    return west - turns, east - turns


def cutting_boxes(bbox: BBox) -> list[shapely.Polygon]:
    """The one or two boxes between -180 and 180 degrees that `bbox` covers; east may lie above 180, west below -180."""
    _, south, _, north = bbox
    west, east = _normal(bbox[0], bbox[2])
    if east <= 180.0:
        return [shapely.box(west, south, east, north)]
    return [shapely.box(west, south, 180.0, north), shapely.box(-180.0, south, east - 360.0, north)]
