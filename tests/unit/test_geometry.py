"""Pixel coordinates that every shard shares."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from rasterio import features

from pipeline.geometry import to_pixels
from pipeline.grid import Grid, Shard

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
