"""WMTS requests: the world's matrices under their names, national ones pixel on pixel, templates and parameters."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from pipeline.errors import DataError
from pipeline.extent import grid_of
from pipeline.grid import mercator_lonlat, web_mercator_grid
from pipeline.sources.wmts import Source

REST = "https://h/{Layer}/{Style}/{TileMatrixSet}/{TileMatrix}/{TileRow}/{TileCol}.jpeg"
REST_TILE = "https://h/dop/default/ADV/14/{row}/{col}.jpeg"
UTM = {"tile_matrix_set": "utm", "origin": (280000.0, 6150000.0)}


def world(zoom=16, x0=35000, y0=22000):
    west, north = mercator_lonlat(x0 * 256 + 9, y0 * 256 + 9, zoom)
    east, south = mercator_lonlat((x0 + 2) * 256 - 9, (y0 + 1) * 256 - 9, zoom)
    return web_mercator_grid((west, south, east, north), zoom, 4096)


def source(**settings):
    return Source(**{"kind": "wmts", "url": REST, "layer": "dop", **settings})


def addresses(wmts, grid, zoom=None):
    layout = wmts.layout("a", grid, zoom)
    return [wmts.address(tile, layout, grid) for tile in layout.tiles(grid.shards()[0])]


def test_a_template_is_filled_in_however_it_is_written():
    expected = ["https://h/dop/default/GoogleMapsCompatible/16/22000/35000.jpeg"]
    expected += ["https://h/dop/default/GoogleMapsCompatible/16/22000/35001.jpeg"]
    assert addresses(source(), world(), 16) == expected
    assert addresses(source(url=REST.lower()), world(), 16) == expected


def test_parameters_are_those_of_the_standard():
    wmts = source(url="https://h/wmts?map=a", style="normal", tile_matrix_set="PM", dimensions={"TIME": "2020"})
    assert addresses(wmts, world(), 16)[0] == (
        "https://h/wmts?map=a&SERVICE=WMTS&REQUEST=GetTile&VERSION=1.0.0&LAYER=dop&STYLE=normal&FORMAT=image/jpeg"
        "&TILEMATRIXSET=PM&TILEMATRIX=16&TILEROW=22000&TILECOL=35000&TIME=2020"
    )


def test_names_of_the_worlds_matrices():
    aliased = source(tile_matrix_set="EPSG:900913", matrix="EPSG:900913:{z}")
    assert addresses(aliased, world(), 16)[0] == "https://h/dop/default/EPSG:900913/EPSG:900913:16/22000/35000.jpeg"
    assert "/15/22000/" in addresses(source(zoom_offset=-1), world(), 16)[0]
    double = source(tile_px=512, max_zoom=15)
    assert addresses(double, world(), 16) == ["https://h/dop/default/GoogleMapsCompatible/15/11000/17500.jpeg"]


def test_time_is_a_placeholder_of_a_template():
    wmts = source(url="https://h/{Time}/{TileMatrix}/{TileCol}/{TileRow}.jpeg", dimensions={"Time": "current"})
    assert addresses(wmts, world(), 16)[0] == "https://h/current/16/35000/22000.jpeg"


def test_a_matrix_of_the_grids_own_system(grid_at):
    """Row and column by counting tiles of 51.2 m from the corner by hand."""
    wmts = source(**UTM, matrices={"7": {"resolution": 0.4}, "8": {"resolution": 0.2}})
    grid = grid_at("EPSG:25832", 280000.0 + 51.2 * 1000 + 3.0, 6150000.0 - 51.2 * 700 - 5.0, 0.2, 256, 256)
    layout = wmts.layout("a", grid, None)
    places = layout.tiles(grid.shards()[0])
    assert list(places.values()) == [(-25, -15), (-25, 241), (231, -15), (231, 241)]
    assert [wmts.address(tile, layout, grid).split("/")[-3:] for tile in places] == [
        ["8", "700", "1000.jpeg"],
        ["8", "700", "1001.jpeg"],
        ["8", "701", "1000.jpeg"],
        ["8", "701", "1001.jpeg"],
    ]


def test_matrices_whose_corner_is_no_multiple_of_their_resolution():
    """Germany's set: the refusal says which grid would do, and on it the centre's tile is the one counted by hand."""
    x0, y0, res = -46133.17, 6301219.54, 0.2985821417389697
    adv = {"tile_matrix_set": "ADV", "origin": (x0, y0)}
    wmts = source(**adv, matrices={"14": {"scale": res / 0.00028}, "13": {"scale": 2 * res / 0.00028}})
    box = (8.50, 50.10, 8.502, 50.102)
    with pytest.raises(DataError) as caught:
        wmts.layout("a", grid_of(box, None, "EPSG:25832", 0.3, 4096), None)
    told = YAML(typ="safe", pure=True).load(str(caught.value).rpartition("grid: ")[2])
    grid = grid_of(box, None, told["crs"], told["resolution"], 4096, tuple(told["origin"]))
    layout = wmts.layout("a", grid, None)
    assert (layout.tile_px, grid.res_x) == (256, pytest.approx(res, rel=1e-12))
    x, y = (grid.bounds[0] + grid.bounds[2]) / 2, (grid.bounds[1] + grid.bounds[3]) / 2
    row, col = math.floor((y0 - y) / (256 * res)), math.floor((x - x0) / (256 * res))
    assert REST_TILE.format(row=row, col=col) in addresses(wmts, grid)


def test_scales_are_metres_per_028_mm(grid_at):
    """1:25000 is 7 m per pixel; in degrees, 1:39757.9 or so is a degree's 111319.49 m times 1e-4 (OGC 07-057r7)."""
    wmts = source(**UTM, matrices={"a": {"scale": 25000}})
    grid = grid_at("EPSG:25832", 280700.0, 6149300.0, 7.0, 20, 20)
    assert wmts.layout("a", grid, None).col == 100
    degrees = source(origin=(-180.0, 90.0), matrices={"b": {"scale": 111319.49079327358e-4 / 0.00028}})
    assert degrees.layout("a", grid_at("EPSG:4326", 9.0, 50.0, 1e-4, 20, 20), None).col == 1890000


