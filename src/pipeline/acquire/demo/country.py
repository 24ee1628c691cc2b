"""The demo's countryside: forests, field parcels, tracks, hedges and tree rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import shapely
from scipy.spatial import cKDTree
from shapely.geometry import LineString, MultiPoint, Point, Polygon, box
from shapely.ops import substring

from pipeline.acquire.demo.landscape import (
    MARGIN_M,
    PAVED_TRACKS,
    PONDS,
    XY,
    Landscape,
    Parcel,
    Road,
    Water,
    blob,
    largest,
    polygons,
    road_width_m,
)

FORESTS = [  # centre and radius as shares of the edge
    (0.705, 0.275, 0.062), (0.575, 0.225, 0.056), (0.045, 0.76, 0.075), (0.335, 0.795, 0.080), (0.515, 0.955, 0.068),
    (0.79, 1.0, 0.055), (0.945, 0.735, 0.066), (0.97, 0.315, 0.055), (0.02, 0.33, 0.055), (0.63, 0.03, 0.058),
    (0.195, 0.05, 0.042), (0.665, 0.685, 0.066), (0.185, 0.585, 0.036), (0.385, 0.045, 0.034), (0.99, 0.06, 0.062),
    (0.02, 0.965, 0.065), (0.325, 0.60, 0.040), (0.80, 0.775, 0.036), (0.15, 0.165, 0.032), (0.33, 0.195, 0.024),
    (0.865, 0.09, 0.034), (0.70, 0.945, 0.036), (0.15, 0.80, 0.034), (0.23, 0.42, 0.050), (0.745, 0.43, 0.032),
    (0.55, 0.80, 0.040), (0.88, 0.65, 0.030), (1.08, 0.5, 0.06), (-0.07, 0.15, 0.06), (0.3, 1.07, 0.06),
    (0.505, 0.24, 0.030), (0.79, 0.235, 0.030), (0.975, 0.40, 0.030),
]  # fmt: skip
CROP_SHARES = [0.20, 0.09, 0.15, 0.25, 0.12, 0.13, 0.06]  # in the order of surfaces.CROPS


def add_ponds(land: Landscape, rng: np.random.Generator) -> None:
    """Small ponds in fields, woods and gardens, clear of roads and of each other."""
    edge, placed = land.frame.extent_m, land.water_surface()
    taken = shapely.union_all([placed.buffer(10), land.road_surface().buffer(8), *land.settlements])
    wanted = max(4, round(PONDS * min(1.0, edge / 1900)))
    for _ in range(60 * wanted):
        if wanted == 0:
            return
        pond = blob(rng, tuple(rng.uniform(0.03, 0.97, 2) * edge), rng.uniform(9, 22), rough=0.16, stretch=1.2)
        if not pond.intersects(taken):
            land.waters.append(Water(pond, "pond"))
            taken = taken.union(pond.buffer(30))
            wanted -= 1


def add_forests(land: Landscape, rng: np.random.Generator) -> None:
    """Woods, wooded islands, and tree rows wider than 8 m along streams and field blocks."""
    edge = land.frame.extent_m
    roads = shapely.union_all([r.line.buffer(r.width_m / 2 + 2.0) for r in land.roads if r.level >= 0])
    wet = land.water_surface()
    keep_off = shapely.union_all([*[s.buffer(3) for s in land.settlements], roads, wet.buffer(1.0), *land.parks])
    woods = [blob(rng, (u * edge, v * edge), r * edge, rough=0.3, stretch=1.1) for u, v, r in FORESTS]
    strips = []
    for stream in (w.line for w in land.waters if w.kind == "stream" and w.line is not None):
        for start in np.arange(0, stream.length, 150):
            if rng.random() < 0.5:
                part = substring(stream, start, start + rng.uniform(60, 150))
                strips.append(part.offset_curve(rng.choice([-1, 1]) * 5).buffer(rng.uniform(5, 7)))
    river = next(w.line for w in land.waters if w.kind == "river" and w.line is not None)
    for start in np.arange(0, river.length, 130):
        if rng.random() < 0.55:
            part = substring(river, start, start + rng.uniform(70, 130))
            strips.append(part.offset_curve(rng.choice([-1, 1]) * 27).buffer(rng.uniform(5, 9)))
    for line in land.tree_rows:
        strips.append(line.buffer(5.5, cap_style="flat"))
    islands = [Polygon(ring).buffer(-2) for w in land.waters for ring in w.shape.interiors]
    islands = [island for index, island in enumerate(islands) if index % 3 != 2]
    everything = shapely.union_all(woods + strips).difference(keep_off)
    land.forests = polygons(everything, 120) + [largest(i) for i in islands if i.area > 60]


def field_blocks(land: Landscape, rng: np.random.Generator) -> tuple[list[Polygon], list[LineString]]:
    """Voronoi cells of about 230 m over the padded region, and the borders between them."""
    edge = land.frame.extent_m
    count = max(4, round((edge + 2 * MARGIN_M) / 235))
    grid = np.stack(np.meshgrid(np.arange(count), np.arange(count)), -1).reshape(-1, 2) + 0.5
    seeds = (grid + rng.uniform(-0.36, 0.36, grid.shape)) / count * (edge + 2 * MARGIN_M) - MARGIN_M
    frame_box = box(-MARGIN_M, -MARGIN_M, edge + MARGIN_M, edge + MARGIN_M)
    cells = [c.intersection(frame_box) for c in shapely.get_parts(shapely.voronoi_polygons(MultiPoint(seeds)))]
    borders = shapely.get_parts(shapely.voronoi_polygons(MultiPoint(seeds), only_edges=True))
    lines = [line.intersection(frame_box) for line in borders if line.length > 45]
    return cells, [line for line in lines if line.geom_type == "LineString" and line.length > 45]


def add_borders(land: Landscape, borders: list[LineString], rng: np.random.Generator) -> None:
    """Tracks of every grade, hedges and tree rows along the borders of field blocks, and paths."""
    edge = land.frame.extent_m
    obstacles = shapely.union_all([*[s.buffer(4) for s in land.settlements], land.water_surface().buffer(9)])
    obstacles = obstacles.union(shapely.union_all([r.area for r in land.roads if r.level >= 0]))
    middle = Point(edge / 2, edge / 2)
    inside = box(0, 0, edge, edge)
    grades = ["grade1", "grade2", "grade3", "grade4", "grade5"]
    seen = 0
    for line in sorted(borders, key=lambda b: (not b.intersects(inside), b.distance(middle))):
        free = max(shapely.get_parts(line.difference(obstacles)), key=lambda part: part.length, default=LineString())
        if free.length < 40:
            continue
        bent = wavy(free, rng)
        pick = rng.random()
        if seen < 5 or pick < 0.58:
            grade = grades[seen % 5] if seen < 10 else str(rng.choice(grades, p=[0.22, 0.2, 0.22, 0.2, 0.16]))
            seen += 1
            tags = {"highway": "track", "tracktype": grade}
            if grade in PAVED_TRACKS and rng.random() < 0.15:
                tags["width"] = "3"
            land.roads.append(Road(bent, tags, road_width_m(tags)))
        if pick > 0.72:
            land.tree_rows.append(bent)
        elif pick > 0.42:
            land.hedges.append(bent.offset_curve(5.0))
    park = land.parks[0]
    west, north, east, south = park.bounds
    for line, kind in (
        (LineString([(west, north), (east, south)]), "footway"),
        (LineString([(west, south), (east, north)]), "path"),
    ):
        tags = {"highway": kind}
        land.roads.append(Road(line.intersection(park.convex_hull), tags, road_width_m(tags)))


def wavy(line: LineString, rng: np.random.Generator) -> LineString:
    """A straight line with a slight bend."""
    count = max(3, round(line.length / 15))
    start, end = np.array(line.coords[0]), np.array(line.coords[-1])
    share = np.linspace(0, 1, count)
    normal = np.array([-(end - start)[1], (end - start)[0]]) / line.length
    bow = rng.normal(0, 0.015) * line.length * np.sin(np.pi * share) + rng.normal(0, 0.3, count)
    return LineString(start + share[:, None] * (end - start) + bow[:, None] * normal)


def add_parcels(land: Landscape, cells: list[Polygon], rng: np.random.Generator) -> None:
    """Cut every field block into strips; each parcel has a crop, rows and a margin of grass."""
    roads = cKDTree(np.concatenate([np.asarray(r.line.coords) for r in land.roads if r.kind != "path"]))
    covered = shapely.union_all([*land.settlements, *land.forests, *land.parks, land.water_surface().buffer(4)])
    for cell in cells:
        angle = longest_edge_angle(cell) + rng.normal(0, 0.04)
        pieces = strips_of(cell, angle, rng)
        pasture = rng.random() < 0.22
        for shape, centre, half in pieces:
            crop = 3 if pasture and rng.random() < 0.8 else int(rng.choice(len(CROP_SHARES), p=CROP_SHARES))
            margin = 1.2 if roads.query(centre)[0] > 60 else 1.6
            inner = largest(shape.buffer(-margin / 2, join_style="mitre"))
            if inner.area > 200:
                land.parcels.append(Parcel(inner, crop, angle, centre, half))
        open_land = cell.difference(covered).buffer(-1.5).buffer(1.0)
        kind = "meadow" if pasture else "farmland"
        land.blocks += [(part, kind) for part in polygons(open_land, 1500)]


def longest_edge_angle(cell: Polygon) -> float:
    """Direction of a polygon's longest side, radians from east, southward."""
    xy = np.asarray(cell.exterior.coords)
    steps = np.diff(xy, axis=0)
    dx, dy = steps[np.argmax(np.hypot(*steps.T))]
    return float(np.arctan2(dy, dx))


