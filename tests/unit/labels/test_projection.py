"""Degrees and pixels without a seam: boxes, bounds and shapes on both sides of the antimeridian."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from pyproj import Geod, Transformer

from pipeline.grid import MERCATOR_HALF_M, Grid, web_mercator_grid
from pipeline.labels.projection import is_torn, projection_of, reading_boxes, shard_bounds_deg, unwrap

GEOD = Geod(ellps="WGS84")
SLACK_DEG = 1e-5  # a metre; the labels read more


def mercator_across(lon, lat, width, height, res=10.0):
    """A grid of EPSG:3857 whose corner is at (lon, lat), as far east as it goes."""
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True).transform(lon, lat)
    return Grid("EPSG:3857", x, y, res, res, width, height, res, res, 1000)


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:2056", "EPSG:4326"])
def test_bounds_in_degrees_hold_every_pixel(crs):
    grids = {
        "EPSG:3857": web_mercator_grid((8.0, 47.0, 8.1, 47.05), 15, 1000),
        "EPSG:2056": Grid("EPSG:2056", 2_600_000.0, 1_250_000.0, 10.0, 10.0, 2000, 1500, 10.0, 10.0, 1000),
        "EPSG:4326": Grid("EPSG:4326", 8.0, 47.1, 1e-4, 1e-4, 1500, 1500, 7.6, 11.1, 1000),
    }
    grid = grids[crs]
    shard = grid.shards()[-1]
    a, _, left, _, e, top = grid.transform(shard.row_px, shard.col_px)
    cols, rows = np.meshgrid(np.linspace(0, shard.width, 50), np.linspace(0, shard.height, 50))
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(left + a * cols, top + e * rows)
    west, south, east, north = shard_bounds_deg(grid, shard)
    assert west - SLACK_DEG <= lon.min() < west + SLACK_DEG
    assert south - SLACK_DEG <= lat.min() < south + SLACK_DEG
    assert lon.max() <= east + SLACK_DEG
    assert lat.max() <= north + SLACK_DEG


def test_bounds_count_on_past_the_antimeridian():
    grid = mercator_across(179.9, -16.0, 3000, 800)
    west, south, east, north = shard_bounds_deg(grid, grid.shards()[-1])
    width_deg = 10.0 / MERCATOR_HALF_M * 180
    assert west == pytest.approx(179.9 + 2000 * width_deg, abs=1e-9)
    assert east == pytest.approx(179.9 + 3000 * width_deg, abs=1e-9)
    assert east > 180
    assert south < north == pytest.approx(-16.0, abs=1e-9)


def test_a_grid_that_ends_at_the_antimeridian_is_no_turn_wide():
    grid = web_mercator_grid((179.0, -17.0, 180.0, -16.0), 10, 1000)
    assert shard_bounds_deg(grid, grid.shards()[0])[2] == pytest.approx(180.0)
    west_side = web_mercator_grid((-180.0, -17.0, -179.0, -16.0), 10, 1000)
    assert shard_bounds_deg(west_side, west_side.shards()[0])[0] == pytest.approx(-180.0)
    world = web_mercator_grid((-180.0, -80.0, 180.0, 80.0), 2, 2048)
    assert shard_bounds_deg(world, world.shards()[0])[::2] == (pytest.approx(-180.0), pytest.approx(180.0))
    assert projection_of(world).centre_lon == pytest.approx(0.0)


def test_a_utm_grid_across_the_antimeridian():
    """Zone 60 reaches a little past 180 degrees east, as grids of Chukotka and Fiji do."""
    to_utm = Transformer.from_crs("EPSG:4326", "EPSG:32660", always_xy=True)
    x, y = to_utm.transform(180.0, 65.0)
    grid = Grid("EPSG:32660", x - 5000, y + 5000, 10.0, 10.0, 1000, 1000, 10.0, 10.0, 1000)
    west, south, east, north = shard_bounds_deg(grid, grid.shards()[0])
    assert 179.8 < west < 180 < east < 180.2
    assert south < 65 < north
    assert abs(projection_of(grid).centre_lon) == pytest.approx(180.0, abs=0.02)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((8.0, 50.0, 9.0, 51.0), [(8.0, 9.0)]),
        ((179.0, -17.0, 181.0, -16.0), [(179.0, 180.0), (-180.0, -179.0)]),
        ((-181.0, -17.0, -179.0, -16.0), [(179.0, 180.0), (-180.0, -179.0)]),
        ((181.0, -17.0, 182.0, -16.0), [(-179.0, -178.0)]),
        ((-180.0, -80.0, 180.0, 80.0), [(-180.0, 180.0)]),
    ],
)
def test_boxes_to_read(bounds, expected):
    boxes = reading_boxes(bounds, 0.0)
    assert [(box[0], box[2]) for box in boxes] == [pytest.approx(sides) for sides in expected]
    assert {(box[1], box[3]) for box in boxes} == {(bounds[1], bounds[3])}


@pytest.mark.parametrize("lat", [0.0, 60.0, -75.0])
def test_a_margin_is_metres_on_the_ground(lat):
    ((west, south, east, north),) = reading_boxes((8.0, lat, 8.1, lat + 0.1), 500.0)
    for corner in (lat, lat + 0.1):
        for begin, end in (((8.0, corner), (west, corner)), ((8.1, corner), (east, corner))):
            assert 500.0 <= GEOD.inv(*begin, *end)[2] < 520.0
    assert 500.0 <= GEOD.inv(8.0, lat, 8.0, south)[2] < 510.0
    assert 500.0 <= GEOD.inv(8.0, lat + 0.1, 8.0, north)[2] < 510.0


def test_margin_at_the_antimeridian_reads_both_sides():
    boxes = reading_boxes((179.0, -17.0, 180.0, -16.0), 1000.0)
    assert [box[0] for box in boxes] == [pytest.approx(179.0, abs=0.02), -180.0]
    assert boxes[1][2] == pytest.approx(-180.0 + 1000 / 110_500 / math.cos(math.radians(17.01)), abs=1e-4)


def test_shapes_are_moved_to_where_the_grid_is():
    shapes = np.array(
        [
            shapely.LineString([(179.5, 1), (180, 1)]),
            shapely.LineString([(-180, 1), (-179.5, 1)]),
            shapely.box(-179.9, 0, -179.8, 1),
        ],
        dtype=object,
    )
    moved = unwrap(shapes, 180.1)
    assert [shape.bounds for shape in moved] == [
        (179.5, 1, 180, 1),
        (180, 1, 180.5, 1),
        pytest.approx((180.1, 0, 180.2, 1)),
    ]
    back = unwrap(shapes, -179.9)
    assert back[0].bounds == (-180.5, 1, -180, 1)
    assert back[1] is shapes[1] and back[2] is shapes[2]


def test_areas_cut_in_two_at_the_antimeridian_come_together():
    lagoon = shapely.MultiPolygon(
        [
            shapely.box(179.8, 0, 180, 1),
            shapely.Polygon(
                [(-180, 0), (-179.5, 0), (-179.5, 1), (-180, 1)],
                [[(-179.9, 0.4), (-179.8, 0.4), (-179.8, 0.6), (-179.9, 0.6)]],
            ),
        ]
    )
    (moved,) = unwrap(np.array([lagoon], dtype=object), 179.9)
    assert moved.bounds == pytest.approx((179.8, 0, 180.5, 1))
    assert moved.area == pytest.approx(lagoon.area)
    assert moved.geom_type == "MultiPolygon" and len(moved.geoms[1].interiors) == 1


def test_edges_longer_than_half_a_turn_are_told():
    shapes = [
        shapely.LineString([(179.9, 2), (-179.9, 3)]),
        shapely.LineString([(-170, 2), (0, 3), (170, 2)]),
        shapely.Polygon([(179.8, 0), (-179.5, 0), (-179.5, 1), (179.8, 1)]),
        shapely.MultiPolygon([shapely.box(179, 0, 180, 1), shapely.box(-180, 0, -179, 1)]),
        shapely.box(8, 50, 9, 51),
    ]
    assert is_torn(np.array(shapes, dtype=object)).tolist() == [True, False, True, False, False]
    assert is_torn(np.array([], dtype=object)).shape == (0,)


def test_shapes_elsewhere_stay_as_they_are():
    shapes = np.array([shapely.box(8, 50, 9, 51), shapely.LineString([(-170, 0), (-171, 1)])], dtype=object)
    assert unwrap(shapes, 0.0) is shapes
    assert unwrap(shapes[:0], 0.0).shape == (0,)


def test_forward_and_inverse_agree_across_the_antimeridian():
    grid = mercator_across(179.9, -16.0, 3000, 800)
    projection = projection_of(grid)
    points = np.array([(179.95, -16.1), (180.0, -16.2), (180.05, -16.3)])
    moved = projection.forward(points)
    assert (np.diff(moved[:, 0]) > 0).all()
    assert moved[1, 0] == pytest.approx(MERCATOR_HALF_M, abs=1e-6)
    np.testing.assert_allclose(projection.inverse(moved), points, atol=1e-11)
    assert np.isfinite(projection.forward(np.array([(10.0, 90.0), (10.0, -90.0)]))).all()
