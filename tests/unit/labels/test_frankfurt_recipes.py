"""The four shipped recipes of the Frankfurt region, painted on a small scene: what of which source survives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from shapely.geometry import LineString, box

from pipeline.config import load_recipe
from pipeline.extent import grid_of

CONFIG = Path(__file__).resolve().parents[3] / "config"
FOREST, FIELDS, URBAN, WATER, IGNORED = 0, 1, 2, 3, 255
SIDE_M = 400.0
BBOX = (8.5, 50.0, 8.5056, 50.0036)  # about 400 m a side
TO_DEGREES = Transformer.from_crs("EPSG:25832", "EPSG:4326", always_xy=True)
GRID = grid_of(BBOX, None, "EPSG:25832", 0.5, 2048)


def degrees(x_m, y_m):
    """Degrees of a place so many metres east and north of the grid's lower left corner."""
    left, bottom, _, _ = GRID.bounds
    return TO_DEGREES.transform(left + x_m, bottom + y_m)


def square(x0, y0, x1, y1):
    (west, south), (east, north) = degrees(x0, y0), degrees(x1, y1)
    return box(west, south, east, north)


def road(x_m):
    return LineString([degrees(x_m, 20), degrees(x_m, 180)])


ROADS = {  # metres from the left edge → tags, and the width that the recipes give it
    33: ({"highway": "motorway"}, 14.0),
    83: ({"highway": "secondary"}, 9.0),
    123: ({"highway": "residential"}, 6.0),
    153: ({"highway": "track", "tracktype": "grade2"}, 3.5),
    183: ({"highway": "track", "tracktype": "grade4"}, 0.0),
    213: ({"highway": "footway"}, 0.0),
    243: ({"highway": "residential", "width": "11"}, 11.0),
    283: ({"highway": "primary", "lanes": "2"}, 7.0),
    323: ({"highway": "primary", "tunnel": "yes"}, 0.0),
}
LAKE_COVER, LAKE_OSM = (100, 220, 260, 380), (140, 260, 220, 340)  # x0, y0, x1, y1: the land cover's is larger
TURNING_PLACE, MARKET_PLACE = (20, 220, 40, 240), (20, 300, 40, 320)


def pixels(x0, y0, x1, y1):
    """Rows and columns of a rectangle in metres from the lower left corner."""
    rows = slice(GRID.height - round(y1 / 0.5), GRID.height - round(y0 / 0.5))
    return rows, slice(round(x0 / 0.5), round(x1 / 0.5))


@pytest.fixture
def variants(tmp_path, write_layers, paint):
    """Recipe → the classes that it paints: fields with a lake of the land cover; "new" calls the fields forest."""
    gpkg = write_layers(
        {
            "roads": [(road(x), tags) for x, (tags, _) in ROADS.items()],
            "water": [(square(*LAKE_OSM), {"natural": "water"})],
            "road_areas": [
                (square(*TURNING_PLACE), {"highway": "residential", "area": "yes"}),
                (square(*MARKET_PLACE), {"highway": "pedestrian", "area": "yes"}),
            ],
            "waterways": [(LineString([degrees(0, 200), degrees(350, 200)]), {"waterway": "river"})],
        }
    )
    covers = {}
    for name, ground in (("old", FIELDS), ("new", FOREST)):
        classes = np.full((GRID.height, GRID.width), ground, np.uint8)
        classes[pixels(*LAKE_COVER)] = WATER
        covers[name] = tmp_path / f"{name}.tif"
        profile = {"driver": "GTiff", "height": GRID.height, "width": GRID.width, "count": 1, "dtype": "uint8"}
        profile |= {"nodata": IGNORED, "crs": GRID.crs, "transform": rasterio.Affine(*GRID.transform())}
        with rasterio.open(covers[name], "w", **profile) as raster:
            raster.write(classes, 1)
    shard = GRID.shards()[0]

    def run(recipe):
        content = load_recipe(recipe, CONFIG).model_dump()
        return paint(content, GRID, shard, gpkg, covers, name=recipe)[0]

    return {recipe: run(recipe) for recipe in ("initial", "bing_old", "bing_new", "google_new")}


@pytest.mark.parametrize(("recipe", "ground"), [("bing_old", FIELDS), ("bing_new", FOREST), ("google_new", FOREST)])
def test_water_is_osms_and_the_land_covers_is_ignored_where_osm_has_none(variants, recipe, ground):
    found = variants[recipe]
    x0, y0, x1, y1 = LAKE_OSM
    assert (found[pixels(x0 + 1, y0 + 1, x1 - 1, y1 - 1)] == WATER).all()
    shore = found[pixels(*LAKE_COVER)].copy()
    assert set(np.unique(shore)) == {WATER, IGNORED}
    lake_m2 = (x1 - x0) * (y1 - y0)
    assert (shore == WATER).sum() / 4 == pytest.approx(lake_m2, rel=0.02)
    assert set(np.unique(found[pixels(270, 220, 390, 380)])) == {ground}  # beside the lake
    river = found[pixels(60, 185, 70, 215)]
    assert (river == WATER).sum(axis=0) == pytest.approx(24, abs=1)  # 12 m of half-metre pixels


@pytest.mark.parametrize("recipe", ["bing_old", "bing_new", "google_new"])
def test_roads_are_as_wide_as_their_set_says(variants, recipe):
    row = pixels(0, 100, SIDE_M, 100.5)[0]
    for x, (tags, width) in ROADS.items():
        across = variants[recipe][row, pixels(x - 12, 0, x + 12, 1)[1]][0]
        assert (across == URBAN).sum() * 0.5 == pytest.approx(width, abs=0.5), tags


@pytest.mark.parametrize(("recipe", "ground"), [("bing_old", FIELDS), ("bing_new", FOREST), ("google_new", FOREST)])
def test_areas_tagged_as_roads_of_the_sets_are_painted_whole(variants, recipe, ground):
    """They are no lines; squares for people on foot are in none of the four sets."""
    for place, label in ((TURNING_PLACE, URBAN), (MARKET_PLACE, ground)):
        x0, y0, x1, y1 = place
        assert set(np.unique(variants[recipe][pixels(x0 + 1, y0 + 1, x1 - 1, y1 - 1)])) == {label}


def test_the_initial_variant_keeps_the_land_covers_water_and_paints_squares(variants):
    found = variants["initial"]
    assert (found[pixels(*LAKE_COVER)] == WATER).all()
    assert (found[pixels(60, 185, 70, 215)] != WATER).all()  # no river of OSM's
    row = pixels(0, 100, SIDE_M, 100.5)[0]
    for x in (33, 83, 153, 183):  # one width for all that vehicles use, whole pixels of 10 m
        across = found[row, pixels(x - 15, 0, x + 15, 1)[1]][0]
        assert (across == URBAN).sum() * 0.5 == pytest.approx(10, abs=0.01), x
    assert set(np.unique(found)) == {FIELDS, URBAN, WATER}


def test_googles_labels_are_bings_new_ones(variants):
    assert (variants["google_new"] == variants["bing_new"]).all()
    assert (variants["bing_old"] != variants["bing_new"]).any()
