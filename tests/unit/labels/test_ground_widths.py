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
