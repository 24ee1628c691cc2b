"""Writer of the demo's OSM extract: what volunteers would have mapped, slightly off and not quite complete."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import osmium
import shapely
from numpy.typing import NDArray
from osmium.osm.mutable import Node, Relation, Way
from shapely.geometry import LineString, Polygon

from pipeline.acquire.demo.frame import Frame
from pipeline.acquire.demo.landscape import Landscape, largest

STAMP = "2024-01-01T00:00:00Z"
JITTER_M = 0.30
LOST_BUILDINGS, LOST_PONDS = 0.04, 0.25
FIRST = {"node": 1_000_000_001, "way": 200_000_001, "relation": 3_000_001}
Tags = dict[str, str]
Points = NDArray[np.float64]
Known = dict[tuple[float, float], int]


class Extract:
    """Collects nodes, ways and relations; positions are displaced as a mapper's would be."""

    def __init__(self, frame: Frame, rng: np.random.Generator) -> None:
        self.frame, self.rng = frame, rng
        self.nodes: list[Node] = []
        self.ways: list[Way] = []
        self.relations: list[Relation] = []
        self.known: Known = {}

    def node(self, x_m: float, y_m: float, known: Known, jitter_m: float) -> int:
        """The node at a ground point; a point that `known` holds gives the same node."""
        key = (round(x_m, 2), round(y_m, 2))
        if key not in known:
            dx, dy = self.rng.normal(0, jitter_m, 2)
            number = FIRST["node"] + len(self.nodes)
            place = self.frame.lonlat(x_m + dx, y_m + dy)
            self.nodes.append(Node(id=number, version=1, timestamp=STAMP, location=place))
            known[key] = number
        return known[key]

    def way(self, points: Points, tags: Tags) -> int:
        """A line through ground points [N, 2], displaced; lines share the nodes where they meet."""
        return self.add_way([self.node(x, y, self.known, JITTER_M) for x, y in points], tags)

    def add_way(self, refs: list[int], tags: Tags) -> int:
        """A way through nodes."""
        number = FIRST["way"] + len(self.ways)
        self.ways.append(Way(id=number, version=1, timestamp=STAMP, nodes=refs, tags=tags))
        return number

    def area(self, shape: Polygon, tags: Tags, *, pieces: int = 1) -> None:
        """A closed way, or a multipolygon relation when there are holes or the outer ring is cut into `pieces`.

        Its outline is displaced where that leaves it valid; a shape that is no valid polygon is not written.
        """
        moved = self.displaced(shape)
        if moved.is_empty:
            return
        known: Known = {}
        rings = [[self.node(x, y, known, 0.0) for x, y in r.coords] for r in (moved.exterior, *moved.interiors)]
        if pieces == 1 and len(rings) == 1:
            self.add_way(rings[0], tags)
            return
        cuts = np.linspace(0, len(rings[0]) - 1, pieces + 1).astype(int)
        members = [("w", self.add_way(rings[0][a : b + 1], {}), "outer") for a, b in pairwise(cuts)]
        members += [("w", self.add_way(ring, {}), "inner") for ring in rings[1:]]
        number = FIRST["relation"] + len(self.relations)
        tags = {"type": "multipolygon", **tags}
        self.relations.append(Relation(id=number, version=1, timestamp=STAMP, members=members, tags=tags))

    def displaced(self, shape: Polygon) -> Polygon:
        """The shape as a mapper would have drawn it, or as it is when that would not be valid."""
        rings = []
        for ring in (shape.exterior, *shape.interiors):
            xy = np.asarray(ring.coords)[:-1]
            rings.append((xy + self.rng.normal(0, JITTER_M, xy.shape)).round(2))
        moved = Polygon(rings[0], rings[1:])
        if moved.is_valid:
            return moved
        clean = shapely.set_precision(shape.buffer(-0.3, join_style="mitre").buffer(0.2, join_style="mitre"), 0.02)
        return largest(clean)

    def write(self, path: Path) -> None:
        """Write everything, nodes first."""
        header = osmium.io.Header()
        header.set("generator", "pipeline demo region")
        with osmium.SimpleWriter(str(path), header=header) as writer:
            for node in self.nodes:
                writer.add_node(node)
            for way in self.ways:
                writer.add_way(way)
            for relation in self.relations:
                writer.add_relation(relation)


def write_osm(path: Path, land: Landscape, rng: np.random.Generator) -> dict[str, int]:
    """Write the extract; returns how many nodes, ways and relations it holds, and what mappers left out."""
    extract = Extract(land.frame, rng)
    add_roads(extract, land)
    lost_ponds = add_waters(extract, land, rng)
    lost_buildings = add_buildings(extract, land, rng)
    add_landuse(extract, land)
    extract.write(path)
    return {
        "nodes": len(extract.nodes),
        "ways": len(extract.ways),
        "relations": len(extract.relations),
        "buildings_left_out": lost_buildings,
        "ponds_left_out": lost_ponds,
    }


