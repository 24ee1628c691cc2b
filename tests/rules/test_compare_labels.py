"""Rule compare_labels: two recipes of a region, and a recipe and the truth; narrow and wide roads over a heath."""

from __future__ import annotations

import csv
import json

import numpy as np
import osmium
import pytest
import rasterio
from PIL import Image
from pyproj import Transformer

from tests.rules.conftest import LEFT, SIDE_PX, TOP
from tests.support.project import Project

pytestmark = pytest.mark.workflow
REGION = """
title: A heath
grid: {imagery: aerial}
classes: ground
imagery:
  aerial: {kind: raster, path: own/aerial.tif}
osm: {path: own/heath.osm.pbf}
truth: own/heath.tif
"""
RECIPE = """
background: grass
layers:
  roads: {{kind: lines, layer: roads, label: soil, widths_m: {{track: {width}}}}}
"""
OUTPUTS = ("confusion.csv", "confusion.png", "side_by_side.png", "summary.json")


def write_road(path: str) -> None:
    """A road due east through the middle of the region, 200 m long."""
    to_degrees = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)
    with osmium.SimpleWriter(path) as writer:
        for number, east in enumerate((100, 300), start=1):
            lon, lat = to_degrees.transform(LEFT + east, TOP - SIDE_PX / 2)
            writer.add_node(osmium.osm.mutable.Node(id=number, location=(lon, lat)))
        writer.add_way(osmium.osm.mutable.Way(id=1, nodes=[1, 2], tags={"highway": "track"}))


@pytest.fixture(scope="module")
def heath(meadow: Project) -> Project:
    """Recipes `narrow` (6 m) and `wide` (12 m), and a truth that shows the road 12 m wide, compared."""
    write_road(str(meadow.path("own/heath.osm.pbf")))
    truth = np.full((SIDE_PX, SIDE_PX), 255, np.uint8)
    truth[:, 100:300] = 0
    truth[SIDE_PX // 2 - 6 : SIDE_PX // 2 + 6, 100:300] = 1
    with (
        rasterio.open(meadow.path("own/aerial.tif")) as aerial,
        rasterio.open(
            meadow.path("own/heath.tif"), "w", **{**aerial.profile, "count": 1, "nodata": 255, "photometric": None}
        ) as raster,
    ):
        raster.write(truth, 1)
    meadow.path("config/regions/heath.yaml").write_text(REGION)
    for name, width in (("narrow", 6), ("wide", 12)):
        meadow.path(f"config/recipes/{name}.yaml").write_text(RECIPE.format(width=width))
    pairs = [f"data/heath/comparisons/{pair}/summary.json" for pair in ("narrow-wide", "wide-truth")]
    meadow.snakemake("--cores", "2", *pairs)
    return meadow


def labels(project: Project, recipe: str) -> np.ndarray:
    with rasterio.open(project.path(f"data/heath/labels/{recipe}/r00c00.tif")) as raster:
        return np.asarray(raster.read(1))


def test_confusion_of_two_recipes_is_that_of_their_pixels(heath: Project) -> None:
    narrow, wide = labels(heath, "narrow"), labels(heath, "wide")
    with open(heath.path("data/heath/comparisons/narrow-wide/confusion.csv"), newline="") as handle:
        head, *rows = csv.reader(handle)
    assert head == ["narrow (rows) / wide (columns)", "grass", "soil", "roof", "ignored"]
    counts = np.array([row[1:] for row in rows], dtype=int)
    assert counts[0, 1] == ((narrow == 0) & (wide == 1)).sum() == pytest.approx(200 * 6, rel=0.1)
    assert counts[1, 1] == (narrow == 1).sum() == pytest.approx(200 * 6, rel=0.05)
    assert counts.sum() == SIDE_PX**2 and counts[1, 0] == 0
    summary = json.loads(heath.path("data/heath/comparisons/narrow-wide/summary.json").read_text())
    assert (summary["a"], summary["b"], summary["region"]) == ("narrow", "wide", "heath")
    assert summary["classes"]["soil"]["iou"] == pytest.approx((narrow == 1).sum() / (wide == 1).sum())


def test_the_truth_counts_where_it_says_something(heath: Project) -> None:
    summary = json.loads(heath.path("data/heath/comparisons/wide-truth/summary.json").read_text())
    assert summary["compared"]["pixels"] == 200 * SIDE_PX
    assert summary["only_a"]["pixels"] == (SIDE_PX - 200) * SIDE_PX
    assert summary["classes"]["soil"]["iou"] > 0.95
    assert summary["disagreement"]["share"] < 0.005


def test_pictures_show_imagery_and_the_difference(heath: Project) -> None:
    for pair, colour in (("narrow-wide", (200, 20, 30)), ("wide-truth", (240, 205, 140))):
        folder = heath.path(f"data/heath/comparisons/{pair}")
        assert sorted(path.name for path in folder.iterdir()) == list(OUTPUTS)
        picture = np.asarray(Image.open(folder / "side_by_side.png").convert("RGB"))
        width = picture.shape[1]
        assert width > 1500, "four panels: imagery, both labels, their difference"
        shown = (picture == colour).all(axis=2)
        assert shown[:, -width // 4 :].sum() > 200 and shown[:, : width // 4].sum() == 0


def test_a_region_whose_imagery_is_not_fetched_is_compared_without_it(heath: Project) -> None:
    to_degrees = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)
    west, south = to_degrees.transform(LEFT + 50, TOP - SIDE_PX + 50)
    east, north = to_degrees.transform(LEFT + SIDE_PX - 50, TOP - 50)
    region = f"""
bbox: {[west, south, east, north]}
grid: {{crs: EPSG:32632, resolution: 1}}
classes: ground
imagery:
  far: {{kind: wms, url: "http://127.0.0.1:9/", layers: aerial}}
osm: {{path: own/heath.osm.pbf}}
"""
    heath.path("config/regions/bare.yaml").write_text(region)
    heath.snakemake("--cores", "2", "data/bare/comparisons/narrow-wide/summary.json")
    folder = heath.path("data/bare/comparisons/narrow-wide")
    assert sorted(path.name for path in folder.iterdir()) == list(OUTPUTS)
    assert json.loads((folder / "summary.json").read_text())["disagreement"]["pixels"] > 500
    assert 900 < Image.open(folder / "side_by_side.png").width < 1500, "three panels: both labels, their difference"


def test_a_second_call_makes_nothing(heath: Project) -> None:
    assert heath.jobs("data/heath/comparisons/narrow-wide/summary.json") == []


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("heath/comparisons/narrow-wde/summary.json", ["config/recipes/wde.yaml does not exist", "mean 'wide'?"]),
        ("heath/comparisons/wide-wide/confusion.csv", ["recipe 'wide' is compared with itself"]),
        ("meadow/comparisons/cover-truth/summary.json", ["config/regions/meadow.yaml has no `truth`"]),
    ],
)
def test_what_cannot_be_compared_is_one_line_before_any_job(heath: Project, target: str, says: list[str]) -> None:
    done = heath.snakemake("--cores", "1", f"data/{target}", status=1)
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("Using workflow")]
    assert line.startswith("error: ") and all(part in line for part in says), line
