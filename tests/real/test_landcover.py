"""Land cover of real places, from the folder REAL_DATA_DIR: WorldCover, Vaud, Baker Lake, Massachusetts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from pyproj import CRS, Transformer
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from pipeline.acquire.landcover import warp_landcover
from pipeline.acquire.raster import raster_grid
from pipeline.command import Log
from pipeline.config import ClassScheme, LandcoverConfig, LandcoverVector
from pipeline.crs_grid import crs_grid
from pipeline.errors import DataError
from pipeline.grid import MERCATOR_HALF_M, web_mercator_grid
from tests.support.ranges import RangeServer

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif("REAL_DATA_DIR" not in os.environ, reason="REAL_DATA_DIR is not set: no real data to read"),
]
NAMES = ["forest", "fields", "urban", "water"]
SCHEME = ClassScheme.model_validate(
    {"classes": [{"index": i, "name": name, "colour": (i, i, 9)} for i, name in enumerate(NAMES)]}
)
WORLDCOVER = {10: "forest", 20: "fields", 30: "fields", 40: "fields", 50: "urban", 60: "fields", 80: "water"}
WORLDCOVER |= {90: "fields", 95: "forest", 100: "fields"}
TILE = "ESA_WorldCover_10m_2021_v200_N00E006_Map.tif"


def data(name: str) -> Path:
    path = Path(os.environ.get("REAL_DATA_DIR", "")) / name
    if not path.exists():
        pytest.skip(f"{path} does not exist: REAL_DATA_DIR has no {name}")
    return path


def warp(tmp_path, config, grid):
    out = tmp_path / "out" / "landcover.tif"
    summary = tmp_path / "out" / "summary.json"
    found = warp_landcover("cover", config, SCHEME, grid, tmp_path / "cache" / "region", out, summary, log=Log())
    with rasterio.open(out) as raster:
        return raster.read(1), found


def degrees(grid):
    """Longitudes of the columns and latitudes of the rows of a grid in EPSG:3857, by the formula of the sphere."""
    x = (grid.left + (np.arange(grid.width) + 0.5) * grid.res_x) / MERCATOR_HALF_M
    y = (grid.top - (np.arange(grid.height) + 0.5) * grid.res_y) / MERCATOR_HALF_M
    return x * 180, np.degrees(np.arctan(np.sinh(y * np.pi)))


def worldcover_classes(path, grid):
    lon, lat = degrees(grid)
    cols, rows = np.floor((lon - 6) * 12000).astype(int), np.floor((3 - lat) * 12000).astype(int)
    with rasterio.open(path) as raster:
        window = rasterio.windows.Window(cols[0], rows[0], cols[-1] - cols[0] + 1, rows[-1] - rows[0] + 1)
        values = raster.read(1, window=window)[np.ix_(rows - rows[0], cols - cols[0])]
    table = np.full(256, 255, np.uint8)
    for value, name in WORLDCOVER.items():
        table[value] = NAMES.index(name)
    return table[values]


@pytest.mark.parametrize("zoom", [14, 17])
def test_windows_of_worldcover_from_a_server_equal_the_file(tmp_path, zoom):
    """The town of São Tomé and its bay, by the name that {tile3} gives the file, of which a small part is sent."""
    path = data(f"worldcover/{TILE}")
    size = 0.05 if zoom == 14 else 0.01
    grid = web_mercator_grid((6.73 - size, 0.335 - size, 6.73 + size, 0.335 + size), zoom, 8192)
    with RangeServer(files={f"/v200/{TILE}": path}).running() as server:
        url = server.url("/v200/ESA_WorldCover_10m_2021_v200_{tile3}_Map.tif")
        config = LandcoverConfig.model_validate({"url": url, "classes": WORLDCOVER, "ignore": [70]})
        band, found = warp(tmp_path, config, grid)
        assert server.sent < path.stat().st_size / 2
    np.testing.assert_array_equal(band, worldcover_classes(path, grid))
    assert [file["url"].rpartition("/")[2] for file in found["read"]["files"]] == [TILE]
    assert found["unmapped"] == [] and len(np.unique(band)) == 4


@pytest.mark.parametrize("name", ["ls100_06", "ls250_12"])
@pytest.mark.parametrize("onto", ["EPSG:3857", "EPSG:32632"])
def test_coarse_land_use_of_vaud_is_gdals_exact_choice(tmp_path, name, onto):
    path = data(f"vaud/{name}.tif")
    bbox = (6.2, 46.45, 6.7, 46.7)
    grid = web_mercator_grid(bbox, 12, 8192) if onto == "EPSG:3857" else crs_grid(bbox, onto, 37.0, 8192)
    with rasterio.open(path) as raster:
        options = {"crs": grid.crs, "transform": rasterio.Affine(*grid.transform())}
        options |= {"width": grid.width, "height": grid.height, "resampling": Resampling.nearest}
        with WarpedVRT(raster, tolerance=1e-9, **options) as warped:
            values = warped.read(1)
    seen = [value for value in np.unique(values).tolist() if value != 255]
    config = {"path": path, "classes": {value: NAMES[value % 4] for value in seen[3:]}, "ignore": seen[:2]}
    band, found = warp(tmp_path, LandcoverConfig.model_validate(config | {"max_unmapped": 1}), grid)
    expected = np.where(np.isin(values, seen[3:]), values % 4, 255)
    np.testing.assert_array_equal(band, expected)
    assert [entry["value"] for entry in found["unmapped"]] == seen[2:3]
    assert found["outside"] == (values == 255).sum() > 1000
    with pytest.raises(DataError, match=f"no class for value {seen[2]} "):
        warp(tmp_path, LandcoverConfig.model_validate(config), grid)


def test_hand_drawn_polygons_of_baker_lake_are_where_they_were_drawn(tmp_path):
    """EPSG:2953 counts north first; every pixel's centre against shapely, later features over earlier ones."""
    path = data("new_brunswick/BakerLake_2017_clipped.gpkg")
    grid = raster_grid(data("new_brunswick/23322E759967N_clipped_1m_1of2.tif"), None, 8192)
    classes = {1: "forest", 2: "water", 3: "urban", 4: "urban"}
    config = {"kind": "vector", "path": path, "field": "Quatreclasses", "classes": classes, "ignore": [255]}
    band, found = warp(tmp_path, LandcoverVector.model_validate(config), grid)
    frame = pyogrio.read_dataframe(path)
    x, y = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    points = shapely.points(grid.left + x * grid.res_x, grid.top - y * grid.res_y)
    expected = np.full(band.shape, 255, np.uint8)
    for shape, code in zip(shapely.make_valid(frame.geometry.to_numpy()), frame["Quatreclasses"], strict=True):
        shapely.prepare(shape)
        index = 255 if code == "255" else NAMES.index(classes[int(code)])
        expected[shapely.contains(shape, points)] = index
    assert (band != expected).mean() < 1e-4
    assert set(np.unique(band)) >= {0, 2, 3} and found["read"]["without_area"] == 0


def test_a_custom_coordinate_system_of_massachusetts_lies_on_its_image(tmp_path):
    path = data("massachusetts/22978945_15_buildings.gpkg")
    grid = raster_grid(data("massachusetts/22978945_15.tif"), None, 8192)
    frame = pyogrio.read_dataframe(path)
    values = sorted(frame["class"].dropna().unique().tolist())
    config = {"kind": "vector", "path": path, "field": "class", "classes": dict.fromkeys(values, "urban")}
    band, _ = warp(tmp_path, LandcoverVector.model_validate(config), grid)
    to_grid = Transformer.from_crs(CRS.from_user_input(frame.crs), grid.crs, always_xy=True)
    rows = frame.geometry[frame["class"].notna()].make_valid()
    moved = shapely.transform(rows.to_numpy(), lambda points: np.column_stack(to_grid.transform(*points.T)))
    west, south, east, north = grid.bounds
    drawn = shapely.union_all(moved).intersection(shapely.box(west, south, east, north)).area
    assert (band == 2).sum() * grid.res_x * grid.res_y == pytest.approx(drawn, rel=0.01)