def add_roads(extract: Extract, land: Landscape) -> None:
    """Highways, joined where they cross at one level."""
    lines = [road.line.simplify(0.35) for road in land.roads]
    tree = shapely.STRtree(lines)
    for index, (road, line) in enumerate(zip(land.roads, lines, strict=True)):
        crossings = []
        for other in tree.query(line, predicate="intersects"):
            if other != index and land.roads[other].level == road.level:
                crossings += [p for p in shapely.get_parts(line.intersection(lines[other])) if p.geom_type == "Point"]
        extract.way(with_points(line, crossings), {**road.tags, **names(road.kind, index)})


def names(kind: str, index: int) -> Tags:
    """A name or a number, as the class of road would have it."""
    if kind in ("residential", "living_street"):
        return {"name": f"Demostraße {index}"}
    short = {"motorway": "A 5", "trunk": "B 8", "primary": "B 275", "secondary": "L 3019", "tertiary": "K 510"}
    return {"ref": short[kind]} if kind in short else {}


def with_points(line: LineString, points: list[shapely.Point]) -> Points:
    """Coordinates of `line` with `points` (on it) put in, [N, 2]."""
    own = np.asarray(line.coords)
    if not points:
        return own
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(own, axis=0).T))])
    extra = np.array([(p.x, p.y) for p in points])
    places = np.concatenate([along, [line.project(p) for p in points]])
    order = np.argsort(places, kind="stable")
    xy = np.concatenate([own, extra])[order].round(2)
    keep = np.concatenate([[True], np.any(np.diff(xy, axis=0) != 0, axis=1)])
    return np.asarray(xy[keep])


def add_waters(extract: Extract, land: Landscape, rng: np.random.Generator) -> int:
    """River line and area, streams with widths, lakes (one with its outer ring in three ways), most ponds."""
    lost, lakes = 0, 0
    for water in land.waters:
        if water.line is not None:
            kind = "river" if water.kind == "river" else "stream"
            tags = {"waterway": kind} | ({"name": "Demobach"} if kind == "river" else {"width": f"{water.width_m:g}"})
            extract.way(np.asarray(water.line.simplify(0.4).coords), tags)
        if water.kind == "river":
            extract.area(water.shape.simplify(0.4), {"natural": "water", "water": "river"})
        elif water.kind == "lake":
            pieces = 3 if lakes == 0 else 1
            lakes += 1
            extract.area(water.shape.simplify(0.4), {"natural": "water", "water": "lake"}, pieces=pieces)
        elif water.kind == "pond":
            if rng.random() < LOST_PONDS and water.shape.area < 1200:
                lost += 1
            else:
                extract.area(water.shape.simplify(0.4), {"natural": "water", "water": "pond"})
    return lost


def add_buildings(extract: Extract, land: Landscape, rng: np.random.Generator) -> int:
    """Buildings, each traced with an offset of its own, a few never traced; the courtyard one is a multipolygon."""
    lost = 0
    for building in land.buildings:
        offset = rng.normal(0, 0.3, 2)
        if rng.random() < LOST_BUILDINGS and not building.shape.interiors:
            lost += 1
            continue
        shape = shapely.transform(building.shape, lambda xy, by=offset: xy + by)
        extract.area(shape, {"building": building.kind})
    return lost


def add_landuse(extract: Extract, land: Landscape) -> None:
    """Forests, fields, meadows, settlements, parks, car parks, hedges and tree rows, drawn coarsely."""
    themes: list[tuple[list[Polygon], Tags]] = [
        (land.forests, {"landuse": "forest"}),
        ([b for b, kind in land.blocks if kind == "farmland"], {"landuse": "farmland"}),
        ([b for b, kind in land.blocks if kind == "meadow"], {"landuse": "meadow"}),
        (land.settlements, {"landuse": "residential"}),
        (land.parks, {"leisure": "park"}),
        (land.yards[:1], {"landuse": "industrial"}),
        (land.yards[1:2], {"amenity": "parking"}),
        (land.yards[2:], {"landuse": "farmyard"}),
    ]
    for shapes, tags in themes:
        for shape in shapes:
            for part in shapely.get_parts(shape.simplify(1.2)):
                if part.geom_type == "Polygon" and part.area > 30:
                    extract.area(part, tags)
    for lines, tags in ((land.hedges, {"barrier": "hedge"}), (land.tree_rows, {"natural": "tree_row"})):
        for line in lines:
            extract.way(np.asarray(line.simplify(0.6).coords), tags)
