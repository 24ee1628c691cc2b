"""Buffers in metres on the ground, and shapes whose edges follow the map. In and out: WGS84 degrees.

Nothing here depends on a shard, so that a shard's labels equal the same pixels of one big run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import Transformer

from pipeline.geometry import STEP_DEG, STEP_M, Shapes

Floats = npt.NDArray[np.float64]

ZONE_DEG = 1.0  # width of a transverse Mercator zone: its scale is off by less than 4e-5 at the edge
QUADRANT_SEGMENTS = 8


def ground_buffers(shapes: Shapes, distances_m: Floats) -> Shapes:
    """Grow lines and areas by a distance on the ground, with round corners and ends; shrink areas where it is negative.

    Each shape is buffered in the transverse Mercator projection (WGS84 ellipsoid, scale 1 at the centre) of the
    one-degree zone that holds the middle of its bounds. Scale there is 1 + d²/2R², with d the distance from the zone's
    meridian and R the Earth's radius: below 0.004 % within a zone, below 0.1 % for a shape that reaches 280 km out of
    it. Zones take a shape whole, so that one which crosses the edge of a zone has no seam.

    Args:
        shapes: shapely lines, polygons or multipolygons, object [n], longitude and latitude in degrees (WGS84);
            longitudes may pass 180.
        distances_m: metres, float64 [n]; for a line half of its width.

    Returns:
        Polygons and multipolygons in degrees, object [n], edges cut to 200 m; empty where nothing is left of an area.
    """
    if not len(shapes):
        return shapes
    west, _, east, _ = shapely.bounds(shapes).T
    centres = (np.floor((west + east) / 2 / ZONE_DEG) + 0.5) * ZONE_DEG
    # Metres depend on the longitude's distance from the zone's centre alone: one projection serves all zones.
    local = _moved(shapely.segmentize(shapes, STEP_DEG), centres, _zone_from_degrees)
    wide = shapely.segmentize(shapely.buffer(local, distances_m, quad_segs=QUADRANT_SEGMENTS), STEP_M)
    return _moved(wide, centres, _degrees_from_zone)


def _moved(shapes: Shapes, centres: Floats, move: Callable[[Floats, Floats], Floats]) -> Shapes:
    """Every vertex through `move(points [m, 2], its shape's zone centre [m])`."""
    centre = np.repeat(centres, shapely.get_num_coordinates(shapes))
    return shapely.transform(shapes, lambda points: move(points, centre))  # type: ignore[no-any-return, unused-ignore]


def _zone_from_degrees(points: Floats, centre: Floats) -> Floats:
    return np.column_stack(_zone().transform(points[:, 0] - centre, points[:, 1]))


def _degrees_from_zone(points: Floats, centre: Floats) -> Floats:
    lon, lat = _zone().transform(points[:, 0], points[:, 1], direction="INVERSE")
    return np.column_stack([lon + centre, lat])


@functools.cache
def _zone() -> Transformer:
    """From degrees east of a zone's centre, and latitude, to metres."""
    metric = "+proj=tmerc +lat_0=0 +lon_0=0 +k=1 +x_0=0 +y_0=0 +datum=WGS84 +units=m +no_defs"
    return Transformer.from_crs("EPSG:4326", metric, always_xy=True)


def dense_areas(areas: Shapes) -> Shapes:
    """Areas (object [n], degrees) with edges cut to 200 m, so that they bend as the grid's projection has it."""
    return shapely.segmentize(areas, STEP_DEG)  # type: ignore[no-any-return, unused-ignore]
