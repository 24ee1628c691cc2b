"""A seeded town of any size as an OpenStreetMap extract: houses, streets, land use, lakes with islands, railways."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import osmium
from osmium.osm import mutable

from pipeline.files import atomic_file

WEST, SOUTH = 8.0, 50.0
BLOCK_DEG = 0.0015  # edge of a block of houses, about 110 × 170 m
HOUSES = 15  # in a block
WAYS_PER_BLOCK = HOUSES + 5.5  # two streets, the land, two of no layer; a tenth has a lake, a railway or a stream
STREETS = ("residential", "residential", "residential", "tertiary", "secondary", "primary", "track", "service")
LAND = ("residential", "residential", "farmland", "meadow", "forest", "commercial")
OTHERS = ({"barrier": "fence"}, {"power": "line"}, {"boundary": "administrative"}, {})
NAMES = ("Hauptstraße", "Bahnhofstraße", "Am Weiher", "Gartenweg", "Schulstraße", "Lindenallee")

Place = tuple[float, float]
Tags = dict[str, str]


class _Block:
    """Nodes, ways and relations of one block; ids are positions in it until `write_town` adds what came before."""

    def __init__(self, row: int, col: int, seed: int) -> None:
        self.rng = random.Random(f"{seed}-{row}-{col}")
        self.places: list[Place] = []
        self.ways: list[tuple[list[int], Tags]] = []
        self.lakes: list[tuple[list[int], Tags]] = []  # positions of two outer ways and an inner one
        self.x, self.y = WEST + col * BLOCK_DEG, SOUTH + row * BLOCK_DEG
        self._houses()
        self._ground()
        if self.rng.random() < 0.1:
            self._lake()

    def _way(self, points: list[Place], tags: Tags, closed: bool) -> None:
        """Add a way; points are shares of the block's edge."""
        first = len(self.places)
        near = self.rng.random
        self.places += [
            (self.x + (u + near() / 100) * BLOCK_DEG, self.y + (v + near() / 100) * BLOCK_DEG) for u, v in points
        ]
        refs = list(range(first, len(self.places)))
        self.ways.append(([*refs, first] if closed else refs, tags))

    def _houses(self) -> None:
        for number in range(HOUSES):
            tags = {"building": self.rng.choice(("yes", "yes", "house", "garage"))}
            if self.rng.random() < 0.4:
                street = self.rng.choice(NAMES)
                tags |= {"addr:street": street, "addr:housenumber": str(number + 1), "addr:city": "Ort"}
            corner = (0.08 + 0.17 * (number % 5), 0.1 + 0.28 * (number // 5))
            self._way(_rectangle(*corner, 0.1, 0.12, self.rng.choice((0, 0, 2, 4, 8))), tags, closed=True)

    def _ground(self) -> None:
        rng = self.rng
        self._way(_rectangle(0.02, 0.02, 0.95, 0.95, 6), {"landuse": rng.choice(LAND)}, closed=True)
        for end in ((1.0, 0.0), (0.0, 1.0)):
            tags = {"highway": rng.choice(STREETS), "surface": "asphalt", "name": rng.choice(NAMES)}
            self._way([(0.0, 0.0), (end[0] / 2, end[1] / 2), end], tags, closed=False)
        for _ in range(2):
            line = [(0.1 + 0.2 * step, rng.random()) for step in range(5)]
            self._way(line, dict(rng.choice(OTHERS)), closed=False)
        if rng.random() < 0.1:
            self._way([(0.0, 0.05), (1.0, 0.06)], {"railway": "rail", "gauge": "1435"}, closed=False)
        if rng.random() < 0.1:
            self._way([(0.0, 0.0), (1.0, 1.0)], {"waterway": "stream", "width": "2"}, closed=False)

    def _lake(self) -> None:
        """Its shore is two ways, and it has an island."""
        first, shore = len(self.ways), _rectangle(0.3, 0.91, 0.3, 0.06, 8)
        self._way(shore, {}, closed=False)
        refs = self.ways[-1][0]
        self.ways.append(([refs[-1], refs[0]], {}))
        self._way(_rectangle(0.4, 0.93, 0.05, 0.02, 2), {}, closed=True)
        tags = {"type": "multipolygon", "natural": "water", "name": self.rng.choice(NAMES)}
        self.lakes.append(([first, first + 1, first + 2], tags))


def _rectangle(x: float, y: float, width: float, height: float, detail: int) -> list[Place]:
    """Corners of a rectangle, with `detail` points on a jagged lower edge."""
    lower = [(x + width * (step + 1) / (detail + 1), y - height * 0.1 * (step % 2)) for step in range(detail)]
    return [(x, y), *lower, (x + width, y), (x + width, y + height), (x, y + height)]


def _blocks(side: int, seed: int) -> Iterator[tuple[int, int, _Block]]:
    """Every block with the number of nodes and ways before it."""
    nodes = ways = 0
    for row in range(side):
        for col in range(side):
            block = _Block(row, col, seed)
            yield nodes, ways, block
            nodes += len(block.places)
            ways += len(block.ways)


def write_town(path: Path, ways: int, seed: int = 7) -> None:
    """Write a square town of about `ways` ways as .osm.pbf, sorted by type and id; one seed gives one map."""
    side = max(1, round((ways / WAYS_PER_BLOCK) ** 0.5))
    with atomic_file(path) as temporary, osmium.SimpleWriter(osmium.io.File(str(temporary), "pbf")) as writer:
        for nodes, _, block in _blocks(side, seed):
            for number, place in enumerate(block.places, start=nodes + 1):
                writer.add_node(mutable.Node(id=number, version=1, location=place))
        lakes: list[tuple[list[int], Tags]] = []
        for nodes, before, block in _blocks(side, seed):
            for number, (refs, tags) in enumerate(block.ways, start=before + 1):
                writer.add_way(mutable.Way(id=number, version=1, nodes=[nodes + 1 + ref for ref in refs], tags=tags))
            lakes += [([before + 1 + way for way in members], tags) for members, tags in block.lakes]
        for number, (members, tags) in enumerate(lakes, start=1):
            roles = zip(members, ("outer", "outer", "inner"), strict=True)
            listed = [("w", way, role) for way, role in roles]
            writer.add_relation(mutable.Relation(id=number, version=1, members=listed, tags=tags))


def town_box(ways: int) -> tuple[float, float, float, float]:
    """West, south, east, north of the town that `write_town` makes, degrees."""
    side = max(1, round((ways / WAYS_PER_BLOCK) ** 0.5)) * BLOCK_DEG
    return WEST, SOUTH, WEST + side, SOUTH + side
