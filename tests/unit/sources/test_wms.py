"""WMS requests: the box of a tile in every version and axis order, against rasterio, pyproj and GDAL's own reading."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pyproj
import pytest
from pydantic import ValidationError
from rasterio.transform import Affine
from rasterio.windows import Window, bounds

from pipeline.crs_grid import crs_grid
from pipeline.errors import DataError
from pipeline.grid import mercator_lonlat, web_mercator_grid
from pipeline.sources.wms import Source


def source(**settings):
    return Source(**{"kind": "wms", "url": "https://h/wms", "layers": "dop", "tile_px": 256, **settings})


def query(url):
    return {key: values[0] for key, values in parse_qs(urlsplit(url).query, keep_blank_values=True).items()}


def requests(wms, grid, zoom=None):
    """Every request of the grid's first shard, with the row and column of its image in the grid."""
    layout = wms.layout("a", grid, zoom)
    places = layout.tiles(grid.shards()[0])
    return [(query(wms.address(tile, layout, grid)), place) for tile, place in places.items()]


def test_a_request_has_the_parameters_of_its_version(grid_at):
    grid = grid_at("EPSG:25832", 476000.2, 5550000.4, 0.2)
    new, _ = requests(source(version="1.3.0", transparent=True, params={"TIME": "2020"}), grid)[0]
    assert new["CRS"] == "EPSG:25832" and "SRS" not in new
    assert {key: new[key] for key in ("SERVICE", "REQUEST", "VERSION", "LAYERS", "STYLES", "WIDTH", "HEIGHT")} == {
        "SERVICE": "WMS",
        "REQUEST": "GetMap",
        "VERSION": "1.3.0",
        "LAYERS": "dop",
        "STYLES": "",
        "WIDTH": "256",
        "HEIGHT": "256",
    }
    assert (new["TRANSPARENT"], new["FORMAT"], new["TIME"]) == ("TRUE", "image/jpeg", "2020")
    old, _ = requests(source(version="1.1.1", format="image/png"), grid)[0]
    assert old["SRS"] == "EPSG:25832" and "CRS" not in old
    assert (old["VERSION"], old["FORMAT"], old["TRANSPARENT"]) == ("1.1.1", "image/png", "FALSE")


@pytest.mark.parametrize(
    ("crs", "left", "top", "res"),
    [
        ("EPSG:4326", 9.0, 50.0, 1e-5),
        ("EPSG:3857", 966164.03, 6465349.6, 0.597164283559817),
        ("EPSG:25832", 476000.2, 5550000.4, 0.2),
        ("EPSG:31468", 4468298.7, 5333000.1, 0.4),
        ("EPSG:2180", 637000.0, 487000.0, 0.25),
        ("EPSG:2056", 2683000.0, 1247000.0, 0.1),
        ("EPSG:27700", 530000.0, 180000.0, 0.25),
    ],
)
@pytest.mark.parametrize("version", ["1.1.1", "1.3.0"])
def test_the_box_is_the_images_pixels(grid_at, crs, left, top, res, version):
    """rasterio says where pixels lie, GDAL's axis strategy (not the axis_info that is used) who comes first."""
    grid = grid_at(crs, left, top, res)
    transform = Affine(*grid.transform())
    for found, (row, col) in requests(source(version=version), grid):
        box = [float(value) for value in found["BBOX"].split(",")]
        swapped = version == "1.3.0" and north_first(crs)
        west, south, east, north = (box[1], box[0], box[3], box[2]) if swapped else box
        assert [west, south, east, north] == pytest.approx(
            bounds(Window(col, row, 256, 256), transform), abs=1e-5 * res
        )


def north_first(crs):
    """By projecting a point in the authority's order and in x, y: the first number is the second's second."""
    point = {"EPSG:27700": (-1.0, 52.0), "EPSG:2180": (19.0, 52.0), "EPSG:2056": (8.0, 47.0)}.get(crs, (11.0, 48.5))
    own = pyproj.Transformer.from_crs("OGC:CRS84", crs).transform(*point)
    plain = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True).transform(*point)
    assert sorted(own) == pytest.approx(sorted(plain))
    return own != pytest.approx(plain)


def test_the_published_axis_orders():
    """WMS 1.3.0, 6.7.3.3 and annex B: EPSG:4326 is latitude first, CRS:84 longitude first."""
    assert [north_first(crs) for crs in ("EPSG:4326", "EPSG:31468", "EPSG:2180")] == [True] * 3
    assert [north_first(crs) for crs in ("EPSG:3857", "EPSG:25832", "EPSG:2056")] == [False] * 3


