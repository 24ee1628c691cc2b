"""Rules download_imagery, extract_osm, warp_landcover and rasterize_labels on tiny sources of known content."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import osmium
import pyogrio
import pytest
import rasterio
import shapely
from osmium.osm import mutable
from PIL import Image
from pyproj import Transformer
from rasterio.transform import from_origin

from tests.support.project import Project

pytestmark = pytest.mark.workflow

# The harbour: 12 km in UTM, 300 km off the zone's meridian, where the grid is turned by 3 degrees against the box.
LEFT, TOP, SIDE_M, PIXEL_M, CELL_M = 800_000.0, 5_540_000.0, 12_000.0, 20.0, 100.0
CORE_M = 1_000.0  # the box in the config lies this far inside
WIDTH_M = 60.0  # of a road
CODES = np.array([10, 20, 30], np.uint8)
TO_DEG = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)
TO_UTM = Transformer.from_crs("EPSG:4326", "EPSG:32632", always_xy=True)

# The pier: 3 by 2 tiles, the box 30 pixels inside of them; the last tile is missing.
ZOOM, X0, Y0, NX, NY, INSET = 17, 68_600, 44_500, 3, 2, 30
MISSING = (X0 + 2, Y0 + 1)

CLASSES = """
classes:
  - {index: 0, name: grass, colour: [40, 160, 40]}
  - {index: 1, name: sand, colour: [220, 200, 120]}
  - {index: 2, name: sea, colour: [20, 80, 200]}
  - {index: 3, name: road, colour: [200, 60, 60]}
"""
HARBOUR = """
bbox: [{west:.7f}, {south:.7f}, {east:.7f}, {north:.7f}]
grid: {{imagery: aerial}}
classes: shore
imagery:
  aerial: {{kind: raster, path: own/aerial.tif}}
osm: {{path: own/area.osm.pbf}}
landcover:
  cover: {{path: own/cover.tif, classes: {{10: grass, 20: sand, 30: sea}}}}
"""
PIER = """
bbox: [{west:.9f}, {south:.9f}, {east:.9f}, {north:.9f}]
grid: {{zoom: 17}}
shard_px: 512
classes: shore
imagery:
  summer: {{kind: xyz, url: "http://{{host}}/{{z}}/{{x}}/{{y}}.png", serve: own/tiles, max_missing: 0.5}}
"""
RECIPE = f"""
layers:
  cover: {{kind: landcover, source: cover}}
  roads: {{kind: lines, layer: roads, label: road, widths_m: {{track: {WIDTH_M}}}}}
"""


def core_box() -> dict[str, float]:
    """A box through the middles of the sides of the harbour's core."""
    near, middle, far = CORE_M, SIDE_M / 2, SIDE_M - CORE_M
    return {
        "west": TO_DEG.transform(LEFT + near, TOP - middle)[0],
        "east": TO_DEG.transform(LEFT + far, TOP - middle)[0],
        "south": TO_DEG.transform(LEFT + middle, TOP - far)[1],
        "north": TO_DEG.transform(LEFT + middle, TOP - near)[1],
    }


def core_grid() -> tuple[float, float, float, float]:
    """(left, bottom, right, top) of the pixels that cover the box, from points along its edges."""
    box, along = core_box(), np.linspace(0, 1, 1001)
    lon = box["west"] + along * (box["east"] - box["west"])
    lat = box["south"] + along * (box["north"] - box["south"])
    edges = [(lon, np.full(1001, box["south"])), (lon, np.full(1001, box["north"]))]
    edges += [(np.full(1001, box["west"]), lat), (np.full(1001, box["east"]), lat)]
    x, y = np.hstack([TO_UTM.transform(*edge) for edge in edges])
    low, high = math.floor((x.min() - LEFT) / PIXEL_M), math.ceil((x.max() - LEFT) / PIXEL_M)
    upper, lower = math.floor((TOP - y.max()) / PIXEL_M), math.ceil((TOP - y.min()) / PIXEL_M)
    return LEFT + low * PIXEL_M, TOP - lower * PIXEL_M, LEFT + high * PIXEL_M, TOP - upper * PIXEL_M


def roads() -> dict[int, list[tuple[float, float]]]:
    """Lines of 200 m by number, UTM: one in each corner of the grid, and one 2 km beyond it."""
    left, bottom, right, top = core_grid()
    starts = [(left + 50, top - 150), (right - 250, top - 150), (left + 50, bottom + 150), (right - 250, bottom + 150)]
    starts.append((left + 50, top + 2000))
    return {number: [start, (start[0] + 200, start[1] + 40)] for number, start in enumerate(starts, start=1)}


