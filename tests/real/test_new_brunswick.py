"""How well labels made of OSM agree with labels drawn by hand, on New Brunswick's two crops.

The hand labels are written as a mapper would have drawn them: water, forest and buildings as areas, roads as centre
lines with a `width` tag. The project's own rules turn that into labels on the crop's grid, and compare them with the
hand labels rasterised by rasterio. What an OSM-like recipe loses is in the roads, whose edges bend and widen while a
buffer of the centre line does not; the areas lose single pixels along their outlines (OSM's coordinates have seven
decimals, outlines are projected).
"""

from __future__ import annotations

import csv
import itertools
import os
from pathlib import Path

import geopandas
import numpy as np
import osmium
import pytest
import rasterio
import shapely
from rasterio import features

from pipeline.files import read_json
from tests.support.project import Project

FOLDER = Path(os.environ.get("REAL_DATA_DIR", "")) / "new_brunswick"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif("REAL_DATA_DIR" not in os.environ, reason="REAL_DATA_DIR is not set: no real data to read"),
    pytest.mark.skipif("REAL_DATA_DIR" in os.environ and not FOLDER.is_dir(), reason=f"{FOLDER} does not exist"),
]
CROPS = {"north": "23322E759967N_clipped_1m_1of2.tif", "south": "23322E759967N_clipped_1m_2of2.tif"}
CLASSES = ("forest", "water", "other", "road", "building")  # in the order they are painted
CODES = {"1": "forest", "2": "water", "255": "other", "3": "road", "4": "building"}
TAGS = {"forest": {"landuse": "forest"}, "water": {"natural": "water"}, "building": {"building": "yes"}}
IGNORE, ROAD = 255, CLASSES.index("road")
DEFAULT_M = 6  # of the third road set of config/recipes: what a road without a width tag gets
PIXEL_M = 0.5

SCHEME = """
classes:
  - {index: 0, name: forest, colour: [4, 135, 29]}
  - {index: 1, name: water, colour: [14, 10, 214]}
  - {index: 2, name: other, colour: [222, 214, 200]}
  - {index: 3, name: road, colour: [229, 80, 60]}
  - {index: 4, name: building, colour: [170, 40, 160]}
"""
REGION = """
grid: {{imagery: aerial}}
classes: baker_lake
imagery:
  aerial: {{kind: raster, path: {image}}}
osm: {{path: own/baker_lake.osm.pbf}}
truth: own/{name}.tif
"""
RECIPE = """
background: other
layers:
  forest: {{kind: areas, layer: landuse, label: forest, tags: {{landuse: [forest]}}}}
  water: {{kind: areas, layer: water, label: water}}
  roads: {{kind: lines, layer: roads, label: road, widths_m: {{residential: {width}}}, use_width_tag: {tagged}}}
  buildings: {{kind: areas, layer: buildings, label: building}}
"""


def hand_labels():
    """(class, polygon) of every hand label, in the crops' coordinate system."""
    frame = geopandas.read_file(FOLDER / "BakerLake_2017_clipped.gpkg")
    assert frame.crs.to_epsg() == 2953 and len(frame) == 43
    assert all(shape.geom_type == "Polygon" and not shape.interiors for shape in frame.geometry)
    return [(CODES[str(code)], shape) for code, shape in zip(frame["Quatreclasses"], frame.geometry, strict=True)]


def centre_line(polygon):
    """The line in the middle of a long polygon, and the polygon's width: edges of the Voronoi cells of its outline."""
    outline = shapely.segmentize(polygon.exterior, 1.0)
    edges = shapely.get_parts(shapely.voronoi_polygons(shapely.MultiPoint(outline.coords), only_edges=True))
    far = shapely.distance(shapely.centroid(edges), outline)
    wide = 2 * polygon.area / polygon.length  # twice the area by the length of the outline: a ribbon's width
    inner = edges[shapely.contains_properly(polygon, edges) & (far > 0.4 * wide)]
    parts = shapely.get_parts(shapely.line_merge(shapely.union_all(inner)))
    longest = max(parts, key=lambda part: part.length)
    width = 2 * np.median([outline.distance(shapely.Point(point)) for point in longest.coords])
    return longest.simplify(0.5), round(2 * width) / 2


def write_osm(path, labels):
    """Areas as closed ways, roads as lines with a width; returns the widths."""
    to_degrees = geopandas.GeoSeries([shape for _, shape in labels], crs=2953).to_crs(4326)
    node = itertools.count(1)
    widths, ways = [], []
    with osmium.SimpleWriter(str(path), overwrite=True) as writer:
        for number, ((name, shape), degrees) in enumerate(zip(labels, to_degrees, strict=True), start=1):
            if name == "other":
                continue
            tags, ring = TAGS.get(name, {}), degrees.exterior if name != "road" else None
            if ring is None:
                line, width = centre_line(shape)
                widths.append(width)
                ring = geopandas.GeoSeries([line], crs=2953).to_crs(4326).iloc[0]
                tags = {"highway": "residential", "width": f"{width:g}"}
            points = list(ring.coords)
            closed = points[0] == points[-1]
            refs = [next(node) for _ in points[: len(points) - closed]]
            for ref, point in zip(refs, points, strict=False):
                writer.add_node(osmium.osm.mutable.Node(id=ref, location=point))
            ways.append(osmium.osm.mutable.Way(id=number, nodes=refs + refs[:1] * closed, tags=tags))
        for way in ways:
            writer.add_way(way)
    return widths


