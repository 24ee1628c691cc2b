"""The demo's settlements: streets, buildings, plots, car parks and farmyards."""

from __future__ import annotations

import numpy as np
import shapely
from shapely.affinity import rotate, translate
from shapely.geometry import LineString, Point, Polygon, box

from pipeline.acquire.demo.landscape import XY, Building, Landscape, Road, blob, largest, polygons, road_width_m

# centre, radius as shares of the edge, street angle in degrees, distance of streets in metres
TOWN = ((0.475, 0.515), 0.165, 8.0, 88.0)
VILLAGES = [
    ((0.235, 0.705), 0.075, 20.0, 80.0), ((0.83, 0.885), 0.072, 65.0, 80.0), ((0.82, 0.455), 0.060, 30.0, 78.0),
    ((0.125, 0.375), 0.050, 10.0, 90.0), ((0.268, 0.055), 0.052, 80.0, 80.0), ((0.415, 0.93), 0.048, 15.0, 85.0),
    ((0.93, 0.575), 0.040, 5.0, 85.0),
]  # fmt: skip
WORKS = ((0.37, 0.225), 150.0, 95.0)  # industrial estate: centre, length and depth in metres
PARK = (0.385, 0.585)
FARMS = [(0.07, 0.245), (0.58, 0.715), (0.955, 0.30), (0.05, 0.885), (0.67, 0.18), (0.33, 0.345), (0.985, 0.80)]


def add_streets(land: Landscape, rng: np.random.Generator) -> list[Polygon]:
    """Residential streets and living streets of the town and the villages; returns the built-up zones."""
    edge = land.frame.extent_m
    zones = []
    keep_off = shapely.union_all([w.shape for w in land.waters]).buffer(14)
    for place in [TOWN, *VILLAGES]:
        (u, v), radius, angle, gap = place
        centre = (u * edge, v * edge)
        zone = largest(blob(rng, centre, radius * edge, rough=0.12).difference(keep_off.buffer(4)))
        zones.append(zone)
        for line in street_grid(zone, centre, np.radians(angle), gap, rng):
            for part in shapely.get_parts(line.intersection(zone.buffer(-12)).difference(keep_off)):
                if part.geom_type == "LineString" and part.length > 55 and not follows_a_road(part, land):
                    kind = "living_street" if rng.random() < 0.12 and place is TOWN else "residential"
                    tags = {"highway": kind} | ({"width": "5"} if rng.random() < 0.2 else {})
                    land.roads.append(Road(part, tags, road_width_m(tags)))
    if all(road.kind != "living_street" for road in land.roads):
        last = max((r for r in land.roads if r.kind == "residential"), key=lambda r: r.line.length)
        land.roads[land.roads.index(last)] = Road(last.line, {"highway": "living_street"}, 6.0)
    return zones


def street_grid(zone: Polygon, centre: XY, angle: float, gap_m: float, rng: np.random.Generator) -> list[LineString]:
    """Slightly wavy streets in two directions across the zone's bounding circle."""
    reach = 40.0 + np.hypot(zone.bounds[2] - zone.bounds[0], zone.bounds[3] - zone.bounds[1]) / 2
    along = np.arange(-reach, reach, 10.0)
    lines = []
    for turn, spacing in ((angle, gap_m), (angle + np.pi / 2, gap_m * 1.75)):
        for offset in np.arange(-reach, reach, spacing) + rng.uniform(0, spacing):
            wave = 5.0 * np.sin(along / rng.uniform(45, 90) + rng.uniform(0, 6)) + rng.normal(0, 4)
            x, y = along, offset + wave
            xy = np.c_[x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)]
            lines.append(LineString(xy + centre))
    return lines


def follows_a_road(line: LineString, land: Landscape) -> bool:
    """Whether most of `line` runs within 34 m of a road of about the same direction."""
    alike = [r.area for r in land.roads if r.line.distance(line) < 34 and heading_gap(r.line, line) < 0.7]
    near = shapely.union_all(alike).buffer(34)
    return bool(line.intersection(near).length > 0.62 * line.length)