def cover_cells() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 3, (round(SIDE_M / CELL_M),) * 2)


def tile(x: int, y: int) -> np.ndarray:
    return np.random.default_rng((x, y)).integers(1, 256, (256, 256, 3), dtype=np.uint8)


def write_sources(folder: Path) -> None:
    folder.mkdir()
    for name, pixel_m, values in (
        ("aerial", PIXEL_M, np.full((round(SIDE_M / PIXEL_M),) * 2, 7, np.uint8)),
        ("cover", CELL_M, CODES[cover_cells()]),
    ):
        side = {"width": len(values), "height": len(values), "transform": from_origin(LEFT, TOP, pixel_m, pixel_m)}
        with rasterio.open(
            folder / f"{name}.tif", "w", "GTiff", count=1, dtype="uint8", crs="EPSG:32632", **side
        ) as raster:
            raster.write(values, 1)
    with osmium.SimpleWriter(str(folder / "area.osm.pbf")) as writer:
        ends = {number: [TO_DEG.transform(*point) for point in line] for number, line in roads().items()}
        for number, line in ends.items():
            for end, place in enumerate(line):
                writer.add_node(mutable.Node(id=10 * number + end, version=1, location=place))
        for number in ends:
            nodes = [10 * number, 10 * number + 1]
            writer.add_way(mutable.Way(id=number, version=1, nodes=nodes, tags={"highway": "track"}))
    for x in range(X0, X0 + NX):
        for y in range(Y0, Y0 + NY):
            path = folder / "tiles" / str(ZOOM) / str(x) / f"{y}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if (x, y) != MISSING:
                Image.fromarray(tile(x, y)).save(path)


def tile_box() -> dict[str, float]:
    """The pier's box: longitudes and latitudes of pixels of the pyramid."""
    size = 256 * 2**ZOOM

    def lat(row: float) -> float:
        return math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * row / size))))

    return {
        "west": (X0 * 256 + INSET) / size * 360 - 180,
        "east": ((X0 + NX) * 256 - INSET) / size * 360 - 180,
        "north": lat(Y0 * 256 + INSET),
        "south": lat((Y0 + NY) * 256 - INSET),
    }