def test_crs_84_and_a_told_order_are_obeyed(grid_at):
    grid = grid_at("EPSG:4326", 9.0, 50.0, 1e-5)
    north = requests(source(), grid)[0][0]["BBOX"]
    assert north.split(",")[0].startswith("49.99")
    for settings in ({"crs": "CRS:84"}, {"axis_order": "xy"}, {"version": "1.1.1"}):
        a, b, c, d = requests(source(**settings), grid)[0][0]["BBOX"].split(",")
        assert [b, a, d, c] == north.split(",")
    utm = grid_at("EPSG:25832", 476000.2, 5550000.4, 0.2)
    assert requests(source(axis_order="yx"), utm)[0][0]["BBOX"].startswith("55499")


def test_other_names_of_a_system(grid_at):
    grid = grid_at("EPSG:3857", 966164.03, 6465349.6, 0.597164283559817)
    plain, old = requests(source(), grid)[0][0], requests(source(crs="EPSG:900913"), grid)[0][0]
    assert old["CRS"] == "EPSG:900913" and old["BBOX"] == plain["BBOX"]


def test_another_system_is_refused_since_nothing_is_resampled(grid_at):
    grid = grid_at("EPSG:25832", 476000.2, 5550000.4, 0.2)
    with pytest.raises(DataError, match=r"imagery 'a': crs EPSG:3857 is not the grid's \(EPSG:25832\).*resampled"):
        source(crs="EPSG:3857").layout("a", grid, None)
    with pytest.raises(DataError, match=r"'EPSG:99999' is no coordinate system"):
        source(crs="EPSG:99999").layout("a", grid, None)


def test_a_grid_without_a_code_needs_a_name(grid_at):
    wkt = pyproj.CRS("+proj=laea +lat_0=50 +lon_0=9 +datum=WGS84").to_wkt()
    grid = grid_at(wkt, 1000.0, 2000.0, 1.0)
    with pytest.raises(DataError, match=r"has no code .*crs: …"):
        source().layout("a", grid, None)
    assert requests(source(crs="EPSG:3035", axis_order="yx"), grid)[0][0]["CRS"] == "EPSG:3035"


def test_axes_that_are_neither_east_nor_north_are_asked_for(grid_at):
    grid = grid_at("EPSG:3031", 1000.0, 2000.0, 1.0)
    with pytest.raises(DataError, match=r"axes of EPSG:3031 point north and north; give axis_order"):
        requests(source(), grid)
    assert requests(source(axis_order="xy"), grid)


def test_shards_and_neighbours_ask_for_the_same_images():
    """Two regions that overlap, in shards of another size each: boxes in common are the same text."""
    x0, y0, zoom = 35000, 22000, 16
    west, north = mercator_lonlat(x0 * 256 + 11, y0 * 256 + 7, zoom)
    east, south = mercator_lonlat(x0 * 256 + 2500, y0 * 256 + 2500, zoom)
    mid_lon, mid_lat = mercator_lonlat(x0 * 256 + 1300, y0 * 256 + 1500, zoom)
    wms, boxes = source(tile_px=1024), []
    for bbox, shard_px in (((west, south, east, north), 4096), ((mid_lon, south, east, mid_lat), 512)):
        grid = web_mercator_grid(bbox, zoom, shard_px)
        layout = wms.layout("a", grid, zoom)
        tiles = {tile for shard in grid.shards() for tile in layout.tiles(shard)}
        boxes.append({query(wms.address(tile, layout, grid))["BBOX"] for tile in tiles})
    assert boxes[1] < boxes[0] and len(boxes[1]) == 4 and len(boxes[0]) == 9
    # and they are those of the world's pyramid two zooms below: 1024 px are four tiles of 256
    tile_m = 2 * 20037508.342789244 / 2 ** (zoom - 2)
    for box in boxes[0]:
        left, bottom, right, top = map(float, box.split(","))
        assert (left + 20037508.342789244) / tile_m == pytest.approx(round((left + 20037508.342789244) / tile_m))
        assert right - left == pytest.approx(tile_m) and top - bottom == pytest.approx(tile_m)


def test_neighbours_in_another_system_share_images_too(grid_at):
    wms = source()
    one = grid_at("EPSG:25832", 476000.2, 5550000.4, 0.2, width=600, height=600)
    other = grid_at("EPSG:25832", 476060.2, 5549980.4, 0.2)
    first, second = ({found["BBOX"] for found, _ in requests(wms, grid)} for grid in (one, other))
    assert second <= first
    assert wms.layout("a", one, None).key == wms.layout("a", other, None).key
    shifted = grid_at("EPSG:25832", 476000.3, 5550000.4, 0.2)
    assert wms.layout("a", shifted, None).key != wms.layout("a", one, None).key


def test_a_region_across_180_degrees_asks_within_the_world():
    grid = web_mercator_grid((179.9, 10.0, -179.9, 10.1), 12, 4096)
    found = [float(box["BBOX"].split(",")[0]) for box, _ in requests(source(tile_px=512), grid, 12)]
    assert min(found) < -20030000 and max(found) < 20037508
    with pytest.raises(DataError, match=r"across 180 degrees needs a tile_px that is a power of two"):
        source(tile_px=500).layout("a", grid, 12)


