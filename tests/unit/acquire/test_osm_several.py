"""Several extracts as one map, order and repeatability, both sides of 180 degrees, and every character in a tag."""

from __future__ import annotations

import itertools
import json

import pytest
import shapely

from pipeline.acquire import osm_layers, osm_read
from pipeline.acquire.osm import extract_osm, grid_box
from pipeline.acquire.osm_box import cutting_boxes
from pipeline.errors import DataError
from pipeline.grid import MERCATOR_HALF_M, Grid
from tests.support.osm_map import Map, extract, extract_files, ring


def lake(city: Map, number: int, way: int, west: float) -> None:
    """A lake of two ways."""
    shore = ring(west, 50.0, 0.01)
    city.way(way, shore[:3])
    city.way(way + 1, shore[2:])
    members = [("w", way, "outer"), ("w", way + 1, "outer")]
    city.relation(number, members, {"type": "multipolygon", "natural": "water"})


def neighbours(folder):
    """Two extracts of one map: each lacks something that the other has whole, and both lack something of relation 9."""
    city = Map()
    for number, west in ((5, 8.0), (6, 8.1), (9, 8.2)):
        lake(city, number, 10 * number, west)
    for number in (1, 2, 3):
        city.way(number, [(9.0 + step / 100, 50 + number / 100) for step in range(5)], {"highway": "track"})
    city.way(4, ring(9.2, 50.0, 0.01), {"building": "yes"})
    pieces = []
    for name, ways, points in (
        ("west", (1, 51, 90), [(9.02, 50.02), (9.2 + 0.01, 50.0)]),
        ("east", (3, 60, 91), [(9.01, 50.01), (9.01, 50.02), (9.03, 50.02)]),
    ):
        dropped, city.dropped = city.dropped, {city.refs[point] for point in points}
        pieces.append(city.write(folder / f"{name}.osm.pbf", leave_out=ways))
        city.dropped = dropped
    return pieces


@pytest.mark.parametrize("turned", [False, True])
def test_neighbours_are_one_map(tmp_path, turned):
    pieces = neighbours(tmp_path)[:: -1 if turned else 1]
    frames, found, lines = extract_files(tmp_path, pieces)
    assert frames["water"].osm_id.tolist() == [5, 6]
    assert found["relations_missing_members"] == [9] and found["relations_not_assembled"] == []
    assert frames["buildings"].osm_id.tolist() == [4] and found["areas_not_assembled"] == []
    # Of way 1 three nodes are left in the one extract that has it; of way 2 four here, and no two in a row there.
    assert frames["roads"].osm_id.tolist() == [1, 2, 2, 3]
    assert [len(shape.coords) for shape in frames["roads"].geometry] == [3, 2, 2, 5]
    assert found["ways_missing_nodes"] == [1, 2]
    assert found["sources"] == [path.name for path in pieces]
    assert any("members missing" in line and line.endswith(": 9") for line in lines)


def test_a_line_that_one_extract_has_whole_is_not_missing_nodes(tmp_path):
    city = Map()
    city.way(1, [(8.0 + step / 100, 50.0) for step in range(5)], {"highway": "track"})
    whole = city.write(tmp_path / "whole.osm.pbf")
    city.dropped = {3}
    cut = city.write(tmp_path / "cut.osm.pbf")
    box = (8.03, 49.9, 8.1, 50.1)
    for pieces in ([whole, cut], [cut, whole], [cut, whole, cut]):
        for bbox in (None, box, (20.0, 10.0, 21.0, 11.0)):
            frames, found, _ = extract_files(tmp_path, pieces, bbox)
            assert [len(shape.coords) for shape in frames["roads"].geometry] == ([5] if bbox in (None, box) else [])
            assert found["ways_missing_nodes"] == []


def test_the_longer_piece_of_a_coast_is_measured(tmp_path):
    city = Map()
    city.way(1, [(8.0 + step / 100, 50.0) for step in range(5)], {"natural": "coastline"})
    whole = city.write(tmp_path / "whole.osm.pbf")
    city.dropped = {3}
    cut = city.write(tmp_path / "cut.osm.pbf")
    _, alone, _ = extract_files(tmp_path, whole)
    for pieces in ([whole, cut], [cut, whole]):
        assert extract_files(tmp_path, pieces)[1]["coastline"] == alone["coastline"]


