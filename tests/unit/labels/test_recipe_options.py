"""What a recipe may ask for: priority, buffers of areas, filters, railways, road areas, coarse pixels."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import shapely

from pipeline.labels import rasters
from pipeline.labels.geometry import ground_buffers
from tests.unit.labels.test_rasterize import (
    FIELDS,
    FOREST,
    GRID,
    NONE,
    URBAN,
    WATER,
    WHOLE,
    at_pixels,
    busy_map,
    landcover_raster,
    pixel_centres_deg,
)

LAKE = {"kind": "areas", "layer": "water", "label": "water"}
ROADS = {"kind": "lines", "layer": "roads", "label": "urban", "widths_m": {"primary": 9}}


def square(col, row, edge):
    corners = np.array([(0, 0), (edge, 0), (edge, edge), (0, edge)]) + np.array([col, row])
    return shapely.Polygon(at_pixels(corners))


def line(*points):
    return shapely.LineString(at_pixels(points))


def recipe(**layers):
    return {"layers": layers}


def test_priority_orders_painting_and_values_stay_positions(write_layers, paint):
    road = line((0, 30), (80, 30))
    gpkg = write_layers({"water": [(square(10, 10, 40), {})], "roads": [(road, {"highway": "primary"})]})
    roads, lake = ROADS, LAKE
    plain, sources, _, tags = paint(recipe(roads=roads, lake=lake), GRID, WHOLE, gpkg)
    assert plain[30, 30] == WATER and sources[30, 30] == 2
    raised, sources, stats, tags = paint(recipe(roads={**roads, "priority": 1}, lake=lake), GRID, WHOLE, gpkg)
    assert raised[30, 30] == URBAN and sources[30, 30] == 1 and sources[12, 30] == 2
    assert json.loads(tags["layers"]) == ["none", "roads", "lake"]
    assert list(stats["sources"]) == ["none", "roads", "lake"]
    lowered, sources, _, _ = paint(recipe(lake=lake, roads={**roads, "priority": -1}), GRID, WHOLE, gpkg)
    assert lowered[30, 30] == WATER and sources[30, 30] == 1
    equal, _, _, _ = paint(recipe(roads={**roads, "priority": 5}, lake={**lake, "priority": 5}), GRID, WHOLE, gpkg)
    np.testing.assert_array_equal(equal, plain)


def test_land_cover_may_lie_between_and_above(tmp_path, write_layers, paint):
    old = landcover_raster(tmp_path / "old.tif")
    gpkg = write_layers({"water": [(square(10, 10, 40), {})], "buildings": [(square(30, 30, 40), {"building": "yes"})]})
    layers = recipe(
        water=LAKE,
        old={"kind": "landcover", "source": "old"},
        houses={"kind": "areas", "layer": "buildings", "label": "urban"},
        again={"kind": "landcover", "source": "old", "without": ["fields", "urban"], "priority": 9},
    )
    classes, sources, stats, _ = paint(layers, GRID, WHOLE, gpkg, {"old": tmp_path / "old.tif"})
    inside = {name: np.zeros(old.shape, dtype=bool) for name in ("lake", "house")}
    inside["lake"][10:50, 10:50] = inside["house"][30:70, 30:70] = True
    expected = [old == FOREST, inside["house"], old != NONE, inside["lake"]]
    np.testing.assert_array_equal(sources, np.select(expected, [4, 3, 2, 1], 0))
    np.testing.assert_array_equal(classes, np.select(expected, [FOREST, URBAN, old.astype(int), WATER], NONE))
    assert stats["sources"]["again"]["classes"] == {"forest": stats["sources"]["again"]["pixels"]}
    below = stats["sources"]["old"]["classes"]
    assert set(below) == {"fields", "urban"} and sum(below.values()) == (sources == 2).sum()
    totals = {name: entry["pixels"] for name, entry in stats["classes"].items() if entry["pixels"]}
    parts = [entry["classes"] for entry in stats["sources"].values()]
    assert {name: sum(part.get(name, 0) for part in parts) for name in totals} == totals


@pytest.mark.parametrize("buffer_m", [5.0, -2.5])
def test_areas_grow_and_shrink_by_metres(write_layers, paint, buffer_m):
    """Every pixel whose centre lies within the distance, by geodesics to the square's densified outline."""
    lake = square(60, 60, 40)
    gpkg = write_layers({"water": [(lake, {})]})
    classes, _, stats, _ = paint(recipe(lake={**LAKE, "buffer_m": buffer_m}), GRID, WHOLE, gpkg)
    lon, lat = (band[40:120, 40:120] for band in pixel_centres_deg())
    outline = shapely.get_coordinates(shapely.segmentize(lake.exterior, 2e-6))
    x = (outline[:, 0] - lon[0, 0]) * np.cos(np.radians(lat[0, 0]))
    near = np.full(lon.shape, np.inf)
    for px, py in zip(x, outline[:, 1], strict=True):
        near = np.minimum(near, np.hypot((lon - lon[0, 0]) * np.cos(np.radians(lat[0, 0])) - px, lat - py))
    metres = near * 111_230.0  # of a degree of latitude at 50 degrees
    inside = shapely.contains_xy(lake, lon, lat)
    signed = np.where(inside, -metres, metres)
    clear = np.abs(signed - buffer_m) > 0.06  # round corners are 32-gons, degrees are not quite alike
    assert clear.mean() > 0.9
    np.testing.assert_array_equal((classes[40:120, 40:120] == WATER)[clear], (signed < buffer_m)[clear])
    assert stats["features"]["lake"] == {"painted": 1, "left_out": {}, "absent": []}


