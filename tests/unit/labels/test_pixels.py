"""Pixel coordinates that every shard shares, and the degrees of a shard."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from pyproj import Transformer
from rasterio import features

from pipeline.grid import Grid, Shard, web_mercator_grid
from pipeline.labels.geometry import shard_bounds_deg, to_pixels, touches_shard

# Powers of two throughout: the vertices below lie exactly on pixel centres and corners.
GRID = Grid("EPSG:3857", 1024.0, 65536.0, 0.5, 0.5, 65536, 65536, 0.5, 0.5, 128)


@pytest.mark.parametrize("all_touched", [False, True])
def test_edges_through_pixel_centres_fall_alike_in_every_shard(all_touched):
    rng = np.random.default_rng(0)
    for _ in range(40):
        col, row = (int(value) for value in rng.integers(1000, 60000, 2))
        corners = (rng.integers(0, 400, (150, 3, 2)) / 2.0 + (col, row)) * (0.5, -0.5) + (GRID.left, GRID.top)
        triangles = [shape for shape in shapely.polygons(corners) if shape.area > 0]

        def paint(shard, shapes=triangles):
            pixels = to_pixels(np.array(shapes, dtype=object), GRID, shard)
            return features.rasterize(pixels, out_shape=(shard.height, shard.width), all_touched=all_touched)

        large = paint(Shard("large", row - 40, col - 40, 280, 280))
        small = paint(Shard("small", row + 29, col + 13, 100, 100))
        assert 0 < small.mean() <= 1
        np.testing.assert_array_equal(large[69:169, 53:153], small)


def test_pixel_coordinates_count_from_the_shards_outer_corner():
    point = shapely.Point(GRID.left + 10.25 * GRID.res_x, GRID.top - 7.75 * GRID.res_y)
    moved = to_pixels(np.array([point], dtype=object), GRID, Shard("s", 3, 4, 10, 10))[0]
    assert (moved.x, moved.y) == pytest.approx((6.25, 4.75), abs=1e-5)


def test_touches_shard():
    shard = Shard("s", 0, 0, 10, 20)
    boxes = [(0, 0, 1, 1), (-5, 3, 25, 4), (20.5, 0, 22, 5), (5, -4, 6, -1), (5, 9, 6, 40)]
    shapes = np.array([shapely.box(*box) for box in boxes], dtype=object)
    assert touches_shard(shapes, shard).tolist() == [True, True, False, False, True]
    assert touches_shard(shapes[:0], shard).shape == (0,)


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:2056"])
def test_bounds_in_degrees_hold_every_pixel(crs):
    if crs == "EPSG:3857":
        grid = web_mercator_grid((8.0, 47.0, 8.1, 47.05), 15, 1000)
    else:
        grid = Grid(crs, 2_600_000.0, 1_250_000.0, 10.0, 10.0, 2000, 1500, 10.0, 10.0, 1000)
    shard = grid.shards()[-1]
    a, _, left, _, e, top = grid.transform(shard.row_px, shard.col_px)
    cols, rows = np.meshgrid(np.linspace(0, shard.width, 50), np.linspace(0, shard.height, 50))
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(left + a * cols, top + e * rows)
    west, south, east, north = shard_bounds_deg(grid, shard)
    slack = 1e-5  # a metre; the labels read 250 m more
    assert west - slack <= lon.min() < west + slack
    assert south - slack <= lat.min() < south + slack
    assert lon.max() <= east + slack
    assert lat.max() <= north + slack