def write_truth(path, image, labels):
    with rasterio.open(image) as raster:
        profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": IGNORE}
        profile |= {key: raster.profile[key] for key in ("width", "height", "crs", "transform")}
    band = np.full((profile["height"], profile["width"]), IGNORE, np.uint8)
    for value, name in enumerate(CLASSES):
        shapes = [shape for label, shape in labels if label == name]
        features.rasterize(shapes, out=band, default_value=value, transform=profile["transform"])
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(band, 1)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """(folder of the project, widths): recipe `tagged` takes a road's width tag, `plain` 6 m for every road."""
    project = Project.of_sources(tmp_path_factory.mktemp("new_brunswick") / "project")
    project.path("own").mkdir()
    labels = hand_labels()
    widths = write_osm(project.path("own/baker_lake.osm.pbf"), labels)
    project.path("config/classes/baker_lake.yaml").write_text(SCHEME)
    for recipe, tagged in (("tagged", "true"), ("plain", "false")):
        project.path(f"config/recipes/{recipe}.yaml").write_text(RECIPE.format(width=DEFAULT_M, tagged=tagged))
    targets = []
    for name, image in CROPS.items():
        write_truth(project.path(f"own/{name}.tif"), FOLDER / image, labels)
        region = REGION.format(name=name, image=FOLDER / image)
        project.path(f"config/regions/{name}.yaml").write_text(region)
        targets.append(f"data/{name}/comparisons/tagged-truth/summary.json")
    targets.append("data/north/comparisons/plain-truth/summary.json")
    project.snakemake("--cores", "2", *targets, PYTHONPATH=str(project.path("src")), timeout_s=300)
    return project.folder, widths


def counts_of(folder, recipe, crops=tuple(CROPS)):
    """Confusion of the crops together, int [6, 6], rows the recipe, the last of each the ignored pixels."""
    total = np.zeros((len(CLASSES) + 1,) * 2, int)
    for crop in crops:
        with open(folder / "data" / crop / "comparisons" / f"{recipe}-truth" / "confusion.csv", newline="") as handle:
            head, *rows = csv.reader(handle)
        assert head[1:] == [*CLASSES, "ignored"]
        total += np.array([row[1:] for row in rows], dtype=int)
    return total


def iou(counts, index):
    return counts[index, index] / (counts[index].sum() + counts[:, index].sum() - counts[index, index])


def test_centre_lines_are_as_wide_as_the_roads(compared):
    _, widths = compared
    print("widths, metres:", widths)
    assert len(widths) == 4 and all(4 <= width <= 7 for width in widths)


def test_an_osm_like_recipe_agrees_with_hand_labels(compared):
    """Areas are the same outlines, moved by at most a centimetre: a pixel in a hundred may fall to the other side."""
    folder, _ = compared
    counts = counts_of(folder, "tagged")
    inside = counts[:-1, :-1]
    scores = {name: iou(inside, index) for index, name in enumerate(CLASSES)}
    print({name: round(float(score), 4) for name, score in scores.items()})
    assert scores["forest"] > 0.99 and scores["water"] > 0.99 and scores["building"] > 0.99
    assert scores["road"] > 0.95, "what a buffer covers too little or too much: ends, bends, the mouths of side roads"
    assert scores["other"] > 0.93, "nobody drew it: what no layer paints, here the railway and the edges of roads"
    assert np.trace(inside) / inside.sum() > 0.995
    assert inside.sum() > 100_000 and (inside.sum(axis=0) > 1000).all()


def test_what_roads_lose_as_buffers_of_centre_lines(compared):
    """Strictly: road painted where nothing is labelled by hand counts against it too.

    Half a pixel (0.25 m) off on both sides of a road of 5 m is 10 %. Painted 6 m wide instead, it cannot exceed 5/6.
    """
    folder, widths = compared
    strict = {recipe: iou(counts_of(folder, recipe, ["north"]), ROAD) for recipe in ("tagged", "plain")}
    hand = counts_of(folder, "tagged")[:, ROAD]
    print({name: round(float(score), 4) for name, score in strict.items()}, "missed", 1 - hand[ROAD] / hand.sum())
    assert strict["tagged"] > 0.9 and hand[ROAD] / hand.sum() > 0.95
    assert strict["plain"] == pytest.approx(np.mean(widths) / DEFAULT_M, abs=0.03)


def test_the_summary_says_the_same(compared):
    folder, _ = compared
    for crop in CROPS:
        summary = read_json(folder / "data" / crop / "comparisons" / "tagged-truth" / "summary.json")
        assert summary["area_km2"] * 1e6 == pytest.approx(summary["pixels"] * PIXEL_M**2, rel=1e-3)
        assert summary["disagreement"]["share"] < 0.02 and summary["only_b"]["pixels"] == 0