def test_an_area_that_vanishes_is_counted(write_layers, paint):
    rows = [(square(20, 20, 30), {}), (square(80, 20, 4), {})]
    classes, _, stats, _ = paint(recipe(lake={**LAKE, "buffer_m": -3}), GRID, WHOLE, write_layers({"water": rows}))
    assert (classes[:, :60] == WATER).any() and not (classes[:, 60:] == WATER).any()
    assert stats["features"]["lake"] == {"painted": 1, "left_out": {"smaller than its buffer": 1}, "absent": []}


def test_a_buffer_reaches_in_from_outside(write_layers, paint):
    edge = 50 / GRID.gsd_x_m
    gpkg = write_layers({"water": [(square(-edge - 30, 50, 30), {})]})
    assert not (paint(recipe(lake=LAKE), GRID, WHOLE, gpkg)[0] == WATER).any()
    wide = paint(recipe(lake={**LAKE, "buffer_m": 60}), GRID, WHOLE, gpkg)[0]
    assert (wide == WATER).any(axis=0).sum() == pytest.approx(10 / GRID.gsd_x_m, abs=1)


@pytest.mark.parametrize("buffer_m", [0, 5, -5])
def test_shapes_of_a_single_point_are_left_out_and_counted(write_layers, paint, buffer_m):
    (corner,) = at_pixels([(30, 30)])
    point = [(line((60, 60), (60, 60)), {"highway": "primary"}), (line((10, 90), (90, 90)), {"highway": "primary"})]
    gpkg = write_layers({"roads": point, "water": [(shapely.Polygon([corner] * 4), {}), (square(100, 20, 40), {})]})
    layers = recipe(lake={**LAKE, "buffer_m": buffer_m}, roads=ROADS)
    classes, _, stats, _ = paint(layers, GRID, WHOLE, gpkg)
    assert (classes[:60, :80] == NONE).all() and (classes[90, 15:85] == URBAN).all() and (classes == WATER).any()
    expected = {"painted": 1, "left_out": {"without length or area": 1}, "absent": []}
    assert stats["features"] == {"lake": expected, "roads": expected}


def test_tags_choose_lines(write_layers, paint):
    rows = [
        (line((10, 20), (90, 20)), {"highway": "primary", "surface": "asphalt"}),
        (line((10, 60), (90, 60)), {"highway": "primary", "surface": "gravel"}),
        (line((10, 100), (90, 100)), {"highway": "primary"}),
    ]
    roads = {**ROADS, "tags": {"surface": ["asphalt", "concrete"]}}
    classes, _, stats, _ = paint(recipe(roads=roads), GRID, WHOLE, write_layers({"roads": rows}))
    assert (classes[20, 15:85] == URBAN).all() and (classes[50:] == NONE).all()
    assert stats["features"]["roads"] == {"painted": 1, "left_out": {"other tags": 2}, "absent": ["surface=concrete"]}


