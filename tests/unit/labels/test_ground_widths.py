"""A road as wide on the ground as the recipe says, measured in pixels with geodesics, at three latitudes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from pyproj import Geod, Transformer

from pipeline.geometry import reproject
from pipeline.grid import web_mercator_grid
from pipeline.labels.geometry import ground_buffers

GEOD = Geod(ellps="WGS84")
LON = 8.37
HALF_M = 200.0
RECIPE = {
    "layers": {"roads": {"kind": "lines", "layer": "roads", "label": "urban", "widths_m": {"primary": 9, "trunk": 14}}}
}


def ground_grid(lat, zoom):
    west, south = GEOD.fwd(LON, lat, 225, HALF_M)[:2]
    east, north = GEOD.fwd(LON, lat, 45, HALF_M)[:2]
    return web_mercator_grid((west, south, east, north), zoom, 4096)


def pixel_size_m(grid, row, col):
    """(east-west, north-south) metres of one pixel, by geodesics between its edges."""
    to_deg = Transformer.from_crs("EPSG:3857", "EPSG:4326", always_xy=True)
    x, y = grid.left + (col + 0.5) * grid.res_x, grid.top - (row + 0.5) * grid.res_y
    west, east = (to_deg.transform(x + side * grid.res_x / 2, y) for side in (-1, 1))
    south, north = (to_deg.transform(x, y + side * grid.res_y / 2) for side in (-1, 1))
    return GEOD.inv(*west, *east)[2], GEOD.inv(*south, *north)[2]


def runs_m(band, grid, azimuth):
    """Width across the road at each column or row of the middle third, metres, perpendicular to it."""
    if azimuth == 90:
        band = band.T
    lines = range(band.shape[0] // 3, 2 * band.shape[0] // 3)
    widths = []
    for line in lines:
        hits = np.flatnonzero(band[line] == 2)
        assert hits.size and hits.size == hits[-1] - hits[0] + 1, "the road has a gap"
        middle = int(hits.mean())
        row, col = (middle, line) if azimuth == 90 else (line, middle)
        east_west, north_south = pixel_size_m(grid, row, col)
        step = north_south if azimuth == 90 else east_west * abs(math.cos(math.radians(azimuth)))
        widths.append((hits.size * step, step))
    return np.array(widths)


@pytest.mark.parametrize(("value", "width_m"), [("primary", 9.0), ("trunk", 14.0)])
@pytest.mark.parametrize("azimuth", [90, 0, 45, 150])
@pytest.mark.parametrize(("lat", "zoom"), [(0.0, 18), (50.0, 18), (65.0, 17), (-50.0, 19)])
def test_road_is_as_wide_as_specified(write_layers, paint, lat, zoom, azimuth, value, width_m):
    grid = ground_grid(lat, zoom)
    ends = [GEOD.fwd(LON, lat, azimuth + turn, 2 * HALF_M)[:2] for turn in (0, 180)]
    gpkg = write_layers({"roads": [(shapely.LineString(ends), {"highway": value})]})
    band, _, _, _ = paint(RECIPE, grid, grid.shards()[0], gpkg)
    measured = runs_m(band, grid, azimuth)
    assert np.all(np.abs(measured[:, 0] - width_m) <= measured[:, 1])
    if azimuth in (45, 150):  # cuts at many phases: the mean is better than a pixel
        assert measured[:, 0].mean() == pytest.approx(width_m, abs=0.1)


def test_width_tag_is_metres_on_the_ground(write_layers, paint):
    grid = ground_grid(65.0, 18)
    ends = [GEOD.fwd(LON, 65.0, azimuth, 2 * HALF_M)[:2] for azimuth in (135, 315)]
    gpkg = write_layers({"roads": [(shapely.LineString(ends), {"highway": "primary", "width": "65'"})]})
    band, _, _, _ = paint(RECIPE, grid, grid.shards()[0], gpkg)
    assert runs_m(band, grid, 135)[:, 0].mean() == pytest.approx(65 * 0.3048, abs=0.1)


@pytest.mark.parametrize("lat", [0.0, 45.0, 80.0, -80.0])
@pytest.mark.parametrize("lon", [8.001, 8.5, 8.999, -179.6])
def test_area_of_a_buffer_is_length_times_width(lat, lon):
    """Geodesic area of a 1 km line's buffer = length x width + both round ends, to 0.1 %."""
    width_m = 12.0
    ends = [(lon, lat), GEOD.fwd(lon, lat, 60, 1000.0)[:2]]
    lines = np.array([shapely.LineString(ends)], dtype=object)
    polygon = ground_buffers(lines, np.array([width_m / 2]))[0]
    area = abs(GEOD.geometry_area_perimeter(polygon)[0])
    caps = 16 * math.sin(math.pi / 16) * (width_m / 2) ** 2  # both ends together: a 32-gon
    assert area == pytest.approx(1000.0 * width_m + caps, rel=1e-3)