def heading_gap(a: LineString, b: LineString) -> float:
    """Angle between two lines where they are nearest, 0 to π/2."""
    turns = []
    for line, other in ((a, b), (b, a)):
        place = line.project(other.interpolate(0.5, normalized=True))
        start, end = line.interpolate(max(0, place - 5)), line.interpolate(place + 5)
        turns.append(np.arctan2(end.y - start.y, end.x - start.x))
    gap = abs(turns[0] - turns[1]) % np.pi
    return float(min(gap, np.pi - gap))


def rectangle(centre: XY, length: float, width: float, angle: float) -> Polygon:
    """A turned rectangle."""
    shape = box(-length / 2, -width / 2, length / 2, width / 2)
    return translate(rotate(shape, angle, origin=(0, 0), use_radians=True), *centre)


def house(rng: np.random.Generator, centre: XY, angle: float, dense: bool) -> Building:
    """A dwelling with its main axis at `angle`; some have a wing."""
    length, width = rng.uniform(9.5, 15), rng.uniform(8, 11)
    kind, height = "house" if rng.random() < 0.6 else "yes", rng.uniform(6, 9.5)
    if dense and rng.random() < 0.55:
        length, width, height, kind = rng.uniform(15, 34), rng.uniform(10, 13), rng.uniform(10, 15), "apartments"
    roof = str(rng.choice(["gable", "hip", "flat"], p=[0.66, 0.2, 0.14]))
    shape = rectangle(centre, length, width, angle)
    if roof != "hip" and rng.random() < 0.22:
        out = (np.cos(angle + np.pi / 2), np.sin(angle + np.pi / 2))
        step = width / 2 + 1.5
        wing = rectangle((centre[0] + out[0] * step, centre[1] + out[1] * step), length * 0.45, width * 0.6, angle)
        shape = largest(shape.union(wing))
    return Building(shape, centre, angle, length, width, height, roof, kind)


def houses_along(road: Road, zone: Polygon, dense: Polygon, rng: np.random.Generator) -> list[Building]:
    """Candidates on both sides of a street, with garages and sheds behind."""
    out = []
    for side in (-1, 1):
        place = rng.uniform(6, 14)
        while place < road.line.length - 5:
            here, ahead = road.line.interpolate(place - 1), road.line.interpolate(place + 1)
            angle = float(np.arctan2(ahead.y - here.y, ahead.x - here.x))
            normal = (-np.sin(angle) * side, np.cos(angle) * side)
            off = road.width_m / 2 + rng.uniform(3.5, 8.0) + 5.5
            centre = (here.x + normal[0] * off, here.y + normal[1] * off)
            if zone.contains(Point(centre)):
                turn = np.pi / 2 if rng.random() < 0.3 else 0.0
                main = house(rng, centre, angle + turn + rng.normal(0, 0.02), dense.contains(Point(centre)))
                out.append(main)
                place += main.length_m * 0.35
                if rng.random() < 0.45:
                    far = off + rng.uniform(11, 19)
                    spot = (here.x + normal[0] * far + rng.normal(0, 3), here.y + normal[1] * far + rng.normal(0, 3))
                    size = (rng.uniform(4, 8), rng.uniform(3, 5))
                    shed = rectangle(spot, *size, angle)
                    out.append(Building(shed, spot, angle, *size, 2.8, str(rng.choice(["flat", "gable"])), "garage"))
            place += rng.uniform(10, 17)
    return out


def town_hall(near: XY, blocked: shapely.Geometry) -> Building:
    """A building round a courtyard, at the free place nearest to `near`."""
    steps = np.arange(-160, 161, 8)
    spots = [(near[0] + dx, near[1] + dy) for dx in steps for dy in steps]
    for spot in sorted(spots, key=lambda s: float(np.hypot(s[0] - near[0], s[1] - near[1]))):
        whole = rectangle(spot, 42, 34, 0.1)
        if not blocked.intersects(whole):
            break
    return Building(whole.difference(rectangle(spot, 20, 14, 0.1)), spot, 0.1, 42, 34, 13, "flat", "civic")


