"""Between longitude and latitude and the pixels of a grid, without a seam at the antimeridian.

Longitudes are counted on past 180 degrees: those of a shape lie within half a turn of the grid's centre.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import CRS, Transformer

from pipeline.grid import MERCATOR_HALF_M, Grid, Shard

Floats = npt.NDArray[np.float64]
Shapes = npt.NDArray[np.object_]
BBox = tuple[float, float, float, float]

TURN_DEG = 360.0
METRES_PER_DEG = 110_500.0  # at least this many: the shortest degree of latitude
WIDEST_LAT_DEG = 89.0  # where a margin in degrees of longitude stops growing
EDGE_POINTS = 21
MERCATOR_LAT_DEG = 89.9  # a pole lies at infinity in EPSG:3857; this is far outside of every grid


@dataclass(frozen=True)
class Projection:
    """The way between WGS84 degrees and a grid's coordinates.

    Attributes:
        crs: the grid's coordinate system.
        turn: CRS units of one turn around the Earth (EPSG:3857, degrees); 0 in systems that have no such thing.
        centre_lon: longitude of the grid's centre, degrees; beyond 180 when the centre lies past the antimeridian.
    """

    crs: str
    turn: float
    centre_lon: float

    def forward(self, points: Floats) -> Floats:
        """(x, y) in the CRS of (longitude, latitude) [n, 2]; not finite where the system does not reach."""
        lon, lat = points[:, 0], points[:, 1]
        if not self.turn:
            return np.column_stack(_to_crs(self.crs).transform(lon, lat))
        turns = np.floor(lon / TURN_DEG + 0.5)
        lat = np.clip(lat, -MERCATOR_LAT_DEG, MERCATOR_LAT_DEG) if self.turn != TURN_DEG else lat
        x, y = _to_crs(self.crs).transform(lon - turns * TURN_DEG, lat)
        return np.column_stack([x + turns * self.turn, y])

    def inverse(self, points: Floats) -> Floats:
        """(longitude, latitude) of (x, y) [n, 2]; longitudes count on past 180 where the grid does."""
        turns = np.floor(points[:, 0] / self.turn + 0.5) if self.turn else np.zeros(len(points))
        lon, lat = _to_degrees(self.crs).transform(points[:, 0] - turns * self.turn, points[:, 1])
        return np.column_stack([lon + turns * TURN_DEG, lat])


def projection_of(grid: Grid) -> Projection:
    """The projection of a grid."""
    crs = CRS.from_user_input(grid.crs)
    turn = 0.0
    if crs.is_geographic and math.isclose(crs.axis_info[0].unit_conversion_factor, math.radians(1)):
        turn = TURN_DEG
    elif crs.to_epsg() == 3857:
        turn = 2 * MERCATOR_HALF_M
    left, bottom, right, top = grid.bounds
    centre = np.array([[(left + right) / 2, (bottom + top) / 2]])
    return Projection(grid.crs, turn, float(Projection(grid.crs, turn, 0.0).inverse(centre)[0, 0]))


@functools.lru_cache(maxsize=64)
def _to_crs(crs: str) -> Transformer:
    return Transformer.from_crs("EPSG:4326", crs, always_xy=True)


@functools.lru_cache(maxsize=64)
def _to_degrees(crs: str) -> Transformer:
    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)


def unwrap(shapes: Shapes, centre_lon: float) -> Shapes:
    """Move shapes (object [n], degrees) by whole turns to where they lie nearest to `centre_lon`.

    Parts of a multipolygon that lie more than half a turn apart are moved each by itself, so that an area which was cut
    in two at the antimeridian, as OSM does, comes together.
    """
    if not len(shapes):
        return shapes
    west, _, east, _ = shapely.bounds(shapes).T
    turns = np.round((centre_lon - (west + east) / 2) / TURN_DEG)
    wide = np.flatnonzero((east - west > TURN_DEG / 2) & (shapely.get_num_geometries(shapes) > 1))
    turns[wide] = 0
    moved = shapes
    if (far := np.flatnonzero(turns)).size:
        moved = moved.copy()
        steps = np.repeat(turns[far] * TURN_DEG, shapely.get_num_coordinates(shapes[far]))
        moved[far] = shapely.transform(shapes[far], lambda points: points + np.column_stack([steps, 0 * steps]))
    for row in wide:
        moved = moved.copy() if moved is shapes else moved
        moved[row] = shapely.multipolygons(unwrap(shapely.get_parts(shapes[row]), centre_lon))
    return moved


def is_torn(shapes: Shapes) -> npt.NDArray[np.bool_]:
    """Which shapes (object [n], degrees) have an edge longer than half a turn, bool [n].

    It stands for a short one across the antimeridian, where OSM cuts what crosses it. As it is drawn it lies elsewhere.
    """
    torn = np.zeros(len(shapes), dtype=bool)
    west, _, east, _ = shapely.bounds(shapes).T if len(shapes) else np.zeros((4, 0))
    for row in np.flatnonzero(east - west > TURN_DEG / 2):
        parts = shapely.get_parts(shapes[row])
        lines = shapely.get_rings(parts) if parts[0].geom_type == "Polygon" else parts
        torn[row] = any((np.abs(np.diff(shapely.get_coordinates(line)[:, 0])) > TURN_DEG / 2).any() for line in lines)
    return torn


def shard_bounds_deg(grid: Grid, shard: Shard) -> BBox:
    """West, south, east, north of a shard in WGS84 degrees, its edges followed at 21 points each.

    West is below east; they pass 180 degrees where the shard does. A shard that holds a pole has all longitudes.
    """
    a, _, left, _, e, top = grid.transform(shard.row_px, shard.col_px)
    right, bottom = left + a * shard.width, top + e * shard.height
    projection = projection_of(grid)
    if not projection.turn:
        found = _to_degrees(grid.crs).transform_bounds(left, bottom, right, top, densify_pts=EDGE_POINTS)
        west, south, east, north = (float(value) for value in found)
        return west, south, east if west < east else east + TURN_DEG, north
    x, y = np.linspace(left, right, EDGE_POINTS), np.linspace(bottom, top, EDGE_POINTS)
    along, across = (
        np.concatenate([x, x, 0 * y + left, 0 * y + right]),
        np.concatenate([0 * x + bottom, 0 * x + top, y, y]),
    )
    lon, lat = projection.inverse(np.column_stack([along, across])).T
    return float(lon.min()), float(lat.min()), float(lon.max()), float(lat.max())


def reading_boxes(bounds: BBox, margin_m: float) -> list[BBox]:
    """One or two boxes between -180 and 180 degrees that cover `bounds`, widened by at least `margin_m` metres."""
    west, south, east, north = bounds
    lat_deg = margin_m / METRES_PER_DEG
    south, north = max(-90.0, south - lat_deg), min(90.0, north + lat_deg)
    lon_deg = lat_deg / math.cos(math.radians(min(WIDEST_LAT_DEG, max(abs(south), abs(north)))))
    west, east = west - lon_deg, east + lon_deg
    if east - west >= TURN_DEG:
        return [(-180.0, south, 180.0, north)]
    turns = math.floor(west / TURN_DEG + 0.5) * TURN_DEG
    west, east = west - turns, east - turns
    if east <= 180.0:
        return [(west, south, east, north)]
    return [(west, south, 180.0, north), (-180.0, south, east - TURN_DEG, north)]
