"""The grid of any coordinate system at a resolution, over a box in degrees. Imports pyproj when first asked."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.grid import MERCATOR_HALF_M, Grid

if TYPE_CHECKING:
    from pyproj import CRS

Bbox = tuple[float, float, float, float]
STEPS = 256  # points per edge of the box: what bulges between two of them is far below a pixel
MAX_INDEX = 2.0**53  # pixels from the origin that a float still counts one by one


def crs_grid(bbox: Bbox, crs: str, resolution: float, shard_px: int, origin: tuple[float, float] = (0.0, 0.0)) -> Grid:
    """The grid of `crs` that covers `bbox` (west, south, east, north; degrees; west > east: across 180 degrees).

    Pixels are squares of `resolution` CRS units; their edges lie on multiples of it, counted from `origin` (x, y). A
    pixel edge within a hundredth of a pixel of the box counts as lying on it. Metres on the ground are geodesics at the
    grid's centre.

    Raises:
        ConfigError: no such coordinate system, one that has not two axes or counts westwards, a box outside of it, or
            one that it tears apart, a resolution far too fine or coarse.
    """
    system = _system(crs)
    xs, ys = _outline(bbox, system, crs)
    xs, ys = [x - origin[0] for x in xs], [y - origin[1] for y in ys]
    if max(map(abs, (*xs, *ys))) / resolution > MAX_INDEX:
        raise ConfigError(
            f"grid.resolution: {resolution:g} is too fine to be meant; write units of {crs[:60]} per pixel"
        )
    col0, col1 = math.floor(min(xs) / resolution + 0.01), math.ceil(max(xs) / resolution - 0.01)
    row0, row1 = math.floor(-max(ys) / resolution + 0.01), math.ceil(-min(ys) / resolution - 0.01)
    left, top = origin[0] + col0 * resolution, origin[1] - row0 * resolution
    centre = left + (col1 - col0) / 2 * resolution, top - (row1 - row0) / 2 * resolution
    gsd_x, gsd_y = pixel_on_ground_m(system, centre, resolution, resolution)
    if not math.isfinite(gsd_x + gsd_y):
        raise ConfigError(
            f"grid.resolution: {resolution:g} is too coarse to be meant, a pixel reaches out of {crs[:60]}; write its "
            "units per pixel"
        )
    return Grid(
        crs=_name(system),
        left=left,
        top=top,
        res_x=resolution,
        res_y=resolution,
        width=col1 - col0,
        height=row1 - row0,
        gsd_x_m=gsd_x,
        gsd_y_m=gsd_y,
        shard_px=shard_px,
    )


def pixel_on_ground_m(crs: CRS, centre: tuple[float, float], res_x: float, res_y: float) -> tuple[float, float]:
    """Geodesic metres on WGS84 of one pixel around `centre` (x, y in `crs`), along both axes of the grid."""
    from pyproj import Geod, Transformer

    to_wgs84 = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    geod = Geod(ellps="WGS84")
    lengths = []
    for dx, dy in ((res_x / 2, 0.0), (0.0, res_y / 2)):
        lon0, lat0 = to_wgs84.transform(centre[0] - dx, centre[1] - dy)
        lon1, lat1 = to_wgs84.transform(centre[0] + dx, centre[1] + dy)
        lengths.append(float(geod.inv(lon0, lat0, lon1, lat1)[2]))
    return lengths[0], lengths[1]


def unit_of(crs: str) -> str:
    """The unit that a coordinate system counts in, such as ``degrees`` or ``metres``."""
    unit = str(_system(crs).axis_info[0].unit_name)
    return unit.replace("foot", "feet") if unit.endswith("foot") else f"{unit}s"


def _system(text: str) -> CRS:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        found = CRS.from_user_input(text)
    except CRSError:
        raise ConfigError(f"grid.crs: {text[:60]!r} is no coordinate system; write one such as EPSG:25832") from None
    directions = {axis.direction for axis in found.axis_info}
    if not (found.is_projected or found.is_geographic) or len(found.axis_info) != 2 or "west" in directions:
        raise ConfigError(
            f"grid.crs: {text[:60]!r} has the axes {', '.join(axis.direction for axis in found.axis_info) or 'none'}; "
            "a grid needs two, none of them west or up"
        )
    return found


def _name(system: CRS) -> str:
    """``EPSG:<code>`` where that means the same, else WKT."""
    authority = system.to_authority(min_confidence=100)
    return ":".join(authority) if authority else str(system.to_wkt())


def _outline(bbox: Bbox, system: CRS, text: str) -> tuple[list[float], list[float]]:
    """x and y of points all along the box's border, x without the jump at 180 degrees."""
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    _check_area(bbox, system, text)
    west, south, east, north = bbox
    east += 360.0 if west > east else 0.0
    parts = [index / STEPS for index in range(STEPS)]
    corners = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    lons, lats = (
        [a[axis] + part * (b[axis] - a[axis]) for a, b in itertools.pairwise(corners) for part in parts]
        for axis in (0, 1)
    )
    try:
        found = Transformer.from_crs("EPSG:4326", system, always_xy=True).transform(lons, lats, errcheck=True)
    except ProjError:
        raise ConfigError(f"bbox {list(bbox)} lies outside of grid.crs {text[:60]}") from None
    xs, ys = [float(x) for x in found[0]], [float(y) for y in found[1]]
    period = _period(system)
    if period is not None:
        for index in range(1, len(xs)):
            xs[index] -= period * round((xs[index] - xs[index - 1]) / period)
        shift = period * math.floor((min(xs) + period / 2) / period + 1e-9)
        xs = [x - shift for x in xs]
    steps = [math.dist((xs[i - 1], ys[i - 1]), (xs[i], ys[i])) for i in range(len(xs))]
    if max(steps) > 0.25 * sum(steps):
        raise ConfigError(f"bbox {list(bbox)}: grid.crs {text[:60]} tears it apart; take one made for this place")
    return xs, ys


def _period(system: CRS) -> float | None:
    """Once around the Earth in units of x, where x is a longitude or the world's EPSG:3857 is meant."""
    if system.is_geographic:
        east = next(axis for axis in system.axis_info if axis.direction == "east")
        return 2 * math.pi / float(east.unit_conversion_factor)
    return 2 * MERCATOR_HALF_M if system.to_authority() == ("EPSG", "3857") else None


def _check_area(bbox: Bbox, system: CRS, text: str) -> None:
    """ConfigError when the box lies wholly outside the area that the coordinate system is made for."""
    area = system.area_of_use
    if area is None:
        return
    lat_apart = bbox[3] < area.south or bbox[1] > area.north
    if lat_apart or not _overlap(bbox[0], bbox[2], area.west, area.east):
        raise ConfigError(
            f"bbox {list(bbox)} lies outside of grid.crs {text[:60]}, which is made for "
            f"[{area.west}, {area.south}, {area.east}, {area.north}] (west, south, east, north)"
        )


def _overlap(west: float, east: float, other_west: float, other_east: float) -> bool:
    """Whether two spans of longitude touch; each may cross 180 degrees."""
    spans = [(west, east + 360 * (west > east)), (other_west, other_east + 360 * (other_west > other_east))]
    (a0, a1), (b0, b1) = spans
    return any(a0 + turn <= b1 and b0 <= a1 + turn for turn in (-360, 0, 360))