def test_the_same_extract_twice_is_once(tmp_path):
    pieces = neighbours(tmp_path)
    extract_files(tmp_path, pieces[0])
    once = (tmp_path / "layers.gpkg").read_bytes()
    extract_files(tmp_path, [pieces[0], str(pieces[0])])
    assert (tmp_path / "layers.gpkg").read_bytes() == once


def test_a_broken_one_among_several_is_named(tmp_path):
    pieces = neighbours(tmp_path)
    pieces[1].write_bytes(pieces[1].read_bytes()[:-20])
    with pytest.raises(DataError, match=r"east\.osm\.pbf: is damaged"):
        extract_osm(pieces, None, tmp_path / "out" / "l.gpkg", tmp_path / "out" / "s.json", log=print)
    assert list((tmp_path / "out").iterdir()) == []


def crowd() -> Map:
    """Fifty roads and fifty buildings, and a lake."""
    city = Map()
    lake(city, 5, 1000, 8.0)
    for number in range(1, 51):
        city.way(
            number, [(8 + number / 100, 50.0), (8 + number / 100, 50.01)], {"highway": "track", "ref": f"{number}"}
        )
        city.way(100 + number, ring(8 + number / 100, 51.0, 0.001), {"building": "yes"})
    return city


@pytest.mark.parametrize("batch", [1, 7, 50])
def test_rows_do_not_depend_on_batches_or_on_the_order_of_extracts(tmp_path, monkeypatch, batch):
    city = crowd()
    before, found, _ = extract(tmp_path, city)
    monkeypatch.setattr(osm_read, "BATCH", batch)
    monkeypatch.setattr(osm_layers, "BATCH", batch)
    whole, half = tmp_path / "map.osm.pbf", city.write(tmp_path / "half.osm.pbf", leave_out=range(20, 120))
    for pbfs in (whole, [whole, half], [half, whole]):
        after, again, _ = extract_files(tmp_path, pbfs)
        assert again["features"] == found["features"]
        for layer, frame in before.items():
            assert after[layer].drop(columns="geometry").equals(frame.drop(columns="geometry"))
            assert all(one.equals(other) for one, other in zip(after[layer].geometry, frame.geometry, strict=True))


def test_an_unsorted_extract_is_refused_with_the_way_out(tmp_path):
    city = crowd()
    with pytest.raises(DataError, match=r"turned\.osm\.pbf: is not sorted .*osmium sort"):
        extract_files(tmp_path, city.write(tmp_path / "turned.osm.pbf", backwards=True))


def test_tags_come_back_as_they_were(tmp_path):
    strange = "a b,c=d%e@f\t\n\u2028\u00a0é😀\"'\\ %20% 中"
    city = Map()
    city.way(1, [(8.0, 50.0), (8.1, 50.0)], {"highway": "path", "name": strange, strange: strange, "empty": ""})
    city.way(-7, ring(9.0, 50.0, 0.01), {"building": strange, "note": "x=1,y=2"})
    city.relation(-3, [("w", -7, strange)], {"type": "multipolygon", "landuse": strange})
    frames, _, _ = extract(tmp_path, city)
    road, house, land = (frames[layer].iloc[0] for layer in ("roads", "buildings", "landuse"))
    assert json.loads(road.tags) == {"highway": "path", "name": strange, strange: strange, "empty": ""}
    assert road["name"] == strange
    assert (house.osm_id, house.building, json.loads(house.tags)["note"]) == (-7, strange, "x=1,y=2")
    assert (land.osm_id, land.landuse) == (-3, strange)


def test_both_sides_of_180_degrees(tmp_path):
    """A grid of EPSG:3857 pixels from 179.9 to 180.1 degrees; longitudes in the layers stay as OSM has them."""
    res = 10.0
    left = MERCATOR_HALF_M * 179.9 / 180
    grid = Grid("EPSG:3857", left, -1_900_000.0, res, res, round(0.2 / 180 * MERCATOR_HALF_M / res), 2000, 9, 9, 512)
    west, south, east, north = box = grid_box(grid)
    assert (west, east) == (pytest.approx(179.9, abs=1e-4), pytest.approx(180.1, abs=1e-4))
    lat = round((south + north) / 2, 6)
    city = Map()
    for number, lon in enumerate((179.95, -179.95, 179.8, -179.8, 0.0, -180.0), start=1):
        city.way(number, [(lon, lat), (lon + 0.01, lat)], {"highway": "track"})
    city.way(7, ring(-179.99, lat, 0.01), {"natural": "water"})
    frames, found, _ = extract(tmp_path, city, box)
    assert frames["roads"].osm_id.tolist() == [1, 2, 6]
    assert frames["roads"].geometry.iloc[1].equals(shapely.LineString([(-179.95, lat), (-179.94, lat)]))
    assert frames["water"].osm_id.tolist() == [7] and found["bbox"] == list(box)