def special_buildings(land: Landscape, rng: np.random.Generator) -> list[Building]:
    """A church, the works' halls, farms: placed before the houses, so that these give way."""
    edge = land.frame.extent_m
    out = []
    spot = (0.50 * edge, 0.488 * edge)
    out.append(Building(rectangle(spot, 32, 13, 0.15), spot, 0.15, 32, 13, 16, "gable", "church"))
    (u, v), length, depth = WORKS
    for dx in np.linspace(-length / 2 + 24, length / 2 - 24, 3):
        for dy in (-depth / 4 - 2, depth / 4 + 2):
            if dx > 40 and dy > 0:
                continue  # the car park
            spot = (u * edge + dx, v * edge + dy)
            size = (rng.uniform(32, 46), rng.uniform(22, 34))
            out.append(Building(rectangle(spot, *size, 0.05), spot, 0.05, *size, 8, "flat", "industrial"))
    for u, v in FARMS:
        turn = rng.uniform(0, np.pi)
        for dx, dy, length, width in ((-16, -9, 30, 14), (17, -6, 16, 11), (-4, 18, 38, 16)):
            x = u * edge + dx * np.cos(turn) - dy * np.sin(turn)
            y = v * edge + dx * np.sin(turn) + dy * np.cos(turn)
            shape = rectangle((x, y), length, width, turn)
            kind = "farm" if width == 11 else "barn"
            out.append(Building(shape, (x, y), turn, length, width, 8, "gable", kind))
    return out


def add_yards(land: Landscape, rng: np.random.Generator) -> None:
    """The works' ground, car parks, farmyards: sealed, so URBAN in the truth."""
    edge = land.frame.extent_m
    (u, v), length, depth = WORKS
    land.yards.append(rectangle((u * edge, v * edge), length, depth, 0.05))
    land.yards.append(rectangle((0.503 * edge, 0.455 * edge), 46, 30, 0.1))
    for u, v in FARMS:
        land.yards.append(blob(rng, (u * edge, v * edge), 36, rough=0.1))
    wet = land.water_surface().buffer(5)
    land.yards = [largest(yard.difference(wet)) for yard in land.yards]


def add_buildings(land: Landscape, zones: list[Polygon], rng: np.random.Generator) -> None:
    """Buildings along the streets of `zones`, then the settled ground round them; needs roads and yards."""
    edge = land.frame.extent_m
    dense = Point(0.475 * edge, 0.505 * edge).buffer(0.07 * edge)
    park = blob(rng, (PARK[0] * edge, PARK[1] * edge), 0.033 * edge, rough=0.1)
    streets = land.road_surface()
    blocked = shapely.union_all([streets.buffer(2.0), land.water_surface().buffer(7), park.buffer(3)])
    shapely.prepare(blocked)
    found = [town_hall((0.452 * edge, 0.478 * edge), blocked), *special_buildings(land, rng)]
    for zone in zones:
        for road in land.roads:
            bare = road.kind in ("trunk", "motorway", "trunk_link", "motorway_link", "track", "path", "footway")
            if not bare and road.level == 0 and road.line.intersects(zone):
                found += houses_along(road, zone, dense, rng)
    free = [b for b in found if not blocked.intersects(b.shape)]
    land.buildings = without_overlaps(free, 2.5)
    plots = [b.shape.buffer(11.5, join_style="mitre", cap_style="square") for b in land.buildings]
    town = shapely.union_all(zones).buffer(6)
    lanes = [r.line.intersection(town).buffer(r.width_m / 2 + 4) for r in land.roads if r.urban]
    ground = shapely.union_all(plots + lanes + land.yards).buffer(9, join_style="mitre")
    ground = ground.buffer(-9, join_style="mitre").difference(land.water_surface().buffer(3)).difference(park)
    for part in polygons(ground, 600):
        holes = [ring for ring in part.interiors if Polygon(ring).area > 2600]
        land.settlements.append(Polygon(part.exterior, holes))
    wet = land.water_surface()
    land.settlements = [p for s in land.settlements for p in polygons(s.difference(wet).difference(park), 300)]
    land.parks.append(largest(park.difference(streets).difference(wet)))


def without_overlaps(found: list[Building], gap_m: float) -> list[Building]:
    """Keep buildings in order, dropping each that comes within `gap_m` of one kept before."""
    shapes = [b.shape for b in found]
    tree = shapely.STRtree(shapes)
    first, second = tree.query(shapes, predicate="dwithin", distance=gap_m)
    rivals: dict[int, list[int]] = {}
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        if b < a:
            rivals.setdefault(a, []).append(b)
    kept: set[int] = set()
    for index in range(len(found)):
        if not any(other in kept for other in rivals.get(index, ())):
            kept.add(index)
    return [found[index] for index in sorted(kept)]
