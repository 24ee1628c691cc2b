"""Real extracts against a second, naive reading: every object one by one in Python, its geometry by shapely."""

from __future__ import annotations

import os
from pathlib import Path

import osmium
import pyogrio
import pytest
import shapely
from pyproj import Geod

from pipeline.acquire.osm import extract_osm
from tests.support.osm_map import LAYERS

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif("REAL_DATA_DIR" not in os.environ, reason="REAL_DATA_DIR is not set: no real data to read"),
]
GEOD = Geod(ellps="WGS84")
LINES = {"roads": "highway", "waterways": "waterway", "railways": "railway"}
PLACES = {"station", "halt", "platform", "roundhouse", "turntable", "traverser", "signal_box", "wash", "yard"}
EXTRACTS = ["liechtenstein-2013", "helsinki", "finland-town"]


class Naive(osmium.SimpleHandler):
    """All nodes, ways and multipolygon relations of a file in dictionaries."""

    def __init__(self, path):
        super().__init__()
        self.places, self.ways, self.relations = {}, {}, {}
        self.apply_file(str(path))

    def node(self, node):
        self.places[node.id] = (node.location.lon, node.location.lat)

    def way(self, way):
        self.ways[way.id] = ({tag.k: tag.v for tag in way.tags}, [node.ref for node in way.nodes])

    def relation(self, relation):
        tags = {tag.k: tag.v for tag in relation.tags}
        if tags.get("type") in ("multipolygon", "boundary"):
            members = [(member.ref, member.role) for member in relation.members if member.type == "w"]
            self.relations[relation.id] = (tags, members)

    def points(self, way):
        return [self.places[ref] for ref in self.ways[way][1] if ref in self.places]

    def whole(self, way):
        return all(ref in self.places for ref in self.ways[way][1])

    def closed(self, way):
        refs = self.ways[way][1]
        return len(refs) > 3 and refs[0] == refs[-1]


def naive_layers(tags, relation):
    """Area layers by tags, told in another way than the pipeline does."""
    yes = relation or tags.get("area") == "yes"
    layers = set()
    if tags.get("building") not in (None, "no"):
        layers.add("buildings")
    wet = tags.get("natural") == "water" or "water" in tags or tags.get("landuse") in ("reservoir", "basin")
    wet |= tags.get("waterway") in ("riverbank", "dock") or (
        yes and tags.get("waterway") in ("river", "stream", "canal")
    )
    dry = "landuse" in tags or "leisure" in tags
    dry |= tags.get("natural", "cliff") not in ("coastline", "cliff", "ridge", "arete", "valley", "tree_row", "gully")
    layers |= {"water"} if wet else {"landuse"} if dry else set()
    layers |= {"road_areas"} if ("highway" in tags and yes) or "area:highway" in tags else set()
    return layers


@pytest.fixture(scope="module", params=EXTRACTS)
def pair(request, tmp_path_factory):
    """(name, naive reading, summary, frames) of an extract."""
    path = Path(os.environ["REAL_DATA_DIR"]) / "osm" / f"{request.param}.osm.pbf"
    if not path.exists():
        pytest.skip(f"{path} does not exist")
    folder = tmp_path_factory.mktemp("osm")
    found = extract_osm(path, None, folder / "layers.gpkg", folder / "osm.json", log=print)
    frames = {layer: pyogrio.read_dataframe(folder / "layers.gpkg", layer=layer) for layer in LAYERS}
    return request.param, Naive(path), found, frames


def test_lines_are_all_there(pair):
    _, naive, found, frames = pair
    cut = set()
    for layer, key in LINES.items():
        expected = set()
        for way, (tags, _) in naive.ways.items():
            house = tags.get("building", "no") != "no"
            no_line = tags.get("area") == "yes" or (layer == "waterways" and tags.get(key) == "riverbank")
            no_line |= naive.closed(way) and (
                (layer == "railways" and (house or tags.get(key) in PLACES))
                or (layer == "waterways" and tags.get(key) == "dock")
            )
            if key not in tags or no_line:
                continue
            if not naive.whole(way):
                cut.add(way)
            elif len(set(naive.points(way))) > 1:
                expected.add(way)
        rows = frames[layer][~frames[layer].osm_id.isin(cut)]
        assert rows.osm_id.tolist() == sorted(expected)
        for number, shape in zip(rows.osm_id, rows.geometry, strict=True):
            straight = shapely.LineString(naive.points(number))
            assert shape.length == pytest.approx(straight.length, rel=1e-9)
    assert cut <= set(found["ways_missing_nodes"])