def test_railways_and_road_areas(write_layers, paint):
    tracks = [
        (line((10, 20), (90, 20)), {"railway": "rail"}),
        (line((10, 40), (90, 40)), {"railway": "rail", "tunnel": "yes"}),
        (line((10, 60), (90, 60)), {"railway": "rail", "bridge": "yes", "layer": "1"}),
        (line((10, 80), (90, 80)), {"railway": "rail", "layer": "-1"}),
        (line((10, 100), (90, 100)), {"railway": "abandoned"}),
    ]
    places = [
        (square(100, 100, 20), {"highway": "pedestrian", "area": "yes"}),
        (square(130, 100, 20), {"highway": "pedestrian", "area": "yes", "tunnel": "yes"}),
        (square(160, 100, 20), {"highway": "footway", "area": "yes", "tunnel": "no"}),
    ]
    layers = recipe(
        tracks={"kind": "lines", "layer": "railways", "label": "urban", "widths_m": {"rail": 5}},
        places={"kind": "areas", "layer": "road_areas", "label": "urban"},
    )
    gpkg = write_layers({"railways": tracks, "road_areas": places})
    classes, _, stats, _ = paint(layers, GRID, WHOLE, gpkg)
    shown = {row: (classes[row, 15:85] == URBAN).all() for row in (20, 40, 60, 80, 100)}
    assert shown == {20: True, 40: False, 60: True, 80: True, 100: False}, "bridges show, `layer` says nothing"
    assert (classes[100:120, 100:120] == URBAN).all() and (classes[100:120, 160:180] == URBAN).all()
    assert (classes[100:120, 130:150] == NONE).all()
    assert stats["features"] == {
        "tracks": {"painted": 3, "left_out": {"tunnel": 1, "value not in widths_m": 1}, "absent": []},
        "places": {"painted": 2, "left_out": {"tunnel": 1}, "absent": []},
    }


def test_covered_water_is_left_out(write_layers, paint):
    """The key `tunnel` tells; another key with that word as its value does not."""
    rows = [
        (square(20, 20, 20), {"natural": "water", "tunnel": "culvert"}),
        (square(60, 20, 20), {"natural": "water"}),
        (square(100, 20, 20), {"natural": "water", "was:man_made": "tunnel"}),
    ]
    classes, _, stats, _ = paint(recipe(lake=LAKE), GRID, WHOLE, write_layers({"water": rows}))
    assert (classes == WATER).sum() == 800 and (classes[20:40, 20:40] == NONE).all()
    assert stats["features"]["lake"] == {"painted": 2, "left_out": {"tunnel": 1}, "absent": []}


def test_areas_mapped_as_highways_are_no_lines(write_layers, paint):
    ring = line((20, 20), (60, 20), (60, 60), (20, 60), (20, 20))
    rows = [(ring, {"highway": "primary", "area": "yes"}), (ring, {"highway": "path"})]
    classes, _, stats, _ = paint(recipe(roads=ROADS), GRID, WHOLE, write_layers({"roads": rows}))
    assert (classes == NONE).all()
    assert stats["features"]["roads"]["left_out"] == {"area": 1, "value not in widths_m": 1}


def test_waterways_have_widths_too(write_layers, paint):
    widths = ["12", "3,5", "20'", None]
    rows = [
        (line((-50, 20 + 40 * i), (300, 20 + 40 * i)), {"waterway": "stream", "width": width})
        for i, width in enumerate(widths)
    ]
    streams = {"kind": "lines", "layer": "waterways", "label": "water", "widths_m": {"stream": 2}}
    classes, _, _, _ = paint(recipe(streams=streams), GRID, WHOLE, write_layers({"waterways": rows}))
    measured = [(classes[40 * i : 40 * i + 40, 50] == WATER).sum() * GRID.gsd_y_m for i in range(4)]
    assert measured == pytest.approx([12, 3.5, 6.096, 2], abs=GRID.gsd_y_m)


