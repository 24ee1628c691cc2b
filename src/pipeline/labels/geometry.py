"""From WGS84 shapes to pixels of a grid: buffers in metres on the ground, and pixel coordinates that shards share.

Nothing here depends on a shard, so that a shard's labels equal the same pixels of one big run.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import Transformer

from pipeline.grid import Grid, Shard

Shapes = npt.NDArray[np.object_]

ZONE_DEG = 1.0  # width of a transverse Mercator zone: its scale is off by less than 4e-5 at the edge
STEP_M = 200.0  # longest straight piece that is projected: its sagitta stays below 2 cm up to 85 degrees of latitude
STEP_DEG = STEP_M / 111_700.0  # at most STEP_M metres in either direction
QUADRANT_SEGMENTS = 8
# Keeps edges off pixel centres: a tie there could fall differently from one shard to the next.
NUDGE_PX = (1.3e-6, 0.7e-6)


def ground_buffers(lines: Shapes, widths_m: npt.NDArray[np.float64], crs: str) -> Shapes:
    """Widen lines to polygons of a given width on the ground.

    Each line is buffered by half its width, with round ends, in the transverse Mercator projection (WGS84 ellipsoid,
    scale 1 at the centre) of the one-degree zone that holds the middle of its bounds. Scale there is 1 + d²/2R², with
    d the distance from the zone's meridian and R the Earth's radius: below 0.004 % within a zone, below 0.1 % for a
    line that reaches 280 km out of it.

    Args:
        lines: shapely lines, object [n], longitude and latitude in degrees (WGS84).
        widths_m: full widths in metres, float64 [n], positive.
        crs: authority code or WKT of the polygons' coordinate system.

    Returns:
        Polygons in `crs`, object [n].
    """
    polygons = np.empty(len(lines), dtype=object)
    if not len(lines):
        return polygons
    bounds = shapely.bounds(lines)
    zones = np.floor((bounds[:, 0] + bounds[:, 2]) / 2 / ZONE_DEG)
    dense = shapely.segmentize(lines, STEP_DEG)
    for zone in np.unique(zones):
        rows = zones == zone
        metric = _transverse_mercator(float((zone + 0.5) * ZONE_DEG))
        local = reproject(dense[rows], "EPSG:4326", metric)
        wide = shapely.buffer(local, widths_m[rows] / 2, quad_segs=QUADRANT_SEGMENTS)
        polygons[rows] = reproject(shapely.segmentize(wide, STEP_M), metric, crs)
    return polygons


def _transverse_mercator(lon_deg: float) -> str:
    return f"+proj=tmerc +lat_0=0 +lon_0={lon_deg!r} +k=1 +x_0=0 +y_0=0 +datum=WGS84 +units=m +no_defs"


def project_areas(areas: Shapes, crs: str) -> Shapes:
    """Project WGS84 areas (object [n], degrees) to `crs`; edges are cut to 200 m first, so that they bend."""
    return reproject(shapely.segmentize(areas, STEP_DEG), "EPSG:4326", crs)


@functools.lru_cache(maxsize=512)
def _transformer(source: str, target: str) -> Transformer:
    return Transformer.from_crs(source, target, always_xy=True)


def reproject(shapes: Shapes, source: str, target: str) -> Shapes:
    """Transform every vertex from one coordinate system to another (x east, y north)."""
    transformer = _transformer(source, target)

    def move(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.column_stack(transformer.transform(points[:, 0], points[:, 1]))

    return shapely.transform(shapes, move)  # type: ignore[no-any-return, unused-ignore]


def to_pixels(shapes: Shapes, grid: Grid, shard: Shard) -> Shapes:
    """Turn grid coordinates into (column, row) pixel coordinates of a shard, outer corner of its first pixel (0, 0).

    Pixel coordinates are computed on the whole grid and then shifted by whole pixels, which is exact, so that every
    shard sees the same vertices.
    """
    scale = np.array([1 / grid.res_x, -1 / grid.res_y])
    origin = np.array([grid.left, grid.top])
    corner = np.array([shard.col_px, shard.row_px], dtype=float)

    def move(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        moved: npt.NDArray[np.float64] = (points - origin) * scale + NUDGE_PX - corner
        return moved

    return shapely.transform(shapes, move)  # type: ignore[no-any-return, unused-ignore]


def shard_bounds_deg(grid: Grid, shard: Shard) -> tuple[float, float, float, float]:
    """West, south, east, north of a shard in WGS84 degrees, its edges followed at 21 points each."""
    a, _, left, _, e, top = grid.transform(shard.row_px, shard.col_px)
    transformer = _transformer(grid.crs, "EPSG:4326")
    bounds: Any = transformer.transform_bounds(left, top + e * shard.height, left + a * shard.width, top)
    west, south, east, north = bounds
    return float(west), float(south), float(east), float(north)


def touches_shard(pixels: Shapes, shard: Shard) -> npt.NDArray[np.bool_]:
    """Which shapes, in a shard's pixel coordinates, have bounds that reach into it, bool [n]."""
    if not len(pixels):
        return np.zeros(0, dtype=bool)
    x0, y0, x1, y1 = shapely.bounds(pixels).T
    inside: npt.NDArray[np.bool_] = (x0 < shard.width) & (x1 > 0) & (y0 < shard.height) & (y1 > 0)
    return inside
