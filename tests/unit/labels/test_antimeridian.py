"""Roads, lagoons and buffers on both sides of 180 degrees are painted as the same scene is a quarter turn away."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import shapely
from pyproj import Transformer

from pipeline.grid import MERCATOR_HALF_M, Grid, Shard, web_mercator_grid

LAT = {"fiji": -16.8, "chukotka": 68.9}
AWAY_DEG = 90.0
ZOOM = 16
HALF_DEG = 0.004
RECIPE = {
    "layers": {
        "lagoon": {"kind": "areas", "layer": "water", "label": "water", "buffer_m": 6},
        "rivers": {"kind": "lines", "layer": "waterways", "label": "water", "widths_m": {"river": 40}, "pixel_m": 9},
        "roads": {"kind": "lines", "layer": "roads", "label": "urban", "widths_m": {"primary": 9}},
    }
}


def scene(lat):
    """Shapes around longitude 0 that cross it: a winding road, a river beside it, and a lagoon with an island."""
    road = [(-0.005, lat - 0.001), (-0.001, lat + 0.0006), (0.0012, lat - 0.0004), (0.005, lat + 0.001)]
    river = [(-0.00009, lat - 0.003), (-0.00009, lat + 0.003)]  # west of the meridian, wide enough to reach over it
    lagoon = shapely.box(-0.002, lat - 0.0028, 0.0015, lat - 0.0016) - shapely.box(
        -0.0006, lat - 0.0024, 0.0008, lat - 0.002
    )
    return shapely.LineString(road), shapely.LineString(river), lagoon


def halves(shape):
    """The shape cut at longitude 180, its eastern half at -180, as OSM stores what crosses the antimeridian."""
    west = shape.intersection(shapely.box(0, -90, 180, 90))
    east = shape.intersection(shapely.box(180, -90, 360, 90))
    return [west, moved(east, -360.0)]


def moved(shape, lon):
    return shapely.transform(shape, lambda points: points + np.array([lon, 0]))


def layers_at(lon, lat, cut):
    road, river, lagoon = (moved(shape, lon) for shape in scene(lat))
    roads, lagoons = [road], [lagoon]
    if cut is not None:
        roads, lagoons = halves(road), halves(lagoon)
    if cut == "one relation":
        lagoons = [shapely.MultiPolygon([part for half in lagoons for part in shapely.get_parts(half)])]
    return {
        "roads": [(part, {"highway": "primary"}) for part in roads],
        "waterways": [(river, {"waterway": "river"})],
        "water": [(part, {"natural": "water"}) for part in lagoons],
    }


def grid_at(lon, lat):
    """EPSG:3857 pixels around (lon, lat); a grid at 180 degrees runs on past the antimeridian."""
    west = web_mercator_grid((lon - HALF_DEG, lat - HALF_DEG, lon - HALF_DEG / 2, lat + HALF_DEG), ZOOM, 4096)
    width = round(2 * HALF_DEG / 360 * 256 * 2**ZOOM)
    return dataclasses.replace(west, width=width, shard_px=303)


def whole(grid):
    return Shard("all", 0, 0, grid.height, grid.width)


@pytest.mark.parametrize(("place", "cut"), [("fiji", "one relation"), ("fiji", "two areas"), ("chukotka", "two areas")])
def test_a_scene_across_180_equals_the_scene_a_quarter_turn_away(write_layers, paint, place, cut):
    lat = LAT[place]
    there = grid_at(AWAY_DEG, lat)
    here = grid_at(180.0, lat)
    right = here.left + here.width * here.res_x
    assert here.left < MERCATOR_HALF_M < right
    assert (here.width, here.height, here.top) == (there.width, there.height, there.top)
    expected, sources, stats, _ = paint(RECIPE, there, whole(there), write_layers(layers_at(AWAY_DEG, lat, None)))
    assert set(np.unique(sources)) == {0, 1, 2, 3}
    gpkg = write_layers(layers_at(180.0, lat, cut))
    got, origin, found, _ = paint(RECIPE, here, whole(here), gpkg)
    middle = round((MERCATOR_HALF_M - here.left) / here.res_x)
    assert (got[:, middle + 3 :] != 255).any() and (got[:, : middle - 3] != 255).any()
    # Where a road was cut its halves end round, within its width; a lagoon's halves are wet on both sides of the cut.
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(origin, sources)
    assert stats["features"]["roads"]["painted"] == 1 and found["features"]["roads"] == {
        "painted": 2,
        "left_out": {},
        "absent": [],
    }
    for shard in here.shards():
        part, *_ = paint(RECIPE, here, shard, gpkg)
        window = np.s_[shard.row_px : shard.row_px + shard.height, shard.col_px : shard.col_px + shard.width]
        np.testing.assert_array_equal(part, got[window])


def test_a_buffer_reaches_over_the_antimeridian_into_a_grid_that_ends_there(write_layers, paint):
    lat = LAT["fiji"]
    across = grid_at(180.0, lat)
    gpkg = write_layers(layers_at(180.0, lat, "one relation"))
    full, *_ = paint(RECIPE, across, whole(across), gpkg)
    middle = round((MERCATOR_HALF_M - across.left) / across.res_x)
    west = dataclasses.replace(across, width=middle)
    east = dataclasses.replace(across, left=-MERCATOR_HALF_M, width=across.width - middle)
    assert west.left + middle * west.res_x == pytest.approx(MERCATOR_HALF_M)
    np.testing.assert_array_equal(paint(RECIPE, west, whole(west), gpkg)[0], full[:, :middle])
    # Coarse pixels count from each region's own corner, so that the rivers are left out here.
    plain = {"layers": {name: layer for name, layer in RECIPE["layers"].items() if name != "rivers"}}
    expected = paint(plain, across, whole(across), gpkg)[0][:, middle:]
    np.testing.assert_array_equal(paint(plain, east, whole(east), gpkg)[0], expected)


def test_a_utm_grid_across_180_holds_both_halves(write_layers, paint):
    lat = LAT["fiji"]
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:32760", always_xy=True).transform(180.0, lat)
    grid = Grid("EPSG:32760", round(x) - 400.0, round(y) + 400.0, 2.0, 2.0, 400, 400, 2.0, 2.0, 400)
    bands = []
    for cut in ("one relation", "two areas"):
        gpkg = write_layers(layers_at(180.0, lat, cut))
        bands.append(paint(RECIPE, grid, whole(grid), gpkg)[0])
    np.testing.assert_array_equal(bands[0], bands[1])
    assert (bands[0][:, :190] == 2).any() and (bands[0][:, 210:] == 2).any()


def test_a_grid_in_degrees_past_180(write_layers, paint):
    lat = LAT["chukotka"]
    grids = [
        Grid("EPSG:4326", lon - HALF_DEG, lat + HALF_DEG, 2e-5, 2e-5, 400, 400, 0.8, 2.2, 400) for lon in (90.0, 180.0)
    ]
    expected = paint(RECIPE, grids[0], whole(grids[0]), write_layers(layers_at(90.0, lat, None)))[0]
    got = paint(RECIPE, grids[1], whole(grids[1]), write_layers(layers_at(180.0, lat, "one relation")))[0]
    np.testing.assert_array_equal(got, expected)


def test_what_is_drawn_across_in_one_piece_is_left_out_and_counted(write_layers, paint):
    """Its edges run around the Earth the other way: a part of it here and not there would be worse than nothing."""
    lat = LAT["fiji"]
    grid = grid_at(180.0, lat)
    road = shapely.LineString([(179.999, lat), (-179.999, lat + 0.0005)])
    roads = {"layers": {"roads": RECIPE["layers"]["roads"]}}
    classes, _, stats, _ = paint(roads, grid, whole(grid), write_layers({"roads": [(road, {"highway": "primary"})]}))
    assert (classes == 255).all()
    assert stats["features"]["roads"] == {
        "painted": 0,
        "left_out": {"drawn across the antimeridian in one piece": 1},
        "absent": [],
    }
