"""x/y/z and quadkey tiles: their names, their place, what is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipeline.errors import DataError
from pipeline.grid import mercator_lonlat, web_mercator_grid
from pipeline.sources.quadkey import Source as Quadkey
from pipeline.sources.quadkey import quadkey
from pipeline.sources.xyz import Source as Xyz


def region(zoom, x0, y0, nx=3, ny=2, inset=20):
    """The grid of `nx` by `ny` 256 px tiles of `zoom` from (x0, y0) on, smaller by `inset` pixels on every side."""
    west, north = mercator_lonlat(x0 * 256 + inset, y0 * 256 + inset, zoom)
    east, south = mercator_lonlat((x0 + nx) * 256 - inset, (y0 + ny) * 256 - inset, zoom)
    return web_mercator_grid((west, south, east, north), zoom, 4096)


def addresses(source, grid, zoom):
    layout = source.layout("a", grid, zoom)
    return [source.address(tile, layout, grid) for tile in layout.tiles(grid.shards()[0])]


@pytest.mark.parametrize(
    ("x", "y", "zoom", "expected"),
    [  # Microsoft, "Bing Maps Tile System": the example in the text, and digits of the figure of level 1 to 3
        (3, 5, 3, "213"),
        (0, 0, 1, "0"),
        (1, 0, 1, "1"),
        (0, 1, 1, "2"),
        (1, 1, 1, "3"),
        (3, 0, 2, "11"),
        (0, 3, 2, "22"),
        (7, 7, 3, "333"),
        (4, 3, 3, "122"),
    ],
)
def test_quadkeys_are_the_published_ones(x, y, zoom, expected):
    assert quadkey(zoom, x, y) == expected


def test_a_quadkey_is_the_path_of_quarters():
    """Independently: walk from the world to the tile, a quarter at a time."""
    zoom, x, y = 17, 68696, 44390
    digits, size = "", 2**zoom
    left = top = 0
    for _ in range(zoom):
        size //= 2
        east, south = x >= left + size, y >= top + size
        left, top = left + size * east, top + size * south
        digits += {(0, 0): "0", (1, 0): "1", (0, 1): "2", (1, 1): "3"}[(east, south)]
    assert quadkey(zoom, x, y) == digits


def test_quadkey_addresses_take_turns_among_subdomains():
    source = Quadkey(kind="quadkey", url="https://t{s}.h/a{quadkey}.jpeg?g=1", subdomains=["0", "1", "2", "3"])
    found = addresses(source, region(3, 2, 4, nx=2, ny=2), 3)
    assert found == [
        "https://t2.h/a210.jpeg?g=1",
        "https://t3.h/a211.jpeg?g=1",
        "https://t3.h/a212.jpeg?g=1",
        "https://t0.h/a213.jpeg?g=1",
    ]


def test_tms_rows_count_from_the_south():
    source = Xyz(kind="xyz", url="https://h/{z}/{x}/{-y}.png")
    grid = region(16, 35000, 22000)
    # a TMS row's southern edge is row · tile above the world's southern edge; the grid's top edge lies in the first row
    tile_m = 2 * 20037508.342789244 / 2**16
    first = int((grid.top + 20037508.342789244) // tile_m)
    found = addresses(source, grid, 16)
    assert found[0] == f"https://h/16/35000/{first}.png"
    assert [url.rpartition("/")[2] for url in found] == [f"{first}.png"] * 3 + [f"{first - 1}.png"] * 3


def test_tiles_of_512_px_are_one_zoom_below_their_pixels():
    source = Xyz(kind="xyz", url="https://h/{z}/{x}/{y}@2x.png", tile_px=512, max_zoom=15)
    grid = region(16, 35001, 22000, nx=3, ny=2, inset=0)
    layout = source.layout("a", grid, 16)
    assert (layout.zoom, layout.tile_px) == (15, 512)
    places = layout.tiles(grid.shards()[0])
    assert places == {(15, 17500, 11000): (0, -256), (15, 17501, 11000): (0, 256)}
    assert source.address((15, 17500, 11000), layout, grid) == "https://h/15/17500/11000@2x.png"


def test_the_zooms_of_a_source_are_those_of_its_tiles():
    grid = region(16, 35000, 22000)
    with pytest.raises(DataError, match=r"imagery 'a': zoom 15 is not one of the source's \(0 to 14\)"):
        Xyz(kind="xyz", url="https://h/{z}/{x}/{y}", tile_px=512, max_zoom=14).layout("a", grid, 16)
    with pytest.raises(DataError, match=r"zoom 16 is not one of the source's \(17 to 19\)"):
        Quadkey(kind="quadkey", url="https://h/{quadkey}", min_zoom=17, max_zoom=19).layout("a", grid, 16)


def test_values_of_a_template_tell_caches_apart():
    url = "https://tiles/{image}/{z}/{x}/{y}"
    sources = [Xyz(kind="xyz", url=url, values={"image": image}) for image in ("a/0/b", "c/0/d")]
    grid = region(16, 35000, 22000)
    keys = {source.layout("a", grid, 16).key for source in sources}
    assert len(keys) == 2 and "" not in keys
    assert addresses(sources[0], grid, 16)[0] == "https://tiles/a/0/b/16/35000/22000"
    assert Xyz(kind="xyz", url="https://h/{z}/{x}/{y}").layout("a", grid, 16).key == ""


def test_keys_and_the_host_are_left_as_they_are():
    source = Xyz(kind="xyz", url="https://h/{z}/{x}/{y}?key=${z}&k=${KEY}")
    assert addresses(source, region(3, 2, 4), 3)[0] == "https://h/3/2/4?key=${z}&k=${KEY}"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "https://h/{z}/{x}.png"}, r"lacks \{y\} or \{-y\}"),
        ({"url": "https://h/{x}/{y}.png"}, r"lacks \{z\}"),
        ({"url": "https://h/{z}/{x}/{y}/{style}.png"}, r"unknown placeholder \{style\} .*values: \{style: …\}"),
        ({"url": "https://h/{z}/{x}/{y}/{}.png"}, r"unknown placeholder \{\} "),
        ({"url": "https://h/{z}/{x}/{y}", "values": {"image": "a"}}, r"values\.image: the url .* has no \{image\}"),
        ({"url": "https://{s}.h/{z}/{x}/{y}"}, r"\{s\} in the url and `subdomains` go together"),
        ({"url": "https://h/{z}/{x}/{y}", "min_zoom": 9, "max_zoom": 8}, r"min_zoom 9 is above max_zoom 8"),
        ({"url": "https://h/{z}/{x}/{y}", "tile_px": 300}, r"256, 512 or 1024"),
        ({"url": "ftp://h/{z}/{x}/{y}"}, r"must start with http:// or https://"),
    ],
)
def test_a_wrong_template_is_one_line(settings, words):
    with pytest.raises(ValidationError, match=words):
        Xyz(kind="xyz", **settings)


def test_a_key_pasted_into_a_url_is_in_no_message():
    with pytest.raises(ValidationError) as caught:
        Xyz(kind="xyz", url="https://me:geheim@h/{x}/{y}?key=topsecret")
    message = caught.value.errors(include_url=False)[0]["msg"]
    assert "https://***@h/{x}/{y}" in message and "topsecret" not in message and "geheim" not in message
