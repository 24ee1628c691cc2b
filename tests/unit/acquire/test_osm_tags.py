"""Tag by tag: one map with every kind of road, water, railway and multipolygon, checked feature by feature."""

from __future__ import annotations

import json

import pytest
import shapely
from pyproj import Geod

from tests.support.osm_map import LAYERS, Map, extract, ring

ROADS = (  # the four width sets of the Frankfurt report
    *("motorway", "motorway_link", "trunk", "trunk_link", "primary"),
    *("primary_link", "secondary"),
    *("secondary_link", "tertiary", "tertiary_link", "unclassified", "residential", "living_street"),
    *(f"track grade{grade}" for grade in range(1, 6)),
)
OTHER_ROADS = ("track", "service", "footway", "cycleway", "path", "steps", "pedestrian", "bus_guideway", "raceway")


class Sheet:
    """A map whose features lie on a lattice of squares of a hundredth of a degree, with what each should become."""

    def __init__(self) -> None:
        self.map = Map()
        self.expected: dict[str, dict[tuple[str, int], shapely.Geometry]] = {layer: {} for layer in LAYERS}
        self.tags: dict[tuple[str, int], dict[str, str]] = {}
        self.number = 0

    def corner(self) -> tuple[float, float]:
        """The corner of the next free square."""
        self.number += 1
        return round(8 + self.number % 20 / 100, 7), round(50 + self.number // 20 / 100, 7)

    def expect(self, kind: str, number: int, layers: str, shape: shapely.Geometry, tags: dict[str, str]) -> None:
        """Say what way or relation `number` should be, in each of the layers."""
        self.tags[kind, number] = tags
        for layer in layers.split():
            self.expected[layer][kind, number] = shape

    def line(self, layers: str = "", **tags: str) -> int:
        """An open way of three points."""
        x, y = self.corner()
        points = [(x, y), (x + 0.004, y + 0.001), (x + 0.004, y + 0.005)]
        return self.way(points, shapely.LineString(points), layers, tags)

    def square(self, layers: str = "", **tags: str) -> int:
        """A closed way."""
        points = ring(*self.corner(), 0.005)
        lines = all(LAYERS[layer] == "LineString" for layer in layers.split())
        shape = shapely.LineString(points) if lines else shapely.Polygon(points)
        return self.way(points, shape, layers, tags)

    def way(self, points: list[tuple[float, float]], shape: shapely.Geometry, layers: str, tags: dict[str, str]) -> int:
        """A way of any form; underscores in keys stand for colons."""
        number, tags = 1000 + len(self.map.ways), {key.replace("__", ":"): value for key, value in tags.items()}
        self.map.way(number, points, tags)
        self.expect("way", number, layers, shape, tags)
        return number

    def relation(
        self, number: int, members: list[tuple[int, str]], layers: str, shape: shapely.Geometry, **tags: str
    ) -> None:
        """A relation of ways."""
        kind = {"type": "multipolygon"} | tags
        self.map.relation(number, [("w", way, role) for way, role in members], kind)
        self.expect("relation", number, layers, shape, kind)


def roads(sheet: Sheet) -> None:
    for value in (*ROADS, *OTHER_ROADS):
        highway, _, grade = value.partition(" ")
        sheet.line("roads", highway=highway, **({"tracktype": grade} if grade else {}))
    sheet.line("roads", highway="primary", tunnel="yes", layer="-1", lanes="4", width="14,5")
    sheet.line("roads", highway="secondary", bridge="viaduct", layer="2", name="Brücke, 1 = a%b @ «c»\n\u2028d 😀")
    sheet.square("roads", highway="primary", junction="roundabout")
    sheet.square("roads", highway="footway", area="no")
    sheet.square("road_areas", highway="pedestrian", area="yes")
    sheet.square("road_areas", area__highway="residential")
    sheet.square("road_areas buildings", highway="platform", area="yes", building="roof")
    x, y = sheet.corner()
    outer = sheet.way(ring(x, y, 0.008), shapely.Point(), "", {})
    inner = sheet.way(ring(x + 0.002, y + 0.002, 0.002), shapely.Point(), "", {})
    shape = shapely.Polygon(ring(x, y, 0.008), [ring(x + 0.002, y + 0.002, 0.002)])
    sheet.relation(1, [(outer, "outer"), (inner, "inner")], "road_areas", shape, highway="pedestrian")


def railways(sheet: Sheet) -> None:
    for value in ("rail", "tram", "light_rail", "subway", "narrow_gauge", "disused", "abandoned"):
        sheet.line("railways", railway=value, tunnel="yes" if value == "subway" else "no")
    sheet.line("railways roads", railway="tram", highway="residential")  # in the street
    sheet.line("railways", railway="platform")
    sheet.square("railways", railway="rail", service="test_track")  # a loop
    sheet.square("", railway="platform")
    sheet.square("", railway="turntable")
    sheet.square("buildings", railway="station", building="train_station")


def water(sheet: Sheet) -> None:
    for value in ("river", "stream", "canal", "ditch", "drain", "dam", "weir", "dock"):
        sheet.line("waterways", waterway=value, width="2 m")
    sheet.line("waterways", waterway="stream", tunnel="culvert")
    sheet.line("", waterway="riverbank")  # a part of a shore whose relation carries no tags: no line
    sheet.line("", natural="water")  # open
    for tags in (
        {"natural": "water"},
        {"natural": "water", "water": "reservoir", "landuse": "reservoir"},
        {"landuse": "basin"},
        {"waterway": "riverbank"},
        {"waterway": "dock"},
        {"waterway": "river", "area": "yes"},
        {"water": "pond"},
    ):
        sheet.square("water", **tags)
    sheet.square("waterways", waterway="canal")  # a moat, a line by its tags


def lakes(sheet: Sheet) -> None:
    """Relation 10: three outer ways, two islands; one island has a pond of its own (11), the other none."""
    x, y = sheet.corner()
    shore = [(x, y), (x + 0.009, y), (x + 0.009, y + 0.009), (x, y + 0.009)]
    parts = [[shore[0], shore[1], shore[2]], [shore[3], shore[2]], [shore[3], shore[0]]]  # one runs backwards
    members = [(sheet.way(part, shapely.Point(), "", {}), "outer") for part in parts]
    big, small, pond = ring(x + 0.001, y + 0.001, 0.004), ring(x + 0.006, y + 0.006, 0.002), (x + 0.002, y + 0.002)
    members += [(sheet.way(big, shapely.Polygon(big), "landuse", {"natural": "wood"}), "inner")]
    members += [(sheet.way(small, shapely.Point(), "", {"place": "islet"}), "inner")]
    sheet.relation(10, members, "water", shapely.Polygon(shore, [big, small]), natural="water", name="See")
    sheet.way(ring(*pond, 0.002), shapely.Polygon(ring(*pond, 0.002)), "water", {"natural": "water"})
    x, y = sheet.corner()
    rings = [ring(x, y, 0.009), ring(x + 0.002, y + 0.002, 0.005), ring(x + 0.004, y + 0.004, 0.001)]
    ways = [sheet.way(one, shapely.Point(), "", {}) for one in rings]
    shape = shapely.MultiPolygon([(rings[0], [rings[1]]), (rings[2], [])])
    roles = zip(ways, ("outer", "inner", "outer"), strict=True)
    sheet.relation(11, list(roles), "water", shape, natural="water")  # the pond is the lake's own third ring
    apart = [ring(*sheet.corner(), 0.004), ring(*sheet.corner(), 0.004)]
    ways = [sheet.way(one, shapely.Point(), "", {}) for one in apart]
    shape = shapely.MultiPolygon([(one, []) for one in apart])
    sheet.relation(12, [(way, "outer") for way in ways], "water", shape, waterway="riverbank")
    x, y = sheet.corner()
    outer, inner = ring(x, y, 0.006), ring(x + 0.001, y + 0.001, 0.002)
    ways = [sheet.way(outer, shapely.Polygon(outer), "water", {"natural": "water"})]  # old style: the island is lost
    ways += [sheet.way(inner, shapely.Point(), "", {})]
    sheet.relation(13, [(ways[0], "outer"), (ways[1], "inner")], "", shapely.Point(), source="survey")


def land(sheet: Sheet) -> None:
    for tags in ({"landuse": "forest"}, {"natural": "wood"}, {"natural": "wetland"}, {"leisure": "park"}):
        sheet.square("landuse", **tags)
    sheet.square("landuse buildings", landuse="retail", building="yes")
    sheet.square("buildings", building="house", building__levels="2")
    sheet.square("", building="no")
    for natural in ("tree_row", "cliff", "ridge"):
        sheet.square("", natural=natural)
    sheet.square("", natural="wood", area="no")
    sheet.square("", barrier="fence")
    sheet.line("", landuse="forest")
    sheet.relation(20, [], "", shapely.Point(), type="site", natural="wood")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The sheet, its layers, the summary, the log."""
    sheet = Sheet()
    for add in (roads, railways, water, lakes, land):
        add(sheet)
    return sheet, *extract(tmp_path_factory.mktemp("sheet"), sheet.map)


@pytest.mark.parametrize("layer", LAYERS)
def test_every_feature_is_in_its_layers_and_in_no_other(made, layer):
    sheet, frames, _, _ = made
    frame, expected = frames[layer], sheet.expected[layer]
    assert list(zip(frame.osm_type, frame.osm_id, strict=True)) == sorted(expected)
    for row in frame.to_dict("records"):
        key = (row["osm_type"], row["osm_id"])
        assert json.loads(row["tags"]) == sheet.tags[key], key
        for column in set(row) - {"osm_id", "osm_type", "tags", "geometry"}:
            value = row[column] if isinstance(row[column], str) else None  # an absent tag is null
            assert value == sheet.tags[key].get(column), (key, column)
        if LAYERS[layer] == "LineString":
            assert shapely.equals_exact(row["geometry"], expected[key], 1e-9), key
        else:
            assert row["geometry"].is_valid, key
            assert shapely.equals_exact(
                shapely.normalize(row["geometry"]),
                shapely.normalize(shapely.multipolygons([*_parts(expected[key])])),
                1e-9,
            ), key


def _parts(shape):
    return shape.geoms if shape.geom_type == "MultiPolygon" else [shape]


def test_nothing_else_is_lost_but_what_is_named(made):
    _, _, found, lines = made
    assert found["relations_without_tags"] == [13]
    kinds = ("relations_missing_members", "relations_not_assembled", "ways_missing_nodes")
    assert {kind: found[kind] for kind in kinds} == {kind: [] for kind in kinds}
    sheet = made[0]
    open_ways = [{"waterway": "riverbank"}, {"natural": "water"}, {"landuse": "forest"}]
    assert [sheet.tags["way", number] for number in found["areas_not_assembled"]] == open_ways
    assert any("old style" in line and line.endswith(": 13") for line in lines)


def test_all_road_sets_are_there_with_their_grades(made):
    _, frames, _, _ = made
    rows = frames["roads"]
    pairs = set(zip(rows.highway, rows.tracktype.fillna(""), strict=True))
    assert {tuple((f"{value} ").split(" ")[:2]) for value in ROADS} <= pairs


def test_broken_areas_and_lines_are_named(tmp_path):
    city = Map()
    square = ring(8.0, 50.0, 0.01)
    city.way(1, [square[0], square[2], square[1], square[3], square[0]], {"landuse": "forest"})  # crosses itself
    city.way(2, ring(8.1, 50.0, 0.01), {"natural": "water"}, drop=(1,))
    city.way(3, [(8.2, 50.0), (8.21, 50.0), (8.21, 50.01)], {"highway": "pedestrian", "area": "yes"})  # open
    city.way(4, [(8.3, 50.0), (8.31, 50.0), (8.32, 50.0)], {"highway": "primary"}, drop=(0, 2))  # one node is left
    city.way(5, [(8.4, 50.0), (8.41, 50.0)], {"railway": "rail"}, drop=(0, 1))
    city.way(6, [(8.5, 50.0), (8.51, 50.0)], {"power": "line"}, drop=(0,))  # of no layer
    city.way(7, ring(8.6, 50.0, 0.01), {}, drop=(1,))
    city.relation(1, [("w", 7, "outer")], {"type": "multipolygon", "landuse": "forest"})
    city.relation(2, [("w", 8, "outer"), ("n", 9, "label")], {"type": "multipolygon", "building": "yes"})
    city.relation(3, [("w", 8, "outer")], {"type": "route", "highway": "x"})
    frames, found, lines = extract(tmp_path, city)
    assert all(frame.empty for frame in frames.values())
    assert [" ".join(line.split()[:3]) for line in lines if " left out" in line or "shortened" in line] == [
        "1 relation left",
        "1 relation left",
        "3 ways left",
        "2 lines shortened,",
    ]
    assert found["areas_not_assembled"] == [1, 2, 3]
    assert found["ways_missing_nodes"] == [4, 5]
    assert found["relations_not_assembled"] == [1]
    assert found["relations_missing_members"] == [2]


@pytest.mark.parametrize(
    ("tags", "named"),
    [
        ({"building": "yes"}, True),
        ({"landuse": "meadow"}, True),
        ({"natural": "water"}, True),
        ({"natural": "wood", "source": "x"}, True),
        ({"waterway": "riverbank"}, True),
        ({"building": "no"}, False),
        ({"natural": "tree_row"}, False),
        ({"natural": "bay"}, False),
        ({"leisure": "track"}, False),
        ({"waterway": "dock"}, False),
        ({"highway": "track", "landuse": "forest"}, False),  # a line of its own
        ({"barrier": "hedge", "landuse": "hedge"}, False),
        ({"natural": "wood", "area": "no"}, False),
    ],
)
def test_an_open_way_with_tags_of_areas_is_named_unless_it_is_a_part_of_a_ring(tmp_path, tags, named):
    """Open ways 1 alone, 2 and 3 in a tagged relation, 4 in one without tags, 5 in a boundary, 6 in a route."""
    city = Map()
    square = ring(8.0, 50.0, 0.01)
    for number, points in ((1, square[:3]), (2, square[:3]), (3, square[2:]), (4, square[:3]), (5, square[:3])):
        city.way(number, points, tags)
    city.way(6, square[2:], tags)
    city.relation(1, [("w", 2, "outer"), ("w", 3, "outer")], {"type": "multipolygon", "natural": "water"})
    city.relation(2, [("w", 4, "outer")], {"type": "multipolygon"})
    city.relation(3, [("w", 5, "outer")], {"type": "boundary", "boundary": "national_park"})
    city.relation(4, [("w", 6, "")], {"type": "route", "route": "hiking"})
    frames, found, lines = extract(tmp_path, city)
    assert found["areas_not_assembled"] == ([1, 6] if named else [])
    assert frames["water"].osm_id.tolist() == [1] and found["relations_without_tags"] == [2]
    assert any("2 ways left out of the areas" in line and line.endswith(": 1, 6") for line in lines) == named


@pytest.mark.parametrize(
    ("tags", "old"),
    [
        ({}, True),
        ({"source": "survey", "source:date": "2012"}, True),
        ({"FIXME": "what is this?"}, True),
        ({"name": "Wald", "name:de": "Wald", "note": "x"}, True),
        ({"boundary": "administrative", "name": "Wald"}, False),
        ({"building:part": "yes"}, False),
    ],
)
def test_relations_that_do_not_say_what_they_are_are_named(tmp_path, tags, old):
    city = Map()
    city.way(1, ring(8.0, 50.0, 0.01), {"landuse": "forest"})
    city.way(2, ring(8.002, 50.002, 0.002), {})
    city.relation(7, [("w", 1, "outer"), ("w", 2, "inner")], {"type": "multipolygon"} | tags)
    _, found, _ = extract(tmp_path, city)
    assert found["relations_without_tags"] == ([7] if old else [])


def test_coastline_is_counted_measured_and_no_land(tmp_path):
    city = Map()
    city.way(1, [(8.0, 50.0), (8.02, 50.0)], {"natural": "coastline"})
    city.way(2, [(8.02, 50.0), (8.02, 50.5)], {"natural": "coastline", "name": "Strand"})
    city.way(3, ring(9.0, 50.0, 0.01), {"natural": "coastline", "place": "island"})
    frames, found, lines = extract(tmp_path, city, (7.99, 49.99, 8.1, 50.1))
    assert all(frame.empty for frame in frames.values())
    geod, margin_deg = Geod(ellps="WGS84"), 250 / 110_500
    metres = geod.inv(8.0, 50.0, 8.02, 50.0)[2] + geod.inv(8.02, 50.0, 8.02, 50.1 + margin_deg)[2]
    assert found["coastline"]["ids"] == [1, 2] and found["coastline"]["ways"] == 2
    assert found["coastline"]["km"] == pytest.approx(metres / 1000, abs=2e-3)
    warning = [line for line in lines if "sea is no polygon in OSM" in line]
    assert len(warning) == 1 and warning[0].startswith("warning: 12.8 km of coastline (2 ways)")
    _, _, lines = extract(tmp_path, city, (10.0, 49.99, 10.1, 50.1))
    assert not any("coastline" in line for line in lines)