def test_whatever_changes_an_image_is_another_cache(grid_at):
    grid = grid_at("EPSG:25832", 476000.2, 5550000.4, 0.2)
    changes = [
        {},
        {"layers": "cir"},
        {"styles": "grey"},
        {"format": "image/png"},
        {"transparent": True},
        {"version": "1.1.1"},
        {"tile_px": 512},
        {"params": {"TIME": "2020"}},
        {"axis_order": "yx"},
    ]
    keys = [source(**change).layout("a", grid, None).key for change in changes]
    assert len(set(keys)) == len(keys)
    assert source(connections=3).layout("a", grid, None).key == keys[0]


def test_numbers_have_no_exponent_and_the_url_stays_readable(grid_at):
    grid = grid_at("EPSG:4326", -1e-3, 1e-3, 1e-5, width=200, height=200)
    wms = source(url="https://h/wms?map=/a.map", layers="a b,c", params={"key": "${KEY}&"})
    layout = wms.layout("a", grid, None)
    url = wms.address(next(iter(layout.tiles(grid.shards()[0]))), layout, grid)
    assert url == (
        "https://h/wms?map=/a.map&SERVICE=WMS&REQUEST=GetMap&VERSION=1.3.0&LAYERS=a%20b,c&STYLES=&CRS=EPSG:4326"
        "&WIDTH=256&HEIGHT=256&FORMAT=image/jpeg&TRANSPARENT=FALSE&key=${KEY}%26&BBOX=0,-0.00256,0.00256,0"
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "https://h/wms?SERVICE=WMS&REQUEST=GetCapabilities"}, r"has the parameter SERVICE"),
        ({"url": "https://h/wms?bbox=1"}, r"has the parameter bbox"),
        ({"params": {"Layers": "b"}}, r"params\.Layers: is written for each image"),
        ({"layers": ""}, r"at least 1 character"),
        ({"version": "1.0.0"}, r"'1.1.1' or '1.3.0'"),
        ({"tile_px": 8192}, r"less than or equal to 4096"),
        ({"url": "http://{host}/", "serve": "data"}, r"`serve` is for folders of x/y/z tiles"),
        ({"url": "https://h/{z}"}, r"unknown placeholder \{z\}"),
    ],
)
def test_a_wrong_setting_is_one_line(settings, words):
    with pytest.raises(ValidationError, match=words):
        source(**settings)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            b'<?xml version="1.0"?><ServiceExceptionReport version="1.3.0"><ServiceException code="LayerNotDefined">'
            b"\n no such layer &lt;dop&gt;\n</ServiceException></ServiceExceptionReport>",
            "LayerNotDefined: no such layer <dop>",
        ),
        (
            b"\xef\xbb\xbf<ServiceExceptionReport><ServiceException><![CDATA[ a & b ]]></ServiceException></S>",
            "a & b",
        ),
        (
            b'<ows:ExceptionReport><ows:Exception exceptionCode="TileOutOfRange"><ows:ExceptionText>row 9'
            b"</ows:ExceptionText></ows:Exception></ows:ExceptionReport>",
            "TileOutOfRange: row 9",
        ),
        (b"<ServiceExceptionReport/>", "a service exception without a text"),
        (b"<html>busy</html>", None),
        (b"\xff\xd8\xff ServiceException", None),
        (b"", None),
    ],
)
def test_the_words_of_an_exception(body, words):
    assert source().refusal(body, "text/xml") == words


@pytest.mark.parametrize(("crs", "resolution"), [("EPSG:4326", 1e-4), ("EPSG:3857", 10.0)])
def test_no_image_is_asked_for_beyond_180_degrees(crs, resolution):
    """Servers would render nothing there, and say so nowhere."""
    across = crs_grid((179.99, -17.0, -179.99, -16.98), crs, resolution, 8192)
    with pytest.raises(DataError, match=r"imagery 'dop': a region across 180 degrees needs grid: \{zoom: …\}"):
        source().layout("dop", across, None)
    source().layout("dop", crs_grid((179.9, -17.0, 180.0, -16.98), crs, resolution, 8192), None)


@pytest.mark.parametrize(
    ("resolution", "zoom"), [(0.2, None), (1.0, None), (2.0, None), (0.1, 20), (4.0, 15), (1e-4, 30)]
)
def test_zooms_hold_for_other_grids_by_their_pixels_on_the_ground(resolution, zoom):
    """Hessen's orthophotos: 20 cm, shown up to 1:9000."""
    wms, grid = source(min_zoom=16, max_zoom=19), crs_grid((8.6, 50.1, 8.601, 50.101), "EPSG:25832", resolution, 8192)
    if zoom is None:
        wms.layout("dop", grid, None)
        return
    with pytest.raises(
        DataError, match=rf"those of zoom {zoom} here, .* \(16 to 19\); .* imagery\.dop another min_zoom"
    ):
        wms.layout("dop", grid, None)
    source().layout("dop", grid, None)
