"""From WGS84 shapes to pixels of a grid: buffers in metres on the ground, and pixel coordinates that shards share.

Nothing here depends on a shard, so that a shard's labels equal the same pixels of one big run.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import shapely

from pipeline.geometry import NUDGE_PX as NUDGE_PX
from pipeline.geometry import STEP_DEG, STEP_M, Shapes, reproject
from pipeline.geometry import project_areas as project_areas
from pipeline.geometry import shard_bounds_deg as shard_bounds_deg
from pipeline.geometry import to_pixels as to_pixels
from pipeline.geometry import touches_shard as touches_shard

ZONE_DEG = 1.0  # width of a transverse Mercator zone: its scale is off by less than 4e-5 at the edge
QUADRANT_SEGMENTS = 8


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
