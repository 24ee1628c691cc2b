"""OSM extracts, written node by node with osmium.SimpleWriter and read back from the GeoPackage."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys

import numpy as np
import pyogrio
import pytest
import shapely
from osmium.osm import mutable
from pyproj import Geod, Transformer

from pipeline.acquire import osm, osm_layers
from pipeline.acquire.osm import extract_osm, grid_box
from pipeline.errors import DataError
from pipeline.grid import Grid, web_mercator_grid
from tests.support.osm_map import LAYERS, Map, extract, ring


def lake_with_island(city):
    """A lake 0.01 degrees wide, its outer ring split into two ways, an island of 0.002 degrees in it."""
    outer = ring(8.0, 50.0, 0.01)
    city.way(10, outer[:3])
    city.way(11, outer[2:])
    city.way(12, ring(8.004, 50.004, 0.002))
    members = [("w", 10, "outer"), ("w", 11, "outer"), ("w", 12, "inner")]
    city.relation(7, members, {"type": "multipolygon", "natural": "water", "name": "Lake"})


def test_split_outer_ring_and_island(tmp_path):
    city = Map()
    lake_with_island(city)
    frames, found, _ = extract(tmp_path, city)
    lake = frames["water"].iloc[0]
    expected = shapely.box(8, 50, 8.01, 50.01) - shapely.box(8.004, 50.004, 8.006, 50.006)
    assert lake.geometry.symmetric_difference(expected).area < 1e-12
    assert (lake.osm_id, lake.osm_type, lake.natural, lake["name"]) == (7, "relation", "water", "Lake")
    assert found["relations_missing_members"] == []
    assert found["relations_not_assembled"] == []


def test_missing_member_is_counted_and_named(tmp_path):
    city = Map()
    lake_with_island(city)
    members = [("w", 10, "outer"), ("w", 999, "outer")]
    city.relation(8, members, {"type": "multipolygon", "landuse": "reservoir"})
    city.relation(9, [("w", 10, "outer")], {"type": "multipolygon", "natural": "water"})
    city.relation(20, [("w", 10, "outer")], {"type": "multipolygon"})
    frames, found, lines = extract(tmp_path, city)
    assert found["relations_missing_members"] == [8]
    assert found["relations_not_assembled"] == [9]
    assert found["relations_without_tags"] == [20]
    assert frames["water"].osm_id.tolist() == [7]
    assert any("members missing" in line and line.endswith(": 8") for line in lines)


def test_layers_and_columns(tmp_path):
    city = Map()
    city.way(1, [(8.0, 50.0), (8.001, 50.0)], {"highway": "primary", "width": "7,5 m", "lanes": "2", "surface": "x"})
    city.way(2, [(8.0, 50.1), (8.001, 50.1)], {"highway": "track", "tunnel": "yes", "bridge": "no", "layer": "-1"})
    city.way(3, ring(8.1, 50.1, 0.001), {"highway": "pedestrian", "area": "yes"})
    city.way(4, [(8.0, 50.2), (8.001, 50.2)], {"waterway": "river"})
    city.way(5, ring(8.2, 50.1, 0.001), {"waterway": "riverbank"})
    city.way(6, ring(8.3, 50.1, 0.001), {"landuse": "basin"})
    city.way(7, ring(8.4, 50.1, 0.001), {"landuse": "forest"})
    city.way(8, ring(8.5, 50.1, 0.001), {"building": "no", "leisure": "park"})
    city.way(9, ring(8.6, 50.1, 0.001), {"building": "house"})
    city.way(10, ring(8.7, 50.1, 0.001), {"natural": "coastline"})
    city.way(11, ring(8.8, 50.1, 0.001), {"highway": "residential"})
    city.way(12, ring(8.9, 50.1, 0.001), {"natural": "wood", "area": "no"})
    frames, found, _ = extract(tmp_path, city)
    ids = {name: frame.osm_id.tolist() for name, frame in frames.items()}
    assert ids == {
        "roads": [1, 2, 11],
        "waterways": [4],
        "railways": [],
        "water": [5, 6],
        "buildings": [9],
        "landuse": [7, 8],
        "road_areas": [3],
    }
    assert (found["coastline"]["ways"], found["coastline"]["ids"]) == (1, [10])
    assert found["areas_not_assembled"] == []
    road = frames["roads"].iloc[0]
    assert (road.highway, road.width, road.lanes, road.osm_type) == ("primary", "7,5 m", "2", "way")
    assert json.loads(road.tags) == {"highway": "primary", "width": "7,5 m", "lanes": "2", "surface": "x"}
    second = frames["roads"].iloc[1]
    assert (second.tunnel, second.bridge, second.layer) == ("yes", "no", "-1")
    assert all(name in frames["roads"] for name in ("tracktype", "area", "name"))


def test_all_layers_exist_when_empty(tmp_path):
    city = Map()
    city.way(1, [(8.0, 50.0), (8.001, 50.0)], {"power": "line"})
    frames, _, lines = extract(tmp_path, city, (7.0, 49.0, 9.0, 51.0))
    listed = pyogrio.list_layers(tmp_path / "layers.gpkg")
    assert dict(listed.tolist()) == LAYERS
    assert all(frame.empty and frame.crs == "EPSG:4326" for frame in frames.values())
    assert any(line.startswith("warning") and "no feature" in line for line in lines)


def test_clip_keeps_whole_features_near_the_box(tmp_path):
    city = Map()
    box = (8.0, 50.0, 8.01, 50.01)
    metre = 1 / 111_240  # degrees of latitude
    crossing = [(7.5, 50.005), (9.0, 50.005)]
    city.way(1, crossing, {"highway": "primary"})
    city.way(2, [(8.0, 50.01 + 190 * metre), (8.01, 50.01 + 190 * metre)], {"highway": "primary"})
    city.way(3, [(8.0, 50.01 + 400 * metre), (8.01, 50.01 + 400 * metre)], {"highway": "primary"})
    city.way(4, [(7.0, 49.99), (8.0, 51.0)], {"highway": "primary"})  # its bounds overlap the box, it does not
    frames, _, _ = extract(tmp_path, city, box)
    assert frames["roads"].osm_id.tolist() == [1, 2]
    assert frames["roads"].geometry.iloc[0].equals(shapely.LineString(crossing))


def test_missing_nodes_are_counted_and_the_rest_of_the_line_kept(tmp_path):
    city = Map()
    points = [(8.0 + step / 1000, 50.0) for step in range(6)]
    city.way(1, points, {"highway": "primary"}, drop=(2,))
    frames, found, lines = extract(tmp_path, city)
    assert found["ways_missing_nodes"] == [1]
    parts = [shapely.get_coordinates(shape).tolist() for shape in frames["roads"].geometry]
    assert [len(part) for part in parts] == [2, 3]
    assert parts[0][0] == list(points[0])
    assert any("nodes missing" in line for line in lines)
    edges = Map()
    edges.way(1, points, {"highway": "primary"}, drop=(0, 1))  # libosmium itself leaves these out without a word
    north = [(lon, 50.1) for lon, _ in points]
    edges.way(2, north, {"highway": "primary"}, drop=(4, 5))
    frames, found, _ = extract(tmp_path, edges)
    assert found["ways_missing_nodes"] == [1, 2]
    kept = [shapely.get_coordinates(shape).tolist() for shape in frames["roads"].geometry]
    assert kept == [[list(point) for point in points[2:]], [list(point) for point in north[:4]]]
    ground = Map()
    ground.way(3, ring(8.0, 50.0, 0.01), {"landuse": "forest"}, drop=(1,))
    ground.way(4, ring(9.0, 50.0, 0.01), {"landuse": "forest"})
    frames, found, _ = extract(tmp_path, ground)
    assert (found["areas_not_assembled"], frames["landuse"].osm_id.tolist()) == ([3], [4])


def test_rows_are_sorted_and_equal_input_gives_equal_bytes(tmp_path):
    city = Map()
    lake_with_island(city)
    for number in (42, 31, 35):
        city.way(number, ring(8 + number / 100, 50.2, 0.001), {"natural": "water"})
    city.relation(70, [("w", 42, "outer")], {"type": "multipolygon", "natural": "water"})
    frames, _, _ = extract(tmp_path, city)
    assert list(zip(frames["water"].osm_type, frames["water"].osm_id, strict=True)) == [
        ("relation", 7),
        ("relation", 70),
        ("way", 31),
        ("way", 35),
        ("way", 42),
    ]
    first = (tmp_path / "layers.gpkg").read_bytes()
    extract(tmp_path, city)
    assert (tmp_path / "layers.gpkg").read_bytes() == first


def test_nothing_but_the_layers_is_left(tmp_path):
    """What a killed run left is removed too."""
    city = Map()
    lake_with_island(city)
    left = tmp_path / ".layers.scratch.part"
    left.mkdir()
    (left / "locations").write_bytes(b"old")
    extract(tmp_path, city)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layers.gpkg", "map.osm.pbf", "osm.json"]


@pytest.mark.parametrize("damage", ["cut", "zeros", "text", "empty", "absent", "xml"])
def test_broken_file_is_one_error_and_leaves_nothing(tmp_path, damage):
    city = Map()
    lake_with_island(city)
    for number in range(100, 200):
        city.way(number, ring(8 + number / 100, 50.2, 0.001), {"building": f"kind{number}"})
    whole = city.write(tmp_path / "map.osm.pbf").read_bytes()
    zeroed = bytearray(whole)
    zeroed[len(whole) // 2 : len(whole) // 2 + 50] = bytes(50)
    xml = b'<?xml version="1.0"?><osm version="0.6"></osm>'
    content = {"cut": whole[:-100], "zeros": bytes(zeroed), "text": b"no map at all", "empty": b"", "xml": xml}
    place = tmp_path / "in" / "broken.osm.pbf"
    place.parent.mkdir()
    if damage != "absent":
        place.write_bytes(content[damage])
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"broken\.osm\.pbf") as caught:
        extract_osm(place, None, out / "layers.gpkg", out / "osm.json", log=print)
    assert "\n" not in str(caught.value)
    assert not out.exists() or not any(out.iterdir())


@pytest.mark.parametrize(("name", "damaged"), [("districts.geojson", False), ("area.osm.pbf", True), ("a.PBF", True)])
def test_a_file_of_another_format_is_not_called_damaged(tmp_path, name, damaged):
    place = tmp_path / name
    place.write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(DataError, match=re.escape(name)) as caught:
        extract_osm(place, None, tmp_path / "layers.gpkg", tmp_path / "osm.json", log=print)
    assert ("is damaged or no .osm.pbf" in str(caught.value)) == damaged
    assert ("polygons of another kind go under `landcover`, kind: vector" in str(caught.value)) != damaged


def test_a_whole_extract_may_have_any_name(tmp_path):
    city = Map()
    lake_with_island(city)
    place = city.write(tmp_path / "map.osm.pbf").rename(tmp_path / "extract")
    found = extract_osm(place, None, tmp_path / "layers.gpkg", tmp_path / "osm.json", log=print)
    assert found["features"]["water"] == 1


def test_expand_bbox_reaches_the_margin_everywhere():
    geod = Geod(ellps="WGS84")
    for lat in (-60.0, 0.0, 50.0, 80.0):
        west, south, east, north = osm.expand_bbox((8.0, lat, 8.1, lat + 0.1), 250.0)
        assert 250 <= geod.inv(8.0, lat, 8.0, south)[2] < 255
        assert 250 <= geod.inv(8.0, lat + 0.1, 8.0, north)[2] < 255
        assert min(geod.inv(8.0, y, west, y)[2] for y in (lat, lat + 0.1)) >= 250
        assert max(geod.inv(8.1, y, east, y)[2] for y in (lat, lat + 0.1)) < 265


def test_paths_may_be_in_a_new_folder(tmp_path):
    city = Map()
    lake_with_island(city)
    pbf = city.write(tmp_path / "map.osm.pbf")
    out = tmp_path / "new" / "layers.gpkg"
    extract_osm(pbf, None, out, tmp_path / "other" / "osm.json", log=print)
    assert out.exists()


def metric_grid(crs, left, top, width_m, height_m):
    return Grid(crs, left, top, 10.0, 10.0, round(width_m / 10), round(height_m / 10), 10.0, 10.0, 8192)


GRIDS = {
    "UTM far off its meridian": metric_grid("EPSG:32632", 830_000.0, 6_700_000.0, 40_000, 40_000),
    "Lambert conic": metric_grid("EPSG:3034", 3_000_000.0, 3_500_000.0, 100_000, 30_000),
    "polar": metric_grid("EPSG:3995", 300_000.0, 900_000.0, 50_000, 50_000),
    "over the pole": metric_grid("EPSG:3995", -20_000.0, 20_000.0, 40_000, 40_000),
    "over the antimeridian": metric_grid("EPSG:32660", 700_000.0, 5_000_000.0, 90_000, 20_000),
    "x/y/z": web_mercator_grid((8.0, 50.0, 8.1, 50.1), 12, 256),
    "degrees": Grid("EPSG:4326", 8.0, 50.0, 0.01, 0.01, 30, 20, 700.0, 1100.0, 8192),
}


@pytest.mark.parametrize("name", GRIDS)
def test_the_box_of_a_grid_holds_all_of_its_edge(name):
    """Against pyproj, point by point; at most a thousandth of the edge of the box is spare."""
    grid = GRIDS[name]
    left, bottom, right, top = grid.bounds
    along = np.linspace(0, 1, 4001)
    x = np.concatenate([left + along * (right - left)] * 2 + [np.full(4001, left), np.full(4001, right)])
    y = np.concatenate([np.full(4001, top), np.full(4001, bottom)] + [bottom + along * (top - bottom)] * 2)
    lon, lat = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True).transform(x, y)
    west, south, east, north = osm.expand_bbox(grid_box(grid), osm.MARGIN_M)
    assert -180 <= grid_box(grid)[0] < min(180, grid_box(grid)[2])
    lon = np.where((lon < west) & name.startswith("over the anti"), lon + 360, lon)
    assert ((lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)).all()
    if name == "over the pole":
        assert (west, east, north) == (
            pytest.approx(-180, abs=0.3),
            pytest.approx(180, abs=0.3),
            pytest.approx(90, abs=0.01),
        )
    else:
        found, true = np.array(grid_box(grid)), np.array([lon.min(), lat.min(), lon.max(), lat.max()])
        assert np.abs(found - true).max() <= 1e-3 * max(true[2] - true[0], true[3] - true[1])


def test_nothing_in_the_corners_of_a_projected_grid_is_lost(tmp_path):
    """A road at every corner of a raster that the box in its config leaves out, and one that is far away."""
    grid = GRIDS["UTM far off its meridian"]
    to_degrees = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    left, bottom, right, top = grid.bounds
    city = Map()
    corners = [(left + 50, top - 50), (right - 50, top - 50), (left + 50, bottom + 50), (right - 50, bottom + 50)]
    for number, (x, y) in enumerate(corners, start=1):
        points = [to_degrees.transform(x + shift, y) for shift in (-20, 20)]
        city.way(number, [tuple(round(float(v), 7) for v in point) for point in points], {"highway": "track"})
    city.way(9, [(30.0, 10.0), (30.1, 10.0)], {"highway": "track"})
    frames, found, _ = extract(tmp_path, city, grid_box(grid))
    assert frames["roads"].osm_id.tolist() == [1, 2, 3, 4]
    assert found["bbox"] == list(grid_box(grid))


FULL_DISK = """
import resource, sys
from pathlib import Path
from pipeline.acquire import osm
from pipeline.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
out = Path(sys.argv[2])
try:
    osm.extract_osm(Path(sys.argv[1]), None, out / "layers.gpkg", out / "osm.json", log=print)
