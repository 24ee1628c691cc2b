"""What every kind of source promises, whatever its file: found by listing the folder."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from pipeline.config import RegionConfig
from pipeline.errors import DataError
from pipeline.grid import mercator_lonlat, web_mercator_grid
from pipeline.sources._base import SECRET, ImagerySource, TiledSource, WindowedSource
from pipeline.sources._kinds import kinds

ZOOM = 16
EXAMPLES = {  # the least that an entry of each tiled kind says
    "quadkey": {"url": "https://{s}.h/{quadkey}?k=${KEY}", "subdomains": ["a", "b"]},
    "wms": {"url": "https://h/wms?k=${KEY}", "layers": "a"},
    "wmts": {"url": "https://h/{TileMatrix}/{TileRow}/{TileCol}?k=${KEY}"},
    "xyz": {"url": "https://h/{z}/{x}/{y}?k=${KEY}"},
}
TILED = sorted(name for name, kind in kinds().items() if issubclass(kind, TiledSource))


def bbox(px=700):
    west, north = mercator_lonlat(35000 * 256 + 30, 22000 * 256 + 40, ZOOM)
    east, south = mercator_lonlat(35000 * 256 + 30 + px, 22000 * 256 + 40 + px, ZOOM)
    return west, south, east, north


@pytest.fixture(params=TILED)
def kind(request):
    return request.param


@pytest.fixture
def source(kind):
    return kinds()[kind](kind=kind, **EXAMPLES[kind])


@pytest.mark.parametrize("name", sorted(kinds()))
def test_a_kind_is_called_as_its_file_and_is_tiled_or_windowed(name):
    kind = kinds()[name]
    assert issubclass(kind, ImagerySource) and issubclass(kind, TiledSource | WindowedSource)
    assert kind.model_fields["kind"].annotation.__args__ == (name,)
    assert kind.__doc__ and sys.modules[kind.__module__].__doc__


def test_every_tiled_kind_has_an_example_here():
    assert list(EXAMPLES) == TILED


def test_tiles_cover_every_pixel_of_every_shard_once(source):
    grid = web_mercator_grid(bbox(), ZOOM, 300)
    layout = source.layout("a", grid, ZOOM)
    for shard in grid.shards():
        places = layout.tiles(shard)
        px = layout.tile_px
        assert len(set(places.values())) == len(places)
        rows, cols = sorted({row for row, _ in places.values()}), sorted({col for _, col in places.values()})
        assert rows == list(range(rows[0], shard.height, px)) and rows[0] <= 0
        assert cols == list(range(cols[0], shard.width, px)) and cols[0] <= 0
        assert len(places) == len(rows) * len(cols)


def test_a_tile_of_two_shards_has_one_name_and_one_address(source):
    small, large = web_mercator_grid(bbox(), ZOOM, 300), web_mercator_grid(bbox(), ZOOM, 4096)
    whole = source.layout("a", large, ZOOM)
    names = set(whole.tiles(large.shards()[0]))
    layout = source.layout("a", small, ZOOM)
    assert layout == whole
    for shard in small.shards():
        assert set(layout.tiles(shard)) <= names
    found = {source.address(tile, layout, small) for tile in names}
    assert len(found) == len(names), "each tile its own"


def test_addresses_keep_keys_and_have_no_placeholder_left(source):
    grid = web_mercator_grid(bbox(), ZOOM, 4096)
    layout = source.layout("a", grid, ZOOM)
    for tile in layout.tiles(grid.shards()[0]):
        address = source.address(tile, layout, grid)
        assert "${KEY}" in address and not re.findall(r"[{} ]", SECRET.sub("", address))
        assert address.startswith("https://")


def test_a_zoom_that_the_source_has_not_is_one_line(kind):
    grid = web_mercator_grid(bbox(), ZOOM, 4096)
    low = kinds()[kind](kind=kind, **EXAMPLES[kind], max_zoom=12)
    with pytest.raises(DataError, match=r"imagery 'a': zoom 16 is not one of the source's \(\d to 12\)"):
        low.layout("a", grid, ZOOM)
    words = rf"imagery\.a: zoom {ZOOM} is not one"
    with pytest.raises(ValueError, match=words):
        region = {"bbox": bbox(), "grid": {"zoom": ZOOM}, "classes": "c"}
        RegionConfig(**region, imagery={"a": {"kind": kind, **EXAMPLES[kind], "max_zoom": 12}})


def test_a_source_is_off_until_its_terms_are_accepted(kind):
    entry = {"kind": kind, **EXAMPLES[kind], "requires_terms": True, "terms": "https://terms"}
    line = kinds()[kind](**entry).off("a")
    assert "https://terms" in line and "accept_terms: true under imagery.a" in line and "\n" not in line
    assert kinds()[kind](**entry, accept_terms=True).off("a") is None


def test_kinds_are_light():
    """Reading them imports no GDAL, HTTP client, numpy or pyproj: a Snakefile does so on every command."""
    code = (
        "import sys; from pipeline.sources._kinds import kinds; kinds(); "
        "print([name for name in ('numpy', 'httpx', 'rasterio', 'pyproj', 'osgeo', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