@pytest.mark.parametrize("pixel_m", [3.0, 10.0])
def test_lines_on_coarse_pixels_are_squares(write_layers, paint, pixel_m):
    """A pixel shows its coarse pixel's centre, which lies in the line or not; coarse pixels count from the corner."""
    shape = line((-20, 33), (150, 121), (90, 260))
    gpkg = write_layers({"roads": [(shape, {"highway": "primary"})]})
    classes, _, _, _ = paint(recipe(roads={**ROADS, "pixel_m": pixel_m}), GRID, WHOLE, gpkg)
    factor = round(pixel_m / GRID.gsd_m)
    assert factor > 1
    rows, cols = np.indices(classes.shape) // factor
    middles = at_pixels(np.column_stack([(cols.ravel() + 0.5) * factor, (rows.ravel() + 0.5) * factor]))
    (wide,) = ground_buffers(np.array([shape], dtype=object), np.array([4.5]))
    inside = shapely.contains_xy(wide, middles[:, 0], middles[:, 1]).reshape(classes.shape)
    assert inside.any() and not inside.all()
    np.testing.assert_array_equal(classes == URBAN, inside)


def test_a_coarse_pixel_shows_in_shards_that_lie_far_from_the_line(write_layers, paint):
    """250 m beside the line lies the middle of a pixel of 100 m, whose far part is 40 m further away."""
    factor = round(100 / GRID.gsd_m)
    x = factor / 2 - 248 / GRID.gsd_x_m
    gpkg = write_layers({"roads": [(line((x, -900), (x, 1200)), {"highway": "primary"})]})
    layers = recipe(roads={**ROADS, "widths_m": {"primary": 500}, "pixel_m": 100})
    grid = dataclasses.replace(GRID, shard_px=77)
    far = grid.shard("r00c03")
    part, *_ = paint(layers, grid, far, gpkg)
    assert (part[:, : factor - far.col_px] == URBAN).all() and (part[:, factor - far.col_px :] == NONE).all()


def everything():
    widths = {"widths_m": {"primary": 9, "path": 1.5}}
    return recipe(
        landcover={"kind": "landcover", "source": "old", "without": ["fields"]},
        woods={"kind": "areas", "layer": "landuse", "label": "forest", "tags": {"natural": ["wood"]}, "buffer_m": 7.5},
        houses={"kind": "areas", "layer": "buildings", "label": "urban", "buffer_m": -0.4, "all_touched": True},
        coarse={**ROADS, **widths, "pixel_m": 7, "tags": {"highway": ["primary"]}},
        lake={**LAKE, "priority": 3, "buffer_m": -1},
        streams={"kind": "lines", "layer": "waterways", "label": "water", "widths_m": {"stream": 2}, "pixel_m": 2},
        roads={**ROADS, **widths, "priority": -1},
    )


@pytest.mark.parametrize("edge", [128, 77, 301])
def test_shards_equal_one_big_run_whatever_the_recipe(tmp_path, write_layers, paint, edge):
    gpkg = write_layers(busy_map())
    landcover_raster(tmp_path / "old.tif")
    landcover = {"old": tmp_path / "old.tif"}
    classes, sources, _, _ = paint(everything(), GRID, WHOLE, gpkg, landcover)
    assert len(np.unique(sources)) == 8, "every layer shows somewhere"
    grid = dataclasses.replace(GRID, shard_px=edge)
    assert len(grid.shards()) > 1
    for shard in grid.shards():
        part, origin, _, _ = paint(everything(), grid, shard, gpkg, landcover)
        window = np.s_[shard.row_px : shard.row_px + shard.height, shard.col_px : shard.col_px + shard.width]
        np.testing.assert_array_equal(part, classes[window])
        np.testing.assert_array_equal(origin, sources[window])


def test_bands_equal_one_piece_and_count_features_once(tmp_path, write_layers, paint, monkeypatch):
    gpkg = write_layers(busy_map())
    landcover_raster(tmp_path / "old.tif")
    landcover = {"old": tmp_path / "old.tif"}
    assert len(rasters.bands_of(GRID, WHOLE)) == 1
    *_, whole, _ = paint(everything(), GRID, WHOLE, gpkg, landcover)
    for rows in (16, 64):
        monkeypatch.setattr(rasters, "BLOCK_PX", rows)
        monkeypatch.setattr(rasters, "BAND_PX", rows)
        assert len(rasters.bands_of(GRID, WHOLE)) > 4
        *_, banded, _ = paint(everything(), GRID, WHOLE, gpkg, landcover)
        assert banded == whole


