"""The shipped entries: complete, off where their terms ask for it, and asking exactly what the provider documents.

Each golden url was put together by hand from the documentation that the entry names: the address and the parameters as
they stand there, the tile's numbers by the formula of x/y/z tiles, boxes from −20037508.342789244 + x · tile on.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline import config as module
from pipeline.config import load_region
from pipeline.errors import ConfigError
from pipeline.grid import mercator_lonlat
from pipeline.sources._base import TiledSource

PROJECT = Path(__file__).resolve().parents[3]
ENTRIES = sorted(path.stem for path in (PROJECT / "config/providers/imagery").glob("*.yaml"))
RESTRICTED = {"bing", "google", "sentinel2_cloudless"}
OAM = "5ac626e091b5310010e0d482/0/5ac626e091b5310010e0d483"
SCENES = "sentinel2_l2a"  # found by a search and read by window: any zoom, and no golden url
EXTRA = {"openaerialmap": f", values: {{image: {OAM}}}"}

# provider: zoom, a tile of it (x, y), the request
GOLDEN = {
    "basemap_at": (  # Vienna
        *(17, 71497, 45449),
        "https://mapsneu.wien.gv.at/basemap/bmaporthofoto30cm/normal/google3857/17/45449/71497.jpeg",
    ),
    "bing": (17, 68696, 44390, "https://ecn.t2.tiles.virtualearth.net/tiles/a12020330203211220.jpeg?g=1"),
    "google": (17, 68696, 44390, "https://mt2.google.com/vt/lyrs=s&x=68696&y=44390&z=17"),
    "hessen_dop20": (  # Frankfurt; 1024 px of zoom 17 are tile 17174, 11097 of zoom 15, 1222.992452562495 m wide
        *(17, 68696, 44390),
        "https://www.gds-srv.hessen.de/cgi-bin/lika-services/ogc-free-images.ows?SERVICE=WMS&REQUEST=GetMap"
        "&VERSION=1.3.0&LAYERS=he_dop20_rgb&STYLES=default&CRS=EPSG:3857&WIDTH=1024&HEIGHT=1024&FORMAT=image/jpeg"
        "&TRANSPARENT=FALSE&BBOX=966164.037525,6464738.104247,967387.029977,6465961.0967",
    ),
    "ign_ortho": (  # Paris
        *(17, 66371, 45091),
        "https://data.geopf.fr/wmts?SERVICE=WMTS&REQUEST=GetTile&VERSION=1.0.0&LAYER=ORTHOIMAGERY.ORTHOPHOTOS"
        "&STYLE=normal&FORMAT=image/jpeg&TILEMATRIXSET=PM&TILEMATRIX=17&TILEROW=45091&TILECOL=66371",
    ),
    "nrw_dop": (  # Cologne; tile 17017, 10978 of zoom 15
        *(17, 68069, 43914),
        "https://www.wms.nrw.de/geobasis/wms_nw_dop?SERVICE=WMS&REQUEST=GetMap&VERSION=1.3.0&LAYERS=nw_dop_rgb&STYLES="
        "&CRS=EPSG:3857&WIDTH=1024&HEIGHT=1024&FORMAT=image/jpeg&TRANSPARENT=FALSE"
        "&BBOX=774154.222472,6610274.206102,775377.214925,6611497.198555",
    ),
    "openaerialmap": (20, 638702, 541965, f"https://tiles.openaerialmap.org/{OAM}/20/638702/541965"),
    "sentinel2_cloudless": (
        *(14, 8587, 5548),
        "https://tiles.maps.eox.at/wmts/1.0.0/s2cloudless-2024_3857/default/GoogleMapsCompatible/14/5548/8587.jpg",
    ),
    "usgs_imagery": (  # Washington
        *(16, 18744, 25070),
        "https://basemap.nationalmap.gov/arcgis/rest/services/USGSImageryOnly/MapServer/tile/16/25070/18744",
    ),
}


@pytest.fixture(params=[name for name in ENTRIES if name != SCENES])
def entry(request):
    return request.param


def region(tmp_path, name, zoom, x, y, extra=""):
    """The smallest region that uses entry `name`: a few pixels within tile (x, y)."""
    shutil.copytree(PROJECT / "config", tmp_path / "config")
    west, north = mercator_lonlat(x * 256 + 100, y * 256 + 100, zoom)
    east, south = mercator_lonlat(x * 256 + 120, y * 256 + 120, zoom)
    (tmp_path / "config/regions/here.yaml").write_text(
        f"bbox: [{west}, {south}, {east}, {north}]\ngrid: {{zoom: {zoom}}}\nclasses: frankfurt\n"
        f"imagery:\n  it: {{provider: {name}{EXTRA.get(name, '') if extra == '' else extra}}}\n"
    )
    module._load.cache_clear()
    return load_region("here", tmp_path / "config")


def test_every_entry_has_a_golden_url():
    assert sorted([*GOLDEN, SCENES]) == ENTRIES


def test_the_first_request_is_what_the_provider_documents(entry, tmp_path):
    zoom, x, y, url = GOLDEN[entry]
    found = region(tmp_path, entry, zoom, x, y)
    grid, source = found.static_grid(), found.imagery["it"]
    layout = source.layout("it", grid, zoom)
    (tile,) = layout.tiles(grid.shards()[0])
    assert source.address(tile, layout, grid) == url


def test_an_entry_says_whose_it_is_and_how_to_ask(entry, tmp_path):
    zoom, x, y, _ = GOLDEN[entry]
    source = region(tmp_path, entry, zoom, x, y).imagery["it"]
    assert isinstance(source, TiledSource)
    assert source.attribution and source.terms.startswith("https://")
    assert source.rate_per_s is not None and source.rate_per_s <= 10 and source.connections <= 4
    assert 0 <= source.min_zoom <= zoom <= source.max_zoom < 23, "its zooms, not the default"
    assert "$" not in source.url, "no shipped entry needs a key"
    text = (PROJECT / f"config/providers/imagery/{entry}.yaml").read_text()
    assert text.startswith("# ") and "Ours:" in text, "which facts are the provider's, and which are not"


def test_restricted_entries_are_off_until_their_terms_are_accepted(entry, tmp_path):
    zoom, x, y, _ = GOLDEN[entry]
    source = region(tmp_path, entry, zoom, x, y).imagery["it"]
    line = source.off("it")
    assert (line is not None) == (entry in RESTRICTED)
    if line is not None:
        assert source.terms in line and "accept_terms: true" in line
        accepted = region(tmp_path / "accepted", entry, zoom, x, y, extra=", accept_terms: true").imagery["it"]
        assert accepted.off("it") is None


def test_a_zoom_that_a_provider_has_not_is_one_line(entry, tmp_path):
    _, x, y, _ = GOLDEN[entry]
    zoom = GOLDEN[entry][0]
    low = 23 - zoom
    with pytest.raises(ConfigError, match=r"imagery\.it: zoom 23 is not one of the source's \(\d+ to \d+\)") as caught:
        region(tmp_path, entry, 23, x << low, y << low)
    assert "\n" not in str(caught.value)


def test_scenes_of_sentinel_2_are_searched_as_the_catalogue_documents(tmp_path):
    """The body of a STAC API's search: collections, bbox, datetime, the query extension."""
    source = region(tmp_path, SCENES, 12, 2146, 1387).imagery["it"]
    assert source.attribution and source.terms.startswith("https://") and source.off("it") is None
    assert source.rate_per_s <= 10 and source.connections <= 4
    asked = []

    def get_json(url, body):
        asked.append((url, body))
        asset = {"href": "https://example.org/TCI.tif"}
        item = {"type": "Feature", "id": "a", "bbox": [8, 50, 9, 51], "assets": {"visual": asset}}
        return {"type": "FeatureCollection", "features": [item]}

    assert [file.places for file in source.files((8.6, 50.1, 8.7, 50.2), get_json)] == [
        ("https://example.org/TCI.tif",)
    ]
    ((url, body),) = asked
    assert url == "https://earth-search.aws.element84.com/v1/search"
    assert body == {
        "collections": ["sentinel-2-l2a"],
        "bbox": [8.6, 50.1, 8.7, 50.2],
        "datetime": "2024-05-01T00:00:00Z/2024-09-30T23:59:59Z",
        "query": {"eo:cloud_cover": {"lte": 10}},
        "limit": 100,
    }


def test_an_image_of_openaerialmap_is_named_or_pasted_whole(tmp_path):
    zoom, x, y, url = GOLDEN["openaerialmap"]
    with pytest.raises(ConfigError, match=r"unknown placeholder \{image\} .*values: \{image: …\}"):
        region(tmp_path / "bare", "openaerialmap", zoom, x, y, extra=", connections: 2")
    pasted = f', url: "https://tiles.openaerialmap.org/{OAM}/{{z}}/{{x}}/{{y}}"'
    found = region(tmp_path / "pasted", "openaerialmap", zoom, x, y, extra=pasted)
    source, grid = found.imagery["it"], found.static_grid()
    assert source.address((zoom, x, y), source.layout("it", grid, zoom), grid) == url
    assert source.attribution