@pytest.fixture(scope="module")
def shore(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A harbour with its labels, and a pier with its imagery."""
    project = Project.of_sources(tmp_path_factory.mktemp("acquire") / "project")
    write_sources(project.path("own"))
    files = {"classes/shore": CLASSES, "recipes/shore": RECIPE}
    files |= {"regions/harbour": HARBOUR.format(**core_box()), "regions/pier": PIER.format(**tile_box())}
    for name, text in files.items():
        project.path(f"config/{name}.yaml").write_text(text)
    targets = [f"data/pier/imagery/summer/{shard}.json" for shard in ("r00c00", "r00c01")]
    project.snakemake("--cores", "2", "data/harbour/labels/shore/r00c00_stats.json", *targets, timeout_s=120)
    return project


def test_download_imagery_puts_tiles_side_by_side(shore: Project) -> None:
    canvas = np.hstack([np.vstack([tile(X0 + x, Y0 + y) for y in range(NY)]) for x in range(NX)])
    canvas[(MISSING[1] - Y0) * 256 :, (MISSING[0] - X0) * 256 :] = 0
    canvas = canvas[INSET:-INSET, INSET:-INSET]
    for shard, columns, tiles in (("r00c00", slice(0, 512), (6, 1)), ("r00c01", slice(512, None), (2, 1))):
        with rasterio.open(shore.path(f"data/pier/imagery/summer/{shard}.tif")) as raster:
            assert np.array_equal(raster.read(), canvas[:, columns].transpose(2, 0, 1))
            assert np.array_equal(raster.dataset_mask() > 0, canvas[:, columns].any(axis=2))
        manifest = json.loads(shore.path(f"data/pier/imagery/summer/{shard}.json").read_text())
        assert manifest["tiles"] == {"requested": tiles[0], "missing": tiles[1]}
        assert manifest["share_missing"] == pytest.approx((canvas[:, columns] == 0).all(axis=2).mean(), abs=1e-6)
        with open(shore.path(f"data/pier/imagery/summer/{shard}_tiles.csv"), newline="") as handle:
            rows = list(csv.DictReader(handle))
        assert [row["reason"] for row in rows if (int(row["x"]), int(row["y"])) == MISSING] == ["HTTP 404"]
        assert len(rows) == tiles[0] and sum(row["status"] == "200" for row in rows) == tiles[0] - tiles[1]
    kept = sorted(path.name for path in shore.path("cache/pier/tiles/summer").glob("*/*.sqlite"))
    assert kept == ["r00c00.sqlite", "r00c01.sqlite"]


def test_extract_osm_takes_what_touches_the_grid(shore: Project) -> None:
    """Also in the corners that lie more than 250 m outside the config's box; nothing 2 km off, box or not."""
    grid = json.loads(shore.path("data/harbour/grid.json").read_text())
    left, _, right, top = core_grid()
    assert (grid["left"], grid["top"], grid["width"]) == (left, top, (right - left) / PIXEL_M)
    box = core_box()
    metre = 1 / 111_000
    outside = [
        number
        for number, line in roads().items()
        if not shapely.box(box["west"], box["south"], box["east"], box["north"])
        .buffer(300 * metre)
        .intersects(shapely.LineString([TO_DEG.transform(*point) for point in line]))
    ]
    assert {5} < set(outside)
    frame = pyogrio.read_dataframe(shore.path("data/harbour/osm/layers.gpkg"), layer="roads")
    assert frame["osm_id"].tolist() == [1, 2, 3, 4]
    for number, shape in zip(frame["osm_id"], frame.geometry, strict=True):
        found = np.transpose(TO_UTM.transform(*shapely.get_coordinates(shape).T))
        assert np.abs(found - np.array(roads()[number])).max() < 0.02
    assert json.loads(shore.path("data/harbour/osm/summary.json").read_text())["features"]["roads"] == 4


def cover_on_grid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class of every pixel of the grid, and easting and northing of its centre."""
    left, bottom, right, top = core_grid()
    x = np.arange(left + PIXEL_M / 2, right, PIXEL_M)
    y = np.arange(top - PIXEL_M / 2, bottom, -PIXEL_M)
    cells = cover_cells()[np.ix_(((TOP - y) // CELL_M).astype(int), ((x - LEFT) // CELL_M).astype(int))]
    return cells, *np.meshgrid(x, y)


def test_warp_landcover_gives_every_pixel_the_class_of_its_cell(shore: Project) -> None:
    cells, _, _ = cover_on_grid()
    with rasterio.open(shore.path("data/harbour/landcover/cover.tif")) as raster:
        assert np.array_equal(raster.read(1), cells)
    shares = json.loads(shore.path("data/harbour/landcover/cover.json").read_text())["classes"]
    found = [shares[name]["pixels"] for name in ("grass", "sand", "sea", "road")]
    assert found == np.bincount(cells.ravel(), minlength=4).tolist()


def test_rasterize_labels_paints_roads_as_wide_as_they_are(shore: Project) -> None:
    expected, x, y = cover_on_grid()
    lines = shapely.multilinestrings([shapely.linestrings(line) for line in roads().values()])
    away_m = shapely.distance(shapely.points(x, y), lines)
    ends = shapely.multipoints([point for line in roads().values() for point in line])
    at_end = shapely.distance(shapely.points(x, y), ends) < WIDTH_M
    on, off = (away_m < WIDTH_M / 2 - 1) & ~at_end, away_m > WIDTH_M / 2 + 1
    with rasterio.open(shore.path("data/harbour/labels/shore/r00c00.tif")) as raster:
        labels = raster.read(1)
    with rasterio.open(shore.path("data/harbour/labels/shore/r00c00_source.tif")) as raster:
        source = raster.read(1)
    assert (labels[on] == 3).all() and (source[on] == 2).all() and on.sum() > 4 * 10
    assert np.array_equal(labels[off], expected[off]) and (source[off] == 1).all()
    half = len(labels) // 2
    for rows in (slice(0, half), slice(half, None)):
        for columns in (slice(0, half), slice(half, None)):
            assert (labels[rows, columns] == 3).sum() > 10
    stats = json.loads(shore.path("data/harbour/labels/shore/r00c00_stats.json").read_text())
    assert stats["classes"]["road"]["pixels"] == (labels == 3).sum()
    assert stats["features"]["roads"]["painted"] == 4