def test_areas_of_ways_are_all_there_or_named(pair):
    _, naive, found, frames = pair
    named = set(found["areas_not_assembled"])
    for layer in ("water", "buildings", "landuse", "road_areas"):
        rows = frames[layer][frames[layer].osm_type == "way"]
        wanted = {
            way
            for way, (tags, _) in naive.ways.items()
            if layer in naive_layers(tags, relation=False) and naive.closed(way) and tags.get("area") != "no"
        }
        assert set(rows.osm_id) == wanted - named
        assert not rows.osm_id.duplicated().any()
        for number, shape in zip(rows.osm_id, rows.geometry, strict=True):
            assert shape.area == pytest.approx(shapely.Polygon(naive.points(number)).area, rel=1e-6, abs=1e-13)
    broken = [way for way in named if naive.whole(way) and naive.closed(way)]
    assert not any(shapely.Polygon(naive.points(way)).is_valid for way in broken)


def test_relations_are_all_there_or_named(pair):
    _, naive, found, frames = pair
    missing, broken = set(found["relations_missing_members"]), set(found["relations_not_assembled"])
    wanted = {number for number, (tags, _) in naive.relations.items() if naive_layers(tags, relation=True)}
    incomplete = {number for number in wanted if any(way not in naive.ways for way, _ in naive.relations[number][1])}
    assert missing == incomplete and broken <= wanted - incomplete
    made = {
        number
        for layer in ("water", "buildings", "landuse", "road_areas")
        for number in frames[layer][frames[layer].osm_type == "relation"].osm_id
    }
    assert made == wanted - missing - broken
    for layer in ("water", "buildings", "landuse"):
        rows = frames[layer][frames[layer].osm_type == "relation"]
        for number, shape in zip(rows.osm_id, rows.geometry, strict=True):
            area = {"outer": 0.0, "inner": 0.0}
            for role in area:
                ways = [way for way, said in naive.relations[number][1] if (said == "inner") == (role == "inner")]
                lines = shapely.MultiLineString([naive.points(way) for way in ways])
                rings = (part.exterior for part in shapely.polygonize([lines]).geoms)  # an outer one may lie in a hole
                area[role] = sum(shapely.Polygon(ring).area for ring in rings)
            assert shape.area == pytest.approx(area["outer"] - area["inner"], rel=1e-6)


@pytest.mark.parametrize("pair", EXTRACTS[:1], indirect=True)
def test_liechtenstein_is_as_its_readme_says(pair):
    """3,723 buildings, 2,753 highways, 54 forests, 20 waters, 113 relations; the Rhine and the Gampriner Seele."""
    _, _, found, frames = pair
    assert found["features"]["buildings"] == 3723
    assert found["features"]["roads"] + found["features"]["road_areas"] == 2753
    assert frames["landuse"].landuse.eq("forest").sum() == 54
    water = frames["water"].set_index("name")
    assert water.natural.eq("water").sum() == 20
    assert found["relations_missing_members"] == [77] and len(found["relations_without_tags"]) == 6
    lake = water.loc["Gampriner Seele"].geometry
    assert abs(GEOD.geometry_area_perimeter(lake)[0]) == pytest.approx(11_000, rel=0.01)
    assert lake.centroid.distance(shapely.Point(9.506, 47.215)) < 0.02  # beside the village of Gamprin
    banks = water.loc["Rhein"]
    assert set(banks.waterway) == {"riverbank"}
    assert sum(abs(GEOD.geometry_area_perimeter(shape)[0]) for shape in banks.geometry) > 5e6


def test_a_box_takes_what_touches_it(pair, tmp_path):
    """Half of the extract's box; beside shapely, feature by feature of the whole."""
    name, _, _, frames = pair
    west, south, east, north = shapely.total_bounds(frames["roads"].geometry.to_numpy())
    box = (west, south, (west + east) / 2, (south + north) / 2)
    path = Path(os.environ["REAL_DATA_DIR"]) / "osm" / f"{name}.osm.pbf"
    extract_osm(path, box, tmp_path / "layers.gpkg", tmp_path / "osm.json", log=print)
    near, far = shapely.box(*box), shapely.box(*box).buffer(0.02, join_style="mitre")
    for layer, frame in frames.items():
        part = pyogrio.read_dataframe(tmp_path / "layers.gpkg", layer=layer)
        kept = set(zip(part.osm_type, part.osm_id, strict=True))
        inside, around = (
            {(row.osm_type, row.osm_id) for row in frame[frame.intersects(shape)].itertuples()} for shape in (near, far)
        )
        assert inside <= kept <= around
        assert layer != "roads" or len(kept) < len(frame)
