"""The demo's landscape: what lies where, in ground metres (x east, y south), before anyone photographs or maps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import shapely
from scipy.interpolate import CubicSpline
from shapely.geometry import LineString, Point, Polygon

from pipeline.acquire.demo.frame import Frame

MARGIN_M = 220.0  # the landscape goes on beyond the region, so that the land cover can too
LANE_M = 3.5
SET_WIDTH_M = {
    **dict.fromkeys(("motorway", "motorway_link", "trunk", "trunk_link", "primary"), 14.0),
    **dict.fromkeys(("primary_link", "secondary"), 9.0),
    **dict.fromkeys(
        ("secondary_link", "tertiary", "tertiary_link", "unclassified", "residential", "living_street"), 6.0
    ),
}
PAVED_TRACKS = ("grade1", "grade2")
TRACK_WIDTH_M = {"grade1": 3.5, "grade2": 3.5, "grade3": 2.6, "grade4": 2.4, "grade5": 2.2}
XY = tuple[float, float]


@dataclass(frozen=True)
class Road:
    """A road, track or path: its centre line, OSM tags, width in metres, and level (-1 tunnel, 0, 1 bridge)."""

    line: LineString
    tags: dict[str, str]
    width_m: float
    level: int = 0

    @property
    def kind(self) -> str:
        """The highway value."""
        return self.tags["highway"]

    @property
    def urban(self) -> bool:
        """Whether it belongs to one of the four width sets and is seen from above."""
        paved = self.kind in SET_WIDTH_M or self.tags.get("tracktype") in PAVED_TRACKS
        return paved and self.level >= 0

    @property
    def area(self) -> Polygon:
        """The surface, flat at its ends."""
        return self.line.buffer(self.width_m / 2, cap_style="flat")


@dataclass(frozen=True)
class Building:
    """A building with its main axis: `angle` in radians from east, southward; sizes in metres."""

    shape: Polygon
    centre: XY
    angle: float
    length_m: float
    width_m: float
    height_m: float
    roof: str  # gable, hip or flat
    kind: str  # the value of building=*


@dataclass(frozen=True)
class Water:
    """A water area: `kind` is river, lake, pond or stream; a stream also has its centre line and width."""

    shape: Polygon
    kind: str
    line: LineString | None = None
    width_m: float = 0.0


@dataclass(frozen=True)
class Parcel:
    """A field: `crop` indexes `surfaces.CROPS`; rows run along `angle` (radians from east, southward)."""

    shape: Polygon
    crop: int
    angle: float
    centre: XY
    half_m: XY  # half length along the rows, half width across


@dataclass
class Landscape:
    """Everything on the ground, in painting order."""

    frame: Frame
    parcels: list[Parcel] = field(default_factory=list)
    blocks: list[tuple[Polygon, str]] = field(default_factory=list)  # landuse polygons: farmland, meadow
    forests: list[Polygon] = field(default_factory=list)
    tree_rows: list[LineString] = field(default_factory=list)
    hedges: list[LineString] = field(default_factory=list)
    settlements: list[Polygon] = field(default_factory=list)
    parks: list[Polygon] = field(default_factory=list)
    yards: list[Polygon] = field(default_factory=list)
    waters: list[Water] = field(default_factory=list)
    roads: list[Road] = field(default_factory=list)
    buildings: list[Building] = field(default_factory=list)

    def road_surface(self) -> shapely.Geometry:
        """Union of every road surface of the four sets, tunnels left out."""
        return shapely.union_all([road.area for road in self.roads if road.urban])

    def water_surface(self) -> shapely.Geometry:
        """Union of every water area."""
        return shapely.union_all([water.shape for water in self.waters])


def curve(frame: Frame, points: list[XY], step_m: float = 12.0) -> LineString:
    """A smooth line through `points`, given as shares of the region's edge."""
    knots = np.asarray(points, float) * frame.extent_m
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(knots, axis=0).T))])
    count = max(2, round(along[-1] / step_m) + 1)
    if len(knots) == 2:
        return LineString(knots[0] + np.linspace(0, 1, count)[:, None] * (knots[1] - knots[0]))
    return LineString(CubicSpline(along, knots)(np.linspace(0, along[-1], count)))