def test_matrices_have_origins_and_tiles_of_their_own(grid_at):
    matrices = {"a": {"resolution": 0.2, "origin": (0.0, 10.0), "tile_px": 128}, "b": {"resolution": 0.4}}
    wmts = source(**UTM, matrices=matrices)
    layout = wmts.layout("a", grid_at("EPSG:25832", 20.0, 10.0, 0.2, 50, 50), None)
    assert (layout.tile_px, layout.col, layout.row) == (128, 100, 0)


@pytest.mark.parametrize(
    ("left", "res", "words"),
    [
        (331203.0, 0.3, r"0.3 per pixel, .* the nearest, '8', has 0.2 per pixel and a corner at 331203, 6149000: give"),
        (
            331203.06,
            0.2,
            r"0.2 per pixel, corner 331203.06, 6149000\).* has 0.2 per pixel and a corner at 331203, 6149",
        ),
        (331203.0, 0.200001, r"0.200001 per pixel, .* has 0.2 per pixel"),
    ],
)
def test_a_grid_that_does_not_fit_is_told_what_would(grid_at, left, res, words):
    wmts = source(**UTM, matrices={"7": {"resolution": 0.4}, "8": {"resolution": 0.2}})
    grid = grid_at("EPSG:25832", left, 6149000.0, res, 100_000, 100)
    with pytest.raises(DataError, match=rf"imagery 'a': the grid \({words}") as caught:
        wmts.layout("a", grid, None)
    assert "\n" not in str(caught.value)


def test_a_region_beyond_the_corner_is_told_so(grid_at):
    wmts = source(**UTM, matrices={"8": {"resolution": 0.2}})
    with pytest.raises(DataError, match=r"imagery 'a': the region reaches beyond the corner of the tile matrices"):
        wmts.layout("a", grid_at("EPSG:25832", 279990.0, 6149000.0, 0.2), None)


def test_a_scale_without_enough_digits_is_noticed(grid_at):
    """714.29 for 714.285714…: 6e-6 more a pixel, which is a metre and a half over 255 km."""
    grid = grid_at("EPSG:25832", 280000.0 + 255000.0, 6149000.0, 0.2)
    assert source(**UTM, matrices={"8": {"scale": 0.2 / 0.00028}}).layout("a", grid, None).col == 1275000
    with pytest.raises(DataError, match=r"has 0.2000012 per pixel"):
        source(**UTM, matrices={"8": {"scale": 714.29}}).layout("a", grid, None)


def test_the_worlds_set_needs_a_grid_by_zoom(grid_at):
    with pytest.raises(DataError, match=r"is not that of x/y/z tiles"):
        source().layout("a", grid_at("EPSG:25832", 476000.0, 5550000.0, 0.2), None)
    with pytest.raises(DataError, match=r"zoom 16 is not one of the source's \(0 to 14\)"):
        source(max_zoom=14).layout("a", world(), 16)


def test_whatever_changes_a_tile_is_another_cache(grid_at):
    changes = [
        {},
        {"layer": "cir"},
        {"style": "grey"},
        {"tile_matrix_set": "PM"},
        {"dimensions": {"Time": "2020"}},
        {"matrix": "EPSG:3857:{z}"},
        {"zoom_offset": 1},
    ]
    url = REST.replace("{Style}", "{Style}/{Time}")
    keys = [
        source(**{"url": url, "dimensions": {"Time": "now"}, **change}).layout("a", world(), 16).key
        for change in changes
    ]
    assert len(set(keys)) == len(keys)
    grid = grid_at("EPSG:25832", 331203.0, 6149000.0, 0.2)
    own = [{"8": {"resolution": 0.2}}, {"9": {"resolution": 0.2}}, {"8": {"resolution": 0.2, "tile_px": 512}}]
    assert len({source(**UTM, matrices=matrices).layout("a", grid, None).key for matrices in own}) == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "https://h/{TileMatrix}/{TileCol}.png"}, r"lacks \{tilerow\}"),
        ({"url": "https://h/wmts", "layer": ""}, r"`layer` is missing"),
        ({"url": "https://h/wmts?SERVICE=WMTS"}, r"has the parameter SERVICE"),
        ({"url": REST + "?{Elevation}"}, r"unknown placeholder \{elevation\}"),
        ({"matrix": "EPSG:3857"}, r"lacks \{z\}"),
        ({"tile_px": 300}, r"tile_px 300: the world's set has tiles of 256, 512 or 1024 px"),
        ({"matrices": {"8": {"resolution": 0.2}}}, r"matrices\.8: has no `origin`"),
        ({"matrices": {"8": {}}, "origin": (0, 0)}, r"give either `resolution` or `scale`"),
    ],
)
def test_a_wrong_setting_is_one_line(settings, words):
    with pytest.raises(ValidationError, match=words):
        source(**settings)
