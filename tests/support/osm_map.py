"""Small OpenStreetMap extracts, written node by node, and the layers that become of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import osmium
import pyogrio
from osmium.osm import mutable

from pipeline.acquire.osm import extract_osm

LAYERS = {
    "roads": "LineString",
    "waterways": "LineString",
    "railways": "LineString",
    "water": "MultiPolygon",
    "buildings": "MultiPolygon",
    "landuse": "MultiPolygon",
    "road_areas": "MultiPolygon",
}
Point = tuple[float, float]


class Map:
    """A small map: nodes by id → (lon, lat), ways and relations as pyosmium takes them; one place is one node."""

    def __init__(self) -> None:
        self.nodes: dict[int, Point] = {}
        self.refs: dict[Point, int] = {}
        self.ways: list[Any] = []
        self.relations: list[Any] = []
        self.dropped: set[int] = set()

    def way(
        self, number: int, points: Sequence[Point], tags: dict[str, str] | None = None, drop: Iterable[int] = ()
    ) -> None:
        """Add a way through `points`; nodes at positions in `drop` are not written."""
        refs = []
        for point in points:
            refs.append(self.refs.setdefault(point, len(self.refs) + 1))
            self.nodes[refs[-1]] = point
        self.dropped |= {refs[position] for position in drop}
        self.ways.append(mutable.Way(id=number, version=1, nodes=refs, tags=tags or {}))

    def relation(self, number: int, members: list[tuple[str, int, str]], tags: dict[str, str]) -> None:
        """Add a relation."""
        self.relations.append(mutable.Relation(id=number, version=1, members=members, tags=tags))

    def write(self, path: Path, leave_out: Iterable[int] = (), backwards: bool = False, box: Any = None) -> Path:
        """Write the map, without the ways in `leave_out`; `backwards`: ids descend within each type.

        `box` (west, south, east, north) goes into the header.
        """
        step, left = (-1 if backwards else 1), set(leave_out)
        header = osmium.io.Header()
        if box is not None:
            header.add_box(osmium.osm.Box(*box))
        with osmium.SimpleWriter(str(path), header=header, overwrite=True) as writer:
            for ref in sorted(self.nodes.keys() - self.dropped)[::step]:
                writer.add_node(mutable.Node(id=ref, version=1, location=self.nodes[ref]))
            for way in sorted(self.ways, key=lambda way: way.id)[::step]:
                if way.id not in left:
                    writer.add_way(way)
            for relation in self.relations[::step]:
                writer.add_relation(relation)
        return path


def ring(west: float, south: float, size: float) -> list[Point]:
    """A closed square."""
    return [
        (west, south),
        (west + size, south),
        (west + size, south + size),
        (west, south + size),
        (west, south),
    ]


def extract(folder: Path, city: Map, bbox: Any = None) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Frames of all layers of a map, the summary, and the lines of the log."""
    return extract_files(folder, city.write(folder / "map.osm.pbf"), bbox)


def extract_files(folder: Path, pbfs: Any, bbox: Any = None) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The same of one extract or several."""
    lines: list[str] = []
    found = extract_osm(pbfs, bbox, folder / "layers.gpkg", folder / "osm.json", log=lines.append)
    assert json.loads((folder / "osm.json").read_text()) == found
    frames = {name: pyogrio.read_dataframe(folder / "layers.gpkg", layer=name) for name in LAYERS}
    assert {name: len(frame) for name, frame in frames.items()} == found["features"]
    return frames, found, lines