def test_long_straight_segment_follows_the_map():
    """A 20 km east-west segment keeps its latitude in the middle, as drawn on a map, and does not follow a geodesic."""
    lines = np.array([shapely.LineString([(8.0, 60.0), (8.36, 60.0)])], dtype=object)
    polygon = ground_buffers(lines, np.array([5.0]))[0]
    cut = polygon.intersection(shapely.LineString([(8.18, 59.99), (8.18, 60.01)]))
    south, north = cut.bounds[1], cut.bounds[3]
    assert GEOD.inv(8.18, 60.0, 8.18, (south + north) / 2)[2] < 0.05
    assert GEOD.inv(8.18, south, 8.18, north)[2] == pytest.approx(10.0, abs=0.02)


def test_national_grid_gets_true_metres():
    lines = np.array([shapely.LineString([(8.0, 47.0), (8.01, 47.005)])], dtype=object)
    polygon = reproject(ground_buffers(lines, np.array([10.0])), "EPSG:4326", "EPSG:2056")[0]
    length = GEOD.geometry_length(lines[0])
    caps = 16 * math.sin(math.pi / 16) * 10.0**2
    assert polygon.area == pytest.approx(length * 20 + caps, rel=5e-4)
    assert 2_600_000 < polygon.centroid.x < 2_700_000


def spread(polygon, points):
    """Geodesic distances (m) from `points` of a line to the nearest edge of its buffer."""
    outline = shapely.get_coordinates(shapely.segmentize(polygon.exterior, 2e-6))
    found = []
    for lon, lat in points:
        x = (outline[:, 0] - lon) * math.cos(math.radians(lat))
        near = np.argsort(np.hypot(x, outline[:, 1] - lat))[:40]
        found.append(min(GEOD.inv(lon, lat, *outline[row])[2] for row in near))
    return np.array(found)


@pytest.mark.parametrize("lat", [0.0, 50.0, 65.0, 80.0, -33.0, -80.0])
@pytest.mark.parametrize("lon", [6.0, 12.0, 180.0])
def test_buffers_are_metres_across_the_edge_of_a_utm_zone(lat, lon):
    """A line over the edge of two UTM zones keeps its distance on both sides of it, without a step."""
    azimuth, half_m, distance = 70.0, 1500.0, 6.0
    (west_lon, west_lat, _), (east_lon, east_lat, _) = (GEOD.fwd(lon, lat, azimuth + turn, half_m) for turn in (180, 0))
    middle = [(lon + (value - lon) % 360 - 360 * ((value - lon) % 360 > 180)) for value in (west_lon, east_lon)]
    line = shapely.LineString([(middle[0], west_lat), (middle[1], east_lat)])
    assert middle[0] < lon < middle[1]
    polygon = ground_buffers(np.array([line], dtype=object), np.array([distance]))[0]
    along = shapely.get_coordinates(shapely.line_interpolate_point(line, np.linspace(0.05, 0.95, 19), normalized=True))
    # A segment of 200 m is straight in degrees here and in metres there.
    np.testing.assert_allclose(spread(polygon, along), distance, atol=0.03 if abs(lat) < 70 else 0.1)


@pytest.mark.parametrize("lat", [0.0, 50.0, -65.0])
def test_lines_to_both_sides_of_a_zone_edge_are_alike(lat):
    """The same shape a hair west and a hair east of 6 degrees, where one-degree zones and UTM zones change."""
    shape = shapely.LineString([(0, lat), (0.004, lat + 0.002), (0.007, lat)])
    lines = np.array(
        [shapely.transform(shape, lambda p, lon=lon: p + np.array([lon, 0])) for lon in (5.9, 5.996, 6.0, 6.1)]
    )
    areas = [abs(GEOD.geometry_area_perimeter(polygon)[0]) for polygon in ground_buffers(lines, np.full(4, 7.0))]
    assert areas == pytest.approx([areas[0]] * 4, rel=1e-4)


@pytest.mark.parametrize("lat", [0.0, 50.0, 65.0, 80.0, -50.0])
@pytest.mark.parametrize("distance", [25.0, -25.0])
def test_areas_grow_and_shrink_by_geodesic_metres(lat, distance):
    """A square kilometre over the edge of a zone: its edges move by the distance, all four of them."""
    half_m = 500.0
    west, east = (GEOD.fwd(12.0, lat, azimuth, half_m)[0] for azimuth in (270, 90))
    south, north = (GEOD.fwd(12.0, lat, azimuth, half_m)[1] for azimuth in (180, 0))
    moved = ground_buffers(np.array([shapely.box(west, south, east, north)]), np.array([distance]))[0]
    cut_x, cut_y = (
        moved.intersection(shapely.LineString([(11, lat), (13, lat)])),
        moved.intersection(shapely.LineString([(12.0, south - 1), (12.0, north + 1)])),
    )
    # North and south edges run along parallels: on the ground they bend by centimetres over a kilometre.
    assert GEOD.inv(cut_x.bounds[0], lat, cut_x.bounds[2], lat)[2] == pytest.approx(2 * (half_m + distance), abs=0.1)
    assert GEOD.inv(12.0, cut_y.bounds[1], 12.0, cut_y.bounds[3])[2] == pytest.approx(2 * (half_m + distance), abs=0.1)
