"""Rule define_grid: a raster's own pixels, or those of the x/y/z pyramid over a box."""

from __future__ import annotations

import json
import math

import pytest
from pyproj import Geod, Transformer

from pipeline.grid import Grid
from tests.rules.conftest import LEFT, SIDE_PX, TOP
from tests.support.project import Project

pytestmark = pytest.mark.workflow


def on_the_ground(grid: dict[str, float | str]) -> tuple[float, float]:
    """Geodesic (width, height) of the pixel at the grid's centre, metres."""
    to_lonlat = Transformer.from_crs(grid["crs"], "EPSG:4326", always_xy=True)
    x = float(grid["left"]) + float(grid["res_x"]) * float(grid["width"]) / 2
    y = float(grid["top"]) - float(grid["res_y"]) * float(grid["height"]) / 2
    here = to_lonlat.transform(x, y)
    geod = Geod(ellps="WGS84")
    right = to_lonlat.transform(x + float(grid["res_x"]), y)
    below = to_lonlat.transform(x, y - float(grid["res_y"]))
    return geod.inv(*here, *right)[2], geod.inv(*here, *below)[2]


def test_a_raster_keeps_its_own_pixels(meadow: Project) -> None:
    grid = json.loads(meadow.path("data/meadow/grid.json").read_text())
    assert (grid["left"], grid["top"], grid["res_x"], grid["res_y"]) == (LEFT, TOP, 1, 1)
    assert (grid["width"], grid["height"], grid["shards"]) == (SIDE_PX, SIDE_PX, ["r00c00"])
    assert "32632" in grid["crs"]
    assert (grid["gsd_x_m"], grid["gsd_y_m"]) == pytest.approx(on_the_ground(grid), rel=1e-4)


def test_a_zoom_gives_the_pixels_of_the_tile_pyramid_that_cover_the_box(meadow: Project) -> None:
    grid = json.loads(meadow.path("data/north/grid.json").read_text())
    size = 2 * math.pi * 6378137 / 2**18 / 256
    assert (grid["res_x"], grid["res_y"]) == pytest.approx((size, size), rel=1e-12)
    west, north = Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True).transform(25.0, 65.004)
    east, south = Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True).transform(25.01, 65.0)
    right, bottom = grid["left"] + grid["width"] * size, grid["top"] - grid["height"] * size
    for inner, outer in ((west, grid["left"]), (bottom, south), (right, east), (grid["top"], north)):
        assert abs(inner - outer) <= size * 1.01
    assert grid["left"] <= west + 0.02 * size and right >= east - 0.02 * size
    assert grid["top"] >= north - 0.02 * size and bottom <= south + 0.02 * size
    offset = (grid["left"] + math.pi * 6378137) / size
    assert offset == pytest.approx(round(offset), abs=1e-6)  # a tile's pixel is a grid's pixel
    assert (grid["gsd_x_m"], grid["gsd_y_m"]) == pytest.approx(on_the_ground(grid), rel=1e-4)
    assert grid["gsd_m"] == pytest.approx(size * math.cos(math.radians(65.002)), rel=5e-3)
    rows, columns = (math.ceil(grid[side] / 512) for side in ("height", "width"))
    assert grid["shards"] == [f"r{row:02d}c{column:02d}" for row in range(rows) for column in range(columns)]


LAKE = """
bbox: [8.60, 47.30, 8.62, 47.31]
grid: {crs: "EPSG:2056", resolution: 0.5}
classes: frankfurt
imagery:
  ortho: {kind: wms, url: "https://maps.example.org/wms", layers: ortho}
"""


def test_a_crs_and_a_resolution_give_pixels_on_multiples_of_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    project = Project.of_sources(tmp_path_factory.mktemp("grid") / "project")
    project.path("config/regions/lake.yaml").write_text(LAKE)
    project.snakemake("--cores", "1", "data/lake/grid.json")
    grid = json.loads(project.path("data/lake/grid.json").read_text())
    assert (grid["crs"], grid["res_x"], grid["res_y"], grid["shards"]) == ("EPSG:2056", 0.5, 0.5, ["r00c00"])
    to_grid = Transformer.from_crs("EPSG:4326", "EPSG:2056", always_xy=True)
    left, bottom, right, top = Grid.load(project.path("data/lake/grid.json")).bounds
    for lon, lat in ((8.60, 47.30), (8.62, 47.30), (8.60, 47.31), (8.62, 47.31), (8.61, 47.31)):
        x, y = to_grid.transform(lon, lat)
        assert left <= x + 0.005 and x - 0.005 <= right and bottom <= y + 0.005 and y - 0.005 <= top
    assert (left * 2, top * 2) == pytest.approx((round(left * 2), round(top * 2)), abs=1e-6)
    assert (grid["gsd_x_m"], grid["gsd_y_m"]) == pytest.approx(on_the_ground(grid), rel=1e-4)
    with project.edited("config/regions/lake.yaml", lambda text: text.replace("EPSG:2056", "EPSG:2065")):
        done = project.snakemake("--cores", "1", "data/lake/grid.json", status=1)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "config/regions/lake.yaml: " in lines[0] and "grid.crs" in lines[0]
    assert "Traceback" not in done.text