def test_two_runs_and_any_threads_give_equal_pixels(tmp_path, write_layers, paint):
    gpkg = write_layers(busy_map())
    landcover_raster(tmp_path / "old.tif")
    found = [paint(everything(), GRID, WHOLE, gpkg, {"old": tmp_path / "old.tif"}, threads=n)[2] for n in (1, 1, 2)]
    assert found[0] == found[1] == found[2]
    classes, sources, stats, _ = paint(everything(), GRID, WHOLE, gpkg, {"old": tmp_path / "old.tif"})
    for band, name in ((classes, "classes"), (sources, "sources")):
        assert hashlib.sha256(band.tobytes()).hexdigest() == stats["sha256"][name]


def test_many_layers(write_layers, paint):
    """More than fit into one pass; the last square that covers a pixel wins."""
    squares = [square(3 * i % 200, 5 * i % 190, 30) for i in range(120)]
    rows = [(shape, {"natural": "water", "name": str(i)}) for i, shape in enumerate(squares)]
    layers = {f"l{i}": {**LAKE, "tags": {"name": [str(i)]}} for i in range(120)}
    _, sources, _, _ = paint({"layers": layers}, GRID, WHOLE, write_layers({"water": rows}))
    expected = np.zeros((GRID.height, GRID.width), dtype=np.uint8)
    for i in range(120):
        expected[5 * i % 190 :, 3 * i % 200 :][:30, :30] = i + 1
    np.testing.assert_array_equal(sources, expected)


def test_a_background_lies_below_everything(write_layers, paint):
    gpkg = write_layers({"water": [(square(10, 10, 20), {})]})
    classes, sources, stats, _ = paint({"background": "fields", **recipe(lake=LAKE)}, GRID, WHOLE, gpkg)
    assert (classes == FIELDS).sum() == GRID.width * GRID.height - 400 == (sources == 0).sum()
    assert stats["sources"]["none"]["classes"] == {"fields": GRID.width * GRID.height - 400}


def test_values_that_no_feature_here_has_are_named(write_layers, paint):
    """Left out or painted, a feature of the grid has its values; one beside it does not count."""
    beside = GRID.width + 20
    roads = [
        (line((10, 20), (90, 20)), {"highway": "primary", "tunnel": "yes"}),
        (line((10, 40), (90, 40)), {"highway": "track", "tracktype": "grade2"}),
        (line((beside, 20), (beside + 9, 20)), {"highway": "trunk"}),
    ]
    water = [(square(20, 60, 20), {"natural": "water", "water": "lake"}), (square(beside, 60, 9), {"water": "pond"})]
    layers = recipe(
        roads={**ROADS, "widths_m": {"trunk": 9, "primary": 9, "track": 3}, "grades": ["grade1", "grade2"]},
        lake={**LAKE, "tags": {"water": ["lake", "pond"], "wter": ["lake"]}},
        plain={**LAKE, "priority": 1},
    )
    _, _, stats, _ = paint(layers, GRID, WHOLE, write_layers({"roads": roads, "water": water}))
    absent = {name: entry["absent"] for name, entry in stats["features"].items()}
    assert absent == {
        "roads": ["highway=trunk", "tracktype=grade1"],
        "lake": ["water=pond", "wter=lake"],
        "plain": [],
    }
    ungraded = recipe(roads={**ROADS, "grades": ["grade1"]})
    assert paint(ungraded, GRID, WHOLE, write_layers({"roads": roads}))[2]["features"]["roads"]["absent"] == []


def test_features_left_out_are_counted_in_the_log(write_layers, paint, capsys):
    rows = [(line((10, 20), (90, 20)), {"highway": "primary"}), (line((10, 40), (90, 40)), {"highway": "path"})]
    for count, says in ((1, "features painted: 1 roads\n"), (2, "1 roads; 1 left out, by reason in the stats\n")):
        paint(recipe(roads=ROADS), GRID, WHOLE, write_layers({"roads": rows[:count]}))
        assert capsys.readouterr().out.endswith(says)