def blob(
    rng: np.random.Generator, centre: XY, radius_m: float, *, rough: float = 0.22, stretch: float = 1.0
) -> Polygon:
    """A closed, wavy outline around `centre` (metres)."""
    angle = np.linspace(0, 2 * np.pi, max(24, int(radius_m * 0.9)), endpoint=False)
    wave = np.ones_like(angle)
    for order in range(2, 9):
        wave += rough * rng.normal() / order**0.9 * np.sin(order * angle + rng.uniform(0, 2 * np.pi))
    reach = radius_m * np.clip(wave, 0.45, 1.7)
    turn = rng.uniform(0, np.pi)
    x, y = reach * np.cos(angle) * stretch, reach * np.sin(angle) / stretch
    ring = np.c_[centre[0] + x * np.cos(turn) - y * np.sin(turn), centre[1] + x * np.sin(turn) + y * np.cos(turn)]
    return largest(Polygon(ring).buffer(0))


def largest(shape: shapely.Geometry) -> Polygon:
    """The largest polygon of a geometry (an empty one when it has none)."""
    parts = [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon"]
    return max(parts, key=lambda part: part.area, default=Polygon())


def polygons(shape: shapely.Geometry, least_m2: float) -> list[Polygon]:
    """The polygons of a geometry that have at least `least_m2` square metres."""
    return [p for p in shapely.get_parts(shape) if p.geom_type == "Polygon" and p.area >= least_m2]


RIVER = [
    (-0.15, 0.20), (0.05, 0.275), (0.17, 0.21), (0.29, 0.30), (0.43, 0.40), (0.57, 0.36),
    (0.685, 0.45), (0.70, 0.60), (0.80, 0.70), (0.90, 0.655), (1.0, 0.73), (1.15, 0.82),
]  # fmt: skip
LAKES = [  # centre, radius as shares of the edge, stretch, islands
    (0.105, 0.625, 0.056, 1.15, 2), (0.905, 0.175, 0.052, 1.1, 1), (0.235, 0.885, 0.050, 1.25, 1),
    (0.625, 0.865, 0.055, 1.1, 2), (0.535, 0.045, 0.032, 1.2, 0), (0.935, 0.475, 0.036, 1.1, 0),
    (0.095, 0.045, 0.040, 1.1, 1), (0.945, 0.955, 0.034, 1.2, 0), (0.40, 0.80, 0.022, 1.0, 0),
]  # fmt: skip
STREAMS = [  # course, width in metres
    ([(0.30, 1.15), (0.29, 0.95), (0.33, 0.87), (0.315, 0.75), (0.36, 0.69), (0.34, 0.64), (0.285, 0.60),
      (0.29, 0.45), (0.26, 0.38), (0.272, 0.292)], 3.0),
    ([(0.60, -0.12), (0.62, 0.08), (0.56, 0.19), (0.60, 0.28), (0.575, 0.36)], 4.0),
    ([(1.12, 0.13), (1.0, 0.24), (0.93, 0.36), (0.88, 0.52), (0.88, 0.58), (0.865, 0.66)], 2.5),
    ([(0.70, 1.12), (0.735, 0.95), (0.72, 0.90), (0.775, 0.80), (0.765, 0.675)], 3.5),
    ([(-0.12, 0.47), (0.02, 0.44), (0.07, 0.36), (0.055, 0.277)], 1.2),
]  # fmt: skip
PONDS = 22


def add_water(land: Landscape, rng: np.random.Generator) -> None:
    """River, streams, lakes with islands, ponds."""
    frame, edge = land.frame, land.frame.extent_m
    river = curve(frame, RIVER, 10.0)
    swell = 1 + 0.16 * np.sin(np.linspace(0, 19, len(river.coords)) + rng.uniform(0, 6))
    beads = [Point(xy).buffer(20.0 * s) for xy, s in zip(river.coords, swell, strict=True)]
    hulls = [shapely.union(a, b).convex_hull for a, b in pairwise(beads)]
    area = shapely.union_all(hulls)
    for u, v, r, stretch, islands in LAKES:
        centre = ((u + rng.normal(0, 0.003)) * edge, (v + rng.normal(0, 0.003)) * edge)
        lake = blob(rng, centre, r * edge, stretch=stretch).difference(area.buffer(12))
        for _ in range(islands):
            spot = (centre[0] + rng.normal(0, 0.3) * r * edge, centre[1] + rng.normal(0, 0.3) * r * edge)
            island = blob(rng, spot, rng.uniform(0.13, 0.24) * r * edge)
            lake = lake.difference(island.intersection(largest(lake).buffer(-8)).buffer(-0.5).buffer(0.5))
        land.waters.append(Water(largest(lake), "lake"))
    land.waters.append(Water(largest(area), "river", river, 40.0))
    for course, width in STREAMS:
        line = curve(frame, [(u + rng.normal(0, 0.002), v) for u, v in course], 9.0)
        land.waters.append(Water(line.buffer(width / 2, cap_style="flat"), "stream", line, width))


MAIN_ROADS: list[tuple[str, list[XY], dict[str, str]]] = [
    ("trunk", [(-0.12, 0.13), (0.2, 0.14), (0.45, 0.15), (0.72, 0.128), (0.88, 0.05), (1.12, 0.02)], {}),
    ("primary", [(0.41, -0.12), (0.42, 0.12), (0.46, 0.35), (0.475, 0.5), (0.46, 0.7), (0.40, 0.9), (0.41, 1.12)], {}),
    ("secondary", [(-0.12, 0.50), (0.12, 0.49), (0.30, 0.52), (0.475, 0.525), (0.62, 0.53), (0.78, 0.55),
                   (1.12, 0.58)], {}),
    ("tertiary", [(0.53, 0.527), (0.54, 0.62), (0.60, 0.75), (0.74, 0.84), (0.83, 0.885), (1.12, 0.90)],
     {"lanes": "2"}),
    ("tertiary", [(0.235, 0.51), (0.225, 0.62), (0.245, 0.72), (0.12, 0.83), (0.10, 1.12)], {}),
    ("unclassified", [(0.78, 0.55), (0.815, 0.46), (0.868, 0.352)], {"width": "5.5"}),
    ("unclassified", [(0.12, 0.49), (0.125, 0.38), (0.02, 0.345), (-0.12, 0.36)], {}),
    ("unclassified", [(0.275, 0.143), (0.265, 0.05), (0.30, -0.12)], {"width": "5"}),
    ("motorway_link", [(0.757, 0.175), (0.772, 0.125), (0.80, 0.092)], {"lanes": "2", "oneway": "yes"}),
    ("motorway_link", [(0.715, 0.06), (0.70, 0.11), (0.655, 0.141)], {"lanes": "1", "oneway": "yes"}),
    ("trunk_link", [(0.375, 0.15), (0.41, 0.165), (0.432, 0.21)], {"lanes": "2"}),
    ("primary_link", [(0.474, 0.478), (0.487, 0.508), (0.517, 0.526)], {}),
    ("secondary_link", [(0.514, 0.527), (0.533, 0.538), (0.535, 0.575)], {}),
    ("tertiary_link", [(0.205, 0.507), (0.222, 0.523), (0.229, 0.558)], {}),
    ("motorway", [(0.69, -0.12), (0.735, 0.12), (0.835, 0.32), (1.12, 0.385)], {"lanes": "3", "oneway": "yes"}),
]  # fmt: skip


def road_width_m(tags: dict[str, str]) -> float:
    """Metres on the ground: the `width` tag, else `lanes` × 3.5 m, else the set's width."""
    if "width" in tags:
        return float(tags["width"])
    if "lanes" in tags:
        return int(tags["lanes"]) * LANE_M
    if tags["highway"] == "track":
        return TRACK_WIDTH_M[tags["tracktype"]]
    return SET_WIDTH_M.get(tags["highway"], 1.6)


def add_main_roads(land: Landscape) -> None:
    """Through roads and their links; the motorway has two carriageways and the lane under it a tunnel piece."""
    frame = land.frame
    for kind, points, extra in MAIN_ROADS:
        line = curve(frame, points)
        tags = {"highway": kind, **extra}
        if kind == "motorway":
            for side in (-8.5, 8.5):
                land.roads.append(Road(line.offset_curve(side), tags, road_width_m(tags)))
        else:
            land.roads += with_bridges(Road(line, tags, road_width_m(tags)), land)
    tags = {"highway": "unclassified", "width": "5.5"}
    under = [(0.868, 0.352), (0.888, 0.315)]
    tunnel = {**tags, "tunnel": "yes", "layer": "-1"}
    land.roads.append(Road(curve(frame, under), tunnel, 5.5, -1))
    land.roads.append(Road(curve(frame, [under[1], (0.93, 0.265), (1.12, 0.25)]), tags, 5.5))


def with_bridges(road: Road, land: Landscape) -> list[Road]:
    """Cut a road into pieces on the ground and bridges over the river; the trunk road also bridges the motorway."""
    wide = shapely.union_all([w.shape for w in land.waters if w.kind == "river"]).buffer(7)
    if road.kind == "trunk":
        wide = wide.union(curve(land.frame, MAIN_ROADS[-1][1]).buffer(24))
    over = [part for part in shapely.get_parts(road.line.intersection(wide)) if part.length > 20]
    if not over:
        return [road]
    dry = [part for part in shapely.get_parts(road.line.difference(shapely.union_all(over))) if part.length > 1]
    bridge = {**road.tags, "bridge": "yes", "layer": "1"}
    return [Road(p, road.tags, road.width_m) for p in dry] + [Road(p, bridge, road.width_m, 1) for p in over]