except DataError as error:
    print(error)
"""


@pytest.mark.parametrize("limit_bytes", [4 << 10, 1 << 20, 2 << 20, 17 << 20])
def test_a_disk_that_takes_no_more_is_no_fault_of_the_extract(tmp_path, limit_bytes):
    """Files that may not grow beyond a limit, by the operating system: text, locations, the GeoPackage."""
    city = Map()
    lake_with_island(city)
    if limit_bytes > 16 << 20:
        name = "x" * 250
        for number in range(100, 40_000):
            tags = {("highway", "waterway", "railway")[number % 3]: "path", "name": name}
            city.ways.append(mutable.Way(id=number, version=1, nodes=[1, 2], tags=tags))
    if limit_bytes == 2 << 20:  # text that a thread of libosmium writes: what is left of it must not end the process
        for number in range(100, 9000):
            city.relation(number, [("w", 10, "outer")], {"type": "multipolygon", "name": "x" * 250, "ref": f"{number}"})
    pbf, out = city.write(tmp_path / "map.osm.pbf"), tmp_path / "out"
    command = [sys.executable, "-c", FULL_DISK, str(pbf), str(out), str(limit_bytes)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert f"{out}: cannot be written to" in done.stdout, done
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "damaged" not in done.stdout and done.stdout.count("\n") == 1
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        "drop table rtree_roads_geom_rowid",
        "drop table railways",
        "delete from roads where fid = 2",
        "delete from rtree_roads_geom_rowid where rowid = 2",
        "update gpkg_ogr_contents set feature_count = 1 where table_name = 'roads'",
        "update gpkg_contents set min_x = null where table_name = 'roads'",
    ],
)
def test_what_gdal_could_not_write_while_closing_is_noticed(tmp_path, monkeypatch, damage):
    """On a full disk it loses the indices and the last layers, and says nothing."""
    city = Map()
    for number in (1, 2, 3):
        city.way(number, [(8.0, 50.0 + number), (8.1, 50.0)], {"highway": "track"})
    write = osm_layers.pyogrio.write_arrow

    def lose(stream, path, **options):
        write(stream, path, **options)
        if options["layer"] == "road_areas":  # the last one
            with sqlite3.connect(path) as base:
                for (name,) in base.execute("select name from sqlite_master where type = 'trigger'").fetchall():
                    base.execute(f'drop trigger "{name}"')
                base.execute(damage)

    monkeypatch.setattr(osm_layers.pyogrio, "write_arrow", lose)
    pbf, out = city.write(tmp_path / "map.osm.pbf"), tmp_path / "out"
    with pytest.raises(DataError, match=r"out: cannot be written to \(layer (roads|railways) was not written whole"):
        extract_osm(pbf, None, out / "layers.gpkg", out / "osm.json", log=print)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "write failed: No space left on device",
        "Disk quota exceeded",
        "Write error",
        "can't open file 'out/.l.scratch.part/0/locations'",
    ],
)
def test_errors_of_writing_name_the_folder(tmp_path, monkeypatch, text):
    city = Map()
    lake_with_island(city)

    def read(*_):
        raise RuntimeError(text)

    monkeypatch.setattr(osm, "read_extract", read)
    with pytest.raises(DataError, match=rf"out: cannot be written to \({text}\)") as caught:
        extract_osm(city.write(tmp_path / "map.osm.pbf"), None, tmp_path / "out" / "l", tmp_path / "s", log=print)
    assert "damaged" not in str(caught.value)