def strips_of(cell: Polygon, angle: float, rng: np.random.Generator) -> list[tuple[Polygon, XY, XY]]:
    """Parcels of a block: strips along `angle`, some cut across; each with its centre and half sizes, metres."""
    cos, sin = np.cos(angle), np.sin(angle)
    xy = np.asarray(cell.exterior.coords)
    along, across = xy @ (cos, sin), xy @ (-sin, cos)
    out = []
    low = across.min()
    while low < across.max():
        high = min(low + rng.uniform(28, 95), across.max() + 0.1)
        if across.max() - high < 20:
            high = across.max() + 0.1
        cuts = [along.min(), along.max()]
        if rng.random() < 0.4:
            cuts.insert(1, rng.uniform(0.35, 0.65) * (cuts[1] - cuts[0]) + cuts[0])
        for start, end in pairwise(cuts):
            corners = np.array([(start, low), (end, low), (end, high), (start, high)])
            ring = np.c_[corners @ (cos, -sin), corners @ (sin, cos)]
            shape = largest(Polygon(ring).intersection(cell))
            if shape.area > 350:
                middle = np.array([(start + end) / 2, (low + high) / 2])
                centre = (float(middle @ (cos, -sin)), float(middle @ (sin, cos)))
                out.append((shape, centre, ((end - start) / 2, (high - low) / 2)))
        low = high
    return out
