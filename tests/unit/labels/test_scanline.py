"""Spans of pixels against point-in-polygon and box tests, and against GDAL; windows against the whole."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from rasterio import features

from pipeline.grid import Shard
from pipeline.labels import scanline
from pipeline.labels.scanline import centre_spans, coarse_spans, polygon_edges, top_layers, touched_spans, union

WINDOW = Shard("w", 40, 60, 90, 130)  # of a grid, at row 40, column 60


def shapes(seed, number=16):
    """Polygons, some with holes, some of several parts, many of them reaching out of the window."""
    random = np.random.default_rng(seed)
    made = []
    for place in random.uniform((30, 20), (220, 160), (number, 2)):
        shape = shapely.MultiPoint(place + random.normal(0, random.choice([1, 6, 30]), (9, 2))).convex_hull
        hole = shape.centroid.buffer(3)
        made.append(shape - hole if shape.contains(hole) else shape)
    lines = [shapely.LineString(random.uniform(0, 240, (4, 2))).buffer(2.3) for _ in range(5)]
    return np.array([*made, *lines, shapely.MultiPolygon(made[:3])], dtype=object)


def edges_of(polygons, window=WINDOW, factor=1):
    return polygon_edges(polygons, lambda points: points / factor, window)[0]


def painted(spans, window=WINDOW):
    return top_layers([spans], [1], window).expand()


def centres(window=WINDOW):
    return np.meshgrid(
        np.arange(window.col_px, window.col_px + window.width) + 0.5,
        np.arange(window.row_px, window.row_px + window.height) + 0.5,
    )


@pytest.mark.parametrize("seed", range(4))
def test_centres_inside_are_covered(seed):
    polygons = shapes(seed)
    inside = np.any([shapely.contains_xy(shape, *centres()) for shape in polygons], axis=0)
    assert 0.1 < inside.mean() < 0.95
    np.testing.assert_array_equal(painted(centre_spans(edges_of(polygons), WINDOW)), inside)


@pytest.mark.parametrize("seed", range(4))
def test_pixels_equal_gdal(seed):
    polygons = shapes(seed)
    moved = shapely.transform(polygons, lambda points: points - (WINDOW.col_px, WINDOW.row_px))
    expected = features.rasterize([shape for shape in moved if shape.area], out_shape=(WINDOW.height, WINDOW.width))
    np.testing.assert_array_equal(painted(centre_spans(edges_of(polygons), WINDOW)), expected)


@pytest.mark.parametrize("offset", [0.0, 0.5, 0.25])
def test_ties_are_shared_out_without_gap_or_overlap(offset):
    """Squares that tile the plane, their edges on pixel centres: each pixel belongs to exactly one of them."""
    boxes = [shapely.box(x, y, x + 8, y + 8) for x in range(48, 200, 8) for y in range(32, 144, 8)]
    polygons = shapely.transform(np.array(boxes, dtype=object), lambda points: points + offset)
    begin, end = centre_spans(edges_of(polygons), WINDOW)
    counted = np.zeros(WINDOW.height * WINDOW.width, dtype=int)
    for first, last in zip(begin, end, strict=True):
        counted[first:last] += 1
    assert (counted == 1).all()


@pytest.mark.parametrize("seed", range(3))
def test_touched_pixels_are_those_that_share_ground(seed):
    polygons = shapes(seed, 12)
    got = painted(touched_spans(edges_of(polygons), WINDOW)).astype(bool)
    x, y = centres()
    pieces = shapely.union_all(polygons)
    shapely.prepare(pieces)

    def meets(grown):
        half = 0.5 + grown
        return shapely.intersects(pieces, shapely.box(x - half, y - half, x + half, y + half))

    assert not (got & ~meets(0.001)).any(), "nothing is painted that is not touched"
    assert not (~got & meets(-0.02)).any(), "all is painted that is touched by more than a hundredth of a pixel"


def test_squares_on_pixel_edges_touch_no_neighbours():
    polygons = np.array([shapely.box(70, 50, 76, 54), shapely.box(90.004, 59.996, 96.003, 64.002)], dtype=object)
    got = painted(touched_spans(edges_of(polygons), WINDOW))
    assert got.sum() == 6 * 4 + 6 * 4
    assert got[10:14, 10:16].all() and got[20:24, 30:36].all()


@pytest.mark.parametrize("factor", [2, 7, 13])
def test_coarse_pixels_count_from_the_grids_corner(factor):
    polygons = shapes(9)
    edges = edges_of(polygons, scanline.coarse_window(WINDOW, factor), factor)
    x, y = centres()
    middle = (np.floor(x / factor) + 0.5) * factor, (np.floor(y / factor) + 0.5) * factor
    inside = np.any([shapely.contains_xy(shape, *middle) for shape in polygons], axis=0)
    assert inside.any()
    np.testing.assert_array_equal(painted(coarse_spans(edges, WINDOW, factor)), inside)


def test_windows_equal_the_whole_bit_by_bit():
    """Irrational slopes far from the corner: windows share every rounding."""
    whole = Shard("all", 70_000, 90_000, 300, 300)
    random = np.random.default_rng(3)
    corners = random.uniform((90_000, 70_000), (90_300, 70_300), (400, 1, 2)) + random.normal(0, 40, (400, 3, 2))
    polygons = np.array(shapely.polygons(corners))
    for spans in (centre_spans, touched_spans):
        large = painted(spans(edges_of(polygons, whole), whole), whole)
        for row, col, height, width in [(0, 0, 111, 97), (111, 97, 77, 203), (299, 0, 1, 300), (5, 299, 200, 1)]:
            part = Shard("part", 70_000 + row, 90_000 + col, height, width)
            small = painted(spans(edges_of(polygons, part), part), part)
            np.testing.assert_array_equal(small, large[row : row + height, col : col + width])


def test_pieces_of_many_crossings_are_one(monkeypatch):
    polygons = shapes(5)
    whole = [painted(spans(edges_of(polygons), WINDOW)) for spans in (centre_spans, touched_spans)]
    monkeypatch.setattr(scanline, "CHUNK", 50)
    pieces = [painted(spans(edges_of(polygons), WINDOW)) for spans in (centre_spans, touched_spans)]
    np.testing.assert_array_equal(pieces, whole)


def test_the_layer_on_top_is_the_last_one():
    random = np.random.default_rng(8)
    size = WINDOW.height * WINDOW.width
    layers, expected = [], np.zeros(size, dtype=np.uint8)
    values = random.permutation(np.arange(1, 256))[: scanline.MAX_LAYERS].tolist()
    for value in values:
        begin = random.integers(0, size - 300, 12)
        end = begin + random.integers(1, 300, 12)
        layers.append((begin, end))
        for first, last in zip(begin, end, strict=True):
            expected[first:last] = value
    runs = top_layers(layers, values, WINDOW)
    np.testing.assert_array_equal(runs.expand().ravel(), expected)
    table = random.integers(0, 256, 256).astype(np.uint8)
    np.testing.assert_array_equal(runs.expand(table).ravel(), table[expected])


def test_union_of_spans():
    begin, end = union((np.array([10, 3, 4, 20, 12, 30]), np.array([12, 5, 9, 25, 13, 40])), 50)
    assert list(zip(begin.tolist(), end.tolist(), strict=True)) == [(3, 9), (10, 13), (20, 25), (30, 40)]
    assert union(scanline.NO_SPANS, 50)[0].shape == (0,)


def test_nothing_is_nothing():
    empty = np.array([], dtype=object)
    hollow = np.array([shapely.Polygon(), shapely.MultiPolygon(), shapely.box(0, 0, 5, 5)], dtype=object)
    for polygons in (empty, hollow):
        edges, reaching, lost = polygon_edges(polygons, lambda points: points, WINDOW)
        assert not reaching.any() and not lost.any() and reaching.shape == polygons.shape
        assert not painted(centre_spans(edges, WINDOW)).any()
        assert not painted(touched_spans(edges, WINDOW)).any()
    assert not top_layers([], [], WINDOW).expand().any()


def test_shapes_without_pixel_coordinates_are_told():
    polygons = np.array([shapely.box(70, 50, 80, 60), shapely.box(-5, 50, 80, 60)], dtype=object)
    edges, reaching, lost = polygon_edges(polygons, lambda points: np.where(points < 0, np.inf, points), WINDOW)
    assert (reaching.tolist(), lost.tolist()) == ([True, False], [False, True])
    assert painted(centre_spans(edges, WINDOW)).sum() == 100
