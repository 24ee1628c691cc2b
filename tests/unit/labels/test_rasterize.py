"""The painted class and its source, against point-in-polygon tests, and shards against one big run."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import rasterio
import shapely
from pyproj import Transformer

from pipeline.errors import DataError
from pipeline.grid import Shard, web_mercator_grid

GRID = web_mercator_grid((8.001, 50.001, 8.0029, 50.0021), 18, 128)
WHOLE = Shard("all", 0, 0, GRID.height, GRID.width)
FOREST, FIELDS, URBAN, WATER, NONE = 0, 1, 2, 3, 255
RECIPE = {
    "layers": {
        "landcover": {"kind": "landcover", "source": "old"},
        "woods": {"kind": "areas", "layer": "landuse", "label": "forest", "tags": {"natural": ["wood", "scrub"]}},
        "water": {"kind": "areas", "layer": "water", "label": "water"},
        "streams": {"kind": "lines", "layer": "waterways", "label": "water", "widths_m": {"stream": 2}},
        "houses": {"kind": "areas", "layer": "buildings", "label": "urban", "all_touched": True},
        "roads": {"kind": "lines", "layer": "roads", "label": "urban", "widths_m": {"primary": 9, "path": 1.5}},
    }
}
OSM_ONLY = {"layers": {name: layer for name, layer in RECIPE["layers"].items() if name != "landcover"}}


def pixel_centres_deg():
    cols, rows = np.meshgrid(np.arange(GRID.width) + 0.5, np.arange(GRID.height) + 0.5)
    to_deg = Transformer.from_crs("EPSG:3857", "EPSG:4326", always_xy=True)
    return to_deg.transform(GRID.left + cols * GRID.res_x, GRID.top - rows * GRID.res_y)


def at_pixels(points):
    """Degrees of (column, row) pixel coordinates."""
    to_deg = Transformer.from_crs("EPSG:3857", "EPSG:4326", always_xy=True)
    points = np.asarray(points, dtype=float)
    lon, lat = to_deg.transform(GRID.left + points[:, 0] * GRID.res_x, GRID.top - points[:, 1] * GRID.res_y)
    return np.column_stack([lon, lat])


def busy_map():
    """Random shapes all over the grid and beyond, and squares whose edges lie on pixel edges and pixel centres."""
    rng = np.random.default_rng(12)

    def place(count, low=-40, high=60):
        return rng.uniform([low, low], [GRID.width + high, GRID.height + high], (count, 2))

    def blobs(count, size):
        points = place(count)
        return [shapely.MultiPoint(at_pixels(p + rng.uniform(-size, size, (9, 2)))).convex_hull for p in points]

    def squares(offset):
        corners = rng.integers(0, GRID.width, (12, 2)) + offset
        return [shapely.Polygon(at_pixels(c + np.array([(0, 0), (6, 0), (6, 6), (0, 6)]))) for c in corners]

    def lines(count):
        return [shapely.LineString(at_pixels(place(4))) for _ in range(count)]

    return {
        "landuse": [(shape, {"natural": "wood" if i % 2 else "heath"}) for i, shape in enumerate(blobs(25, 25))],
        "water": [(shape, {"natural": "water"}) for shape in blobs(14, 30) + squares(0.5)],
        "waterways": [(shape, {"waterway": "stream"}) for shape in lines(5)],
        "buildings": [(shape, {"building": "yes"}) for shape in blobs(20, 4) + squares(0.0) + squares(0.5)],
        "roads": [(shape, {"highway": "primary" if i % 3 else "path"}) for i, shape in enumerate(lines(9))],
    }


def landcover_raster(path):
    band = np.random.default_rng(5).choice(np.array([0, 1, 2, 255], dtype=np.uint8), (GRID.height, GRID.width))
    options = {"crs": GRID.crs, "transform": rasterio.Affine(*GRID.transform()), "nodata": 255}
    with rasterio.open(path, "w", "GTiff", GRID.width, GRID.height, 1, dtype="uint8", **options) as raster:
        raster.write(band, 1)
    return band


def test_shards_equal_one_big_run(tmp_path, write_layers, paint):
    gpkg = write_layers(busy_map())
    landcover_raster(tmp_path / "old.tif")
    landcover = {"old": tmp_path / "old.tif"}
    classes, sources, _, _ = paint(RECIPE, GRID, WHOLE, gpkg, landcover)
    assert len(np.unique(sources)) == len(RECIPE["layers"]) + 1, "every layer shows somewhere"
    for edge in (128, 77):
        grid = dataclasses.replace(GRID, shard_px=edge)
        assert len(grid.shards()) > 4
        for shard in grid.shards():
            part, origin, _, _ = paint(RECIPE, grid, shard, gpkg, landcover)
            window = np.s_[shard.row_px : shard.row_px + shard.height, shard.col_px : shard.col_px + shard.width]
            np.testing.assert_array_equal(part, classes[window])
            np.testing.assert_array_equal(origin, sources[window])


def test_areas_cover_the_pixels_whose_centre_they_hold(write_layers, paint):
    features = busy_map()
    recipe = {"layers": {name: OSM_ONLY["layers"][name] for name in ("water", "woods")}}
    classes, sources, stats, _ = paint(recipe, GRID, WHOLE, write_layers(features))
    lon, lat = pixel_centres_deg()
    # Squares with edges through pixel centres are a tie; leave their seams out of the comparison.
    edges = shapely.union_all([shape.boundary for shape, _ in features["water"]])
    clear = shapely.distance(edges, shapely.points(lon, lat)) > 1e-9
    woods = [shape for shape, tags in features["landuse"] if tags["natural"] == "wood"]
    water = shapely.contains_xy(shapely.union_all([shape for shape, _ in features["water"]]), lon, lat)
    wood = shapely.contains_xy(shapely.union_all(woods), lon, lat)
    expected = np.where(wood, FOREST, np.where(water, WATER, NONE))
    assert (water & wood).any(), "the order of layers matters somewhere"
    assert clear.mean() > 0.95
    # 200 m pieces are straight in degrees here and in the grid there: a pixel in ten thousand may differ.
    assert (classes[clear] != expected[clear]).mean() < 1e-4
    np.testing.assert_array_equal(sources, np.select([classes == WATER, classes == FOREST], [1, 2], 0))
    assert stats["features"]["woods"]["left_out"]["other tags"] > 0


def test_source_agrees_with_class(tmp_path, write_layers, paint):
    old = landcover_raster(tmp_path / "old.tif")
    recipe = {"background": "fields", **RECIPE}
    classes, sources, stats, tags = paint(recipe, GRID, WHOLE, write_layers(busy_map()), {"old": tmp_path / "old.tif"})
    names = json.loads(tags["layers"])
    assert names == ["none", *RECIPE["layers"]]
    for value, name in enumerate(names):
        here = sources == value
        assert stats["sources"][name]["pixels"] == here.sum() > 0
        if name == "none":
            assert (classes[here] == FIELDS).all()
            assert (old[here] == 255).all()
        elif name == "landcover":
            np.testing.assert_array_equal(classes[here], old[here])
        else:
            label = ["forest", "fields", "urban", "water"].index(RECIPE["layers"][name]["label"])
            assert (classes[here] == label).all()
    assert stats["classes"]["ignored"]["pixels"] == 0
    assert sum(entry["pixels"] for entry in stats["classes"].values()) == classes.size
    assert sum(entry["share"] for entry in stats["sources"].values()) == pytest.approx(1.0)


def test_equal_counts_elsewhere_are_other_stats(write_layers, paint):
    """Snakemake hashes the stats: labels that moved must not look unchanged."""
    found = []
    for start in (10, 30):
        square = shapely.Polygon(at_pixels([(start, 10), (start + 6, 10), (start + 6, 16), (start, 16)]))
        gpkg = write_layers({"water": [(square, {"natural": "water"})]})
        found.append(paint({"layers": {"water": OSM_ONLY["layers"]["water"]}}, GRID, WHOLE, gpkg)[2])
    one, other = found
    assert one["classes"] == other["classes"] and one["features"] == other["features"]
    assert one["sha256"]["classes"] != other["sha256"]["classes"]
    assert one["sha256"]["sources"] != other["sha256"]["sources"]


def test_tunnel_is_left_out_and_counted(write_layers, paint):
    road = shapely.LineString(at_pixels([(10, 20), (200, 20)]))
    other = shapely.LineString(at_pixels([(10, 60), (200, 60)]))
    far = shapely.LineString(at_pixels([(10, GRID.height + 50), (200, GRID.height + 50)]))
    rows = [
        (road, {"highway": "primary"}),
        (other, {"highway": "primary", "tunnel": "yes"}),
        (other, {"highway": "raceway"}),
        (far, {"highway": "primary", "tunnel": "yes"}),
        (far, {"highway": "primary"}),
    ]
    recipe = {"layers": {"roads": RECIPE["layers"]["roads"]}}
    classes, _, stats, _ = paint(recipe, GRID, WHOLE, write_layers({"roads": rows}))
    assert (classes[18:22, 20:190] == URBAN).all()
    assert (classes[40:] == NONE).all()
    assert stats["features"]["roads"] == {
        "painted": 1,
        "left_out": {"tunnel": 1, "value not in widths_m": 1},
        "absent": ["highway=path"],
    }


def test_holes_stay_open(write_layers, paint):
    hole = shapely.Polygon(at_pixels([(40, 40), (60, 40), (60, 60), (40, 60)]))
    lake = shapely.Polygon(at_pixels([(20, 20), (80, 20), (80, 80), (20, 80)])) - hole
    recipe = {"layers": {"water": RECIPE["layers"]["water"]}}
    classes, _, _, _ = paint(recipe, GRID, WHOLE, write_layers({"water": [(lake, {})]}))
    assert (classes == WATER).sum() == 60 * 60 - 20 * 20
    assert (classes[40:60, 40:60] == NONE).all()


def test_a_wide_river_reaches_in_from_outside(write_layers, paint):
    """The line lies 100 m outside the shard, its half width is 150 m."""
    offset = 100 / GRID.gsd_x_m
    line = shapely.LineString(at_pixels([(-offset, -500), (-offset, GRID.height + 500)]))
    recipe = {"layers": {"rivers": {**RECIPE["layers"]["streams"], "widths_m": {"river": 300}}}}
    classes, _, _, _ = paint(recipe, GRID, WHOLE, write_layers({"waterways": [(line, {"waterway": "river"})]}))
    reach = (classes == WATER).sum(axis=1)
    assert np.all(np.abs(reach * GRID.gsd_x_m - 50) <= GRID.gsd_x_m)


def test_inputs_that_do_not_fit_are_one_error_and_leave_nothing(tmp_path, write_layers, paint):
    landcover_raster(tmp_path / "old.tif")
    smaller = dataclasses.replace(GRID, width=GRID.width - 1)
    broken = tmp_path / "broken.gpkg"
    broken.write_bytes(b"no geopackage")
    gpkg = write_layers({})
    shard = smaller.shards()[0]
    for recipe, grid, layers, landcover, message in [
        (RECIPE, GRID, gpkg, {}, "no land cover 'old'"),
        (RECIPE, smaller, gpkg, {"old": tmp_path / "old.tif"}, "does not lie on the region's grid"),
        (RECIPE, GRID, gpkg, {"old": broken}, "cannot be read as a raster"),
        (OSM_ONLY, GRID, None, {}, "has no `osm` extract"),
        (OSM_ONLY, GRID, broken, {}, "'landuse' cannot be read"),
        (OSM_ONLY, GRID, tmp_path / "absent.gpkg", {}, "'landuse' cannot be read"),
    ]:
        with pytest.raises(DataError, match=message):
            paint(recipe, grid, shard, layers, landcover)
    assert not list(tmp_path.glob("labels*"))


def test_wrong_class_in_the_landcover_is_an_error(tmp_path, write_layers, paint):
    options = {"crs": GRID.crs, "transform": rasterio.Affine(*GRID.transform())}
    with rasterio.open(
        tmp_path / "x.tif", "w", "GTiff", GRID.width, GRID.height, 1, dtype="uint8", **options
    ) as raster:
        raster.write(np.full((GRID.height, GRID.width), 9, dtype=np.uint8), 1)
    with pytest.raises(DataError, match=r"holds \[9\]"):
        paint(RECIPE, GRID, WHOLE, write_layers({}), {"old": tmp_path / "x.tif"})