@pytest.mark.parametrize(
    ("bbox", "parts"),
    [
        ((8.0, 50.0, 9.0, 51.0), [(8.0, 9.0)]),
        ((179.0, -1.0, 181.0, 1.0), [(179.0, 180.0), (-180.0, -179.0)]),
        ((-180.1, -1.0, -179.0, 1.0), [(179.9, 180.0), (-180.0, -179.0)]),
        ((-180.0, -1.0, 180.0, 1.0), [(-180.0, 180.0)]),
        ((-200.0, -1.0, 200.0, 1.0), [(-180.0, 180.0)]),
        ((179.0, -1.0, 180.0, 1.0), [(179.0, 180.0)]),
        ((359.0, -1.0, 361.0, 1.0), [(-1.0, 1.0)]),
    ],
)
def test_boxes_lie_between_the_ends_of_the_world(bbox, parts):
    found = [(box.bounds[0], box.bounds[2]) for box in cutting_boxes(bbox)]
    assert list(itertools.chain(*found)) == pytest.approx(list(itertools.chain(*parts)))


def test_a_relation_whose_ring_is_broken_in_one_extract_misses_no_member_of_another(tmp_path):
    city = Map()
    lake(city, 5, 10, 8.0)
    city.dropped = {city.refs[8.01, 50.0]}
    whole, part = (city.write(tmp_path / f"{way}.osm.pbf", leave_out=(way,)) for way in (0, 11))
    for pieces in ([whole, part], [part, whole]):
        _, found, _ = extract_files(tmp_path, pieces)
        assert (found["relations_not_assembled"], found["relations_missing_members"]) == ([5], [])


WEST, EAST = (8.0, 50.0, 9.0, 51.0), (9.0, 50.0, 10.0, 51.0)


@pytest.mark.parametrize(
    ("boxes", "bbox", "outside"),
    [
        ([WEST], (8.2, 50.2, 8.4, 50.4), None),
        ([WEST, EAST], (8.9, 50.2, 9.1, 50.4), None),
        ([WEST], (8.9, 50.2, 9.1, 50.4), "50.0%"),
        ([WEST, EAST], (8.9, 50.9, 9.1, 51.3), "75.0%"),
        ([WEST, None], (8.9, 50.2, 9.1, 50.4), None),  # of one nobody knows
        ([EAST], (8.2, 50.2, 8.4, 50.4), "100.0%"),  # a header that is wrong
        ([EAST], (8.6, 50.2, 8.8, 50.4), "all"),
        ([WEST, EAST], (8.2, 10.0, 8.4, 10.4), "all"),
        ([EAST, None], (8.2, 50.2, 8.4, 50.4), None),
        ([(-180.0, -20.0, 180.0, -10.0)], (179.0, -18.0, 181.0, -16.0), None),
        ([(176.0, -20.0, 180.0, -10.0)], (179.0, -18.0, 181.0, -16.0), "50.0%"),
        ([(-180.0, -20.0, -178.0, -10.0)], (177.0, -18.0, 179.0, -16.0), "all"),
    ],
)
def test_extracts_of_other_regions_are_refused_and_of_a_part_are_said(tmp_path, boxes, bbox, outside):
    city = Map()
    city.way(1, [(8.3, 50.3), (8.31, 50.3)], {"highway": "track"})
    paths = [city.write(tmp_path / f"{number}.osm.pbf", box=box) for number, box in enumerate(boxes)]
    lines = []
    out, summary = tmp_path / "out" / "layers.gpkg", tmp_path / "out" / "osm.json"
    if outside == "all":
        with pytest.raises(DataError, match=r"0\.osm\.pbf.*: covers \[.*\], the region is \[.*it lies outside; take"):
            extract_osm(paths, bbox, out, summary, log=lines.append)
        assert list(out.parent.iterdir()) == []
        return
    extract_osm(paths, bbox, out, summary, log=lines.append)
    said = [line for line in lines if "gets nothing" in line]
    assert len(said) == (outside is not None) and (outside is None or f": {outside} of it lies outside" in said[0])
