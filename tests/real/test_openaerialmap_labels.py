"""OSM buildings of three OpenAerialMap sites through the label path, against the same buildings rasterised apart."""

from __future__ import annotations

import os
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image
from rasterio import features
from scipy import ndimage

from pipeline.acquire.osm import extract_osm, grid_box
from pipeline.config import load_classes, load_recipe
from pipeline.grid import mercator_lonlat, web_mercator_grid
from pipeline.labels.rasterize import rasterize_labels
from tests.support.project import ROOT

FOLDER = Path(os.environ.get("REAL_DATA_DIR", "")) / "openaerialmap"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif("REAL_DATA_DIR" not in os.environ, reason="REAL_DATA_DIR is not set: no real data to read"),
    pytest.mark.skipif("REAL_DATA_DIR" in os.environ and not FOLDER.is_dir(), reason=f"{FOLDER} does not exist"),
]
ZOOM, TILE_PX = 19, 256
BUILDING = 1  # of config/classes/buildings.yaml
BUILDINGS = {"zanzibar": 201, "kampala": 206, "catanduanes_ph": 131}  # as REAL_DATA_DIR/README.md counts them


def tiles_of(site):
    """(column, row) → file of every tile at the zoom."""
    return {(int(path.parent.name), int(path.stem)): path for path in (FOLDER / site / "tiles" / str(ZOOM)).glob("*/*")}


@pytest.fixture(scope="module", params=BUILDINGS)
def painted(request, tmp_path_factory):
    """(site, labels, transform, what the layers lost): the site's .osm.pbf with the shipped recipe `buildings`."""
    site, folder = request.param, tmp_path_factory.mktemp(request.param)
    columns, rows = np.array(list(tiles_of(site))).T
    west, north = mercator_lonlat(columns.min() * TILE_PX, rows.min() * TILE_PX, ZOOM)
    east, south = mercator_lonlat((columns.max() + 1) * TILE_PX, (rows.max() + 1) * TILE_PX, ZOOM)
    grid = web_mercator_grid((west, south, east, north), ZOOM, 16384)
    (shard,) = grid.shards()
    layers, out, source, stats = (folder / name for name in ("layers.gpkg", "r00c00.tif", "source.tif", "stats.json"))
    pbf = FOLDER / site / "buildings.osm.pbf"
    found = extract_osm(pbf, grid_box(grid), layers, folder / "summary.json", log=print)
    recipe, scheme = load_recipe("buildings", ROOT / "config"), load_classes("buildings", ROOT / "config")
    rasterize_labels(recipe, scheme, grid, shard, layers, {}, out, source, stats, log=print)
    with rasterio.open(out) as raster:
        assert raster.crs.to_epsg() == 3857
        return site, raster.read(1), raster.transform, found["areas_not_assembled"]


def buildings_of(site, lost):
    """The buildings of the .geojson in EPSG:3857, without those that the layers say were lost."""
    frame = geopandas.read_file(FOLDER / site / "osm_buildings.geojson")
    assert len(frame) == BUILDINGS[site]
    crossing = frame[~frame.is_valid]
    assert crossing["osm_id"].tolist() == lost, "every ring that crosses itself is named, and no other building"
    return frame[frame.is_valid].to_crs(3857).geometry


def test_labels_equal_the_geojson_rasterised(painted):
    """Only pixels whose centre lies on an outline may differ: coordinates are rounded to a centimetre."""
    site, labels, transform, lost = painted
    shapes = buildings_of(site, lost)
    expected = features.rasterize(shapes, out_shape=labels.shape, transform=transform)
    rows, cols = np.nonzero(labels != expected)
    xs, ys = rasterio.transform.xy(transform, rows, cols)
    off = shapely.distance(shapely.union_all([shape.boundary for shape in shapes]), shapely.points(xs, ys))
    far = off.max(initial=0)
    print(f"{site}: {expected.sum()} px of buildings, {len(rows)} differ, at most {far:.4f} m off an outline")
    assert expected.sum() > 50_000
    assert len(rows) < 1e-3 * expected.sum() and far < 0.01


def imagery_of(site, shape):
    """Grey imagery and where there is any, from the tiles themselves."""
    grey, valid = np.zeros(shape), np.zeros(shape, bool)
    tiles = tiles_of(site)
    column, row = np.array(list(tiles)).min(axis=0)
    for (x, y), path in tiles.items():
        rgba = np.asarray(Image.open(path).convert("RGBA"), float)
        top, left = (y - row) * TILE_PX, (x - column) * TILE_PX
        grey[top : top + TILE_PX, left : left + TILE_PX] = rgba[..., :3].mean(axis=2)
        valid[top : top + TILE_PX, left : left + TILE_PX] = rgba[..., 3] > 0
    return grey, valid


def test_buildings_lie_on_buildings(painted, tmp_path):
    """Imagery changes most sharply along the outlines of the labels where they lie, not a few pixels away.

    OPENAERIALMAP_PICTURES, or the test's folder, gets a picture for the eye.
    """
    site, labels, _, _ = painted
    grey, valid = imagery_of(site, labels.shape)
    gradient = ndimage.gaussian_gradient_magnitude(grey, 1.0)
    inside = ndimage.binary_erosion(valid, iterations=4)
    building = labels == BUILDING
    rows, cols = np.nonzero(building & ~ndimage.binary_erosion(building))

    def mean(down, right):
        y, x = rows + down, cols + right
        keep = (y >= 0) & (y < labels.shape[0]) & (x >= 0) & (x < labels.shape[1])
        y, x = y[keep], x[keep]
        return gradient[y, x][inside[y, x]].mean()

    steps = [(down, right) for down in range(-12, 13, 2) for right in range(-12, 13, 2)]
    best = max(steps, key=lambda step: mean(*step))
    away = max(
        mean(*step) for step in [(20, 0), (-20, 0), (0, 20), (0, -20), (14, 14), (-14, -14), (14, -14), (-14, 14)]
    )
    print(site, f"along outlines {mean(0, 0):.1f}, 20 px away at most {away:.1f}, best at {best}")
    assert mean(0, 0) > 1.5 * away
    assert np.hypot(*best) <= 2
    picture(Path(os.environ.get("OPENAERIALMAP_PICTURES", tmp_path)) / f"{site}.png", grey, building & valid)


def picture(path, grey, building):
    """Imagery with the outlines of the labels, where they are densest."""
    dense = ndimage.uniform_filter(building.astype(np.float32), 400)
    row, col = np.unravel_index(dense.argmax(), dense.shape)
    part = np.s_[max(0, row - 300) : row + 300, max(0, col - 400) : col + 400]
    rgb = np.repeat(grey[part][..., None], 3, axis=2)
    rgb[building[part] & ~ndimage.binary_erosion(building[part])] = (255, 0, 255)
    Image.fromarray(rgb.astype(np.uint8)).save(path)
