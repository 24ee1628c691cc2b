"""STAC items: searches, pages, assets, and the pixels that come of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from pydantic import ValidationError

from pipeline.acquire.http import Policy
from pipeline.acquire.imagery import download_imagery
from pipeline.errors import DataError, DownloadError
from pipeline.grid import web_mercator_grid
from pipeline.sources.stac import Source
from tests.support.ranges import RangeServer
from tests.support.rasters import write

BOX = (10.0, 49.0, 10.1, 49.1)


def item(name, box=BOX, when="2023-06-01T10:00:00Z", assets=None, **properties):
    return {
        "type": "Feature",
        "id": name,
        "collection": "c",
        "bbox": list(box),
        "properties": {"datetime": when, **properties},
        "assets": {"visual": {"href": f"./{name}.tif"}} if assets is None else assets,
        "links": [{"rel": "self", "href": f"https://data.example/items/{name}.json"}],
    }


def page(*items, following=None):
    links = [] if following is None else [{"rel": "next", **following}]
    return {"type": "FeatureCollection", "features": list(items), "links": links}


def found(answers, bbox=BOX, **config):
    """The places that a source finds, and the (url, body) that it asked for; `answers` in their order."""
    asked, left = [], iter(answers)

    def get_json(url, body):
        asked.append((url, body))
        return next(left)

    given = {"kind": "stac", "url": "https://api.example/search", "collections": ["c"], "assets": ["visual"], **config}
    return [file.places for file in Source(**given).files(bbox, get_json)], asked


def names(files):
    return ["+".join(place.rpartition("/")[2] for place in places) for places in files]


def test_a_search_says_what_is_wanted():
    files, asked = found(
        [page(item("a"))], datetime="2023-05-01/2023-09-30", max_cloud=10, query={"platform": {"eq": "x"}}
    )
    assert files == [("https://data.example/items/a.tif",)]
    query = {"platform": {"eq": "x"}, "eo:cloud_cover": {"lte": 10.0}}
    span = "2023-05-01T00:00:00Z/2023-09-30T23:59:59Z"
    body = {"collections": ["c"], "bbox": list(BOX), "limit": 100, "datetime": span, "query": query}
    assert asked == [("https://api.example/search", body)]


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("2023-05-01", "2023-05-01T00:00:00Z/2023-05-01T23:59:59Z"),
        ("2023-05-01T10:00:00Z", "2023-05-01T10:00:00Z"),
        ("2023-05-01/..", "2023-05-01T00:00:00Z/.."),
        ("../2023-05-01", "../2023-05-01T23:59:59Z"),
    ],
)
def test_days_are_whole_days(text, span):
    assert found([page(item("a"))], datetime=text)[1][0][1]["datetime"] == span


def test_pages_are_followed_by_get_and_by_post():
    answers = [
        page(item("a"), following={"href": "/search", "method": "POST", "body": {"token": "t2"}, "merge": True}),
        page(item("b"), following={"href": "https://api.example/search", "method": "POST", "body": {"token": "t3"}}),
        page(item("c"), item("a"), following={"href": "more?page=4"}),
        page(item("d")),
    ]
    files, asked = found(answers)
    assert names(files) == ["a.tif", "b.tif", "c.tif", "d.tif"]
    first = asked[0][1]
    assert asked[1:] == [
        ("https://api.example/search", {**first, "token": "t2"}),
        ("https://api.example/search", {"token": "t3"}),
        ("https://api.example/more?page=4", None),
    ]


def test_pages_in_a_circle_end():
    loop = page(item("a"), following={"href": "https://api.example/search?page=2"})
    with pytest.raises(DataError, match=r"STAC https://api\.example/search: its pages go round in a circle"):
        found([loop] * 5)


def test_the_order_is_the_configs_and_never_the_servers():
    items = [
        item("b", when="2023-06-01T10:00:00Z", **{"eo:cloud_cover": 5}),
        item("d", when="2023-07-01T10:00:00.123Z", **{"eo:cloud_cover": 9}),
        item("a", when="2023-06-01T12:00:00+02:00", **{"eo:cloud_cover": 5}),
        item("c", when=None, **{"start_datetime": "2022-01-01T00:00:00Z"}),
    ]
    for shuffled in (items, items[::-1]):
        assert names(found([page(*shuffled)])[0]) == ["d.tif", "a.tif", "b.tif", "c.tif"]
        assert names(found([page(*shuffled)], order="oldest")[0]) == ["c.tif", "a.tif", "b.tif", "d.tif"]
        assert names(found([page(*shuffled)], order="least_cloud")[0]) == ["a.tif", "b.tif", "d.tif", "c.tif"]
    assert names(found([page(*items)], max_cloud=6)[0]) == ["a.tif", "b.tif", "c.tif"]


def test_items_outside_of_the_region_are_left_out():
    away = item("away", (11, 49, 11.1, 49.1))
    high = item("high", (10.05, 49.05, 100, 11, 49.2, 900))  # six numbers: heights too
    assert names(found([page(item("a"), away, high)])[0]) == ["a.tif", "high.tif"]
    with pytest.raises(DataError, match=r"no item touches the region \[10\.0, 49\.0, 10\.1, 49\.1\]; check the bbox"):
        found([page(away)])


@pytest.mark.parametrize("bbox", [(179.0, -17.0, -179.0, -16.0), (179.0, -17.0, 181.0, -16.0)])
def test_a_region_across_180_degrees_is_searched_on_both_sides(bbox):
    items = [
        item("w", (178, -17, 179.5, -16)),
        item("e", (-179.5, -17, -178, -16)),
        item("x", (179.9, -17, -179.9, -16)),
    ]
    away = item("away", (10, -17, 11, -16))
    files, asked = found([page(items[0], away), page(items[1], items[2])], bbox)
    assert names(files) == ["e.tif", "w.tif", "x.tif"]
    assert [body["bbox"] for _, body in asked] == [[179.0, -17.0, 180.0, -16.0], [-180.0, -17.0, -179.0, -16.0]]


def test_assets_are_stacked_in_the_order_asked_for():
    bands = {"B04": {"href": "r.tif"}, "B03": {"href": "g.tif"}, "B08": {"href": "https://other.example/n.tif"}}
    less = {"B04": {"href": "r.tif"}}
    files, _ = found([page(item("a", assets=bands), item("b", assets=less))], assets=["B08", "B04"])
    assert files == [("https://other.example/n.tif", "https://data.example/items/r.tif")]
    with pytest.raises(DataError, match=r"none of 1 items has the assets B11; they have B03, B04, B08"):
        found([page(item("a", assets=bands))], assets=["B11"])


def test_an_assets_name_may_be_a_pattern():
    both = {"map_2021_0.1_2056.tif": {"href": "fine.tif"}, "map_2021_2_2056.tif": {"href": "coarse.tif"}}
    assert names(found([page(item("a", assets=both))], assets=["*_0.1_2056.tif"])[0]) == ["fine.tif"]
    with pytest.raises(
        DataError, match=r"item 'a': '\*\.tif' stands for map_2021_0\.1_2056\.tif, map_2021_2_2056\.tif"
    ):
        found([page(item("a", assets=both))], assets=["*.tif"])


def test_an_https_alternate_is_taken_and_nothing_else_is_asked():
    s3 = {"href": "s3://bucket/a.tif", "alternate": {"https": {"href": "https://bucket.example/a.tif"}}}
    assert found([page(item("a", assets={"visual": s3}))])[0] == [("https://bucket.example/a.tif",)]
    for href in ("s3://bucket/a.tif", "file:///etc/passwd"):
        with pytest.raises(DataError, match=rf"asset 'visual' of item 'a' lies at {href}, which is not http\(s\)"):
            found([page(item("a", assets={"visual": {"href": href}}))])


def test_a_servers_address_cannot_ask_for_the_environment():
    with pytest.raises(DataError, match="an address with"):
        found([page(item("a", assets={"visual": {"href": "https://evil.example/?q=${HOME}"}}))])
    with pytest.raises(DataError, match="an address with"):
        found([page(item("a"), following={"href": "https://evil.example/${HOME}"}), page()])


def test_a_token_is_added_to_assets():
    plain = {"visual": {"href": "a.tif"}}
    asked = {"visual": {"href": "a.tif?v=1"}}
    items = page(item("a", assets=plain), item("b", assets=asked))
    assert names(found([items], asset_query="?${SAS}")[0]) == ["a.tif?${SAS}", "a.tif?v=1&${SAS}"]


def test_an_item_and_a_list_of_items_need_no_search():
    alone = {"url": "https://data.example/x/item.json", "collections": None}
    assert names(found([item("a")], **alone)[0]) == ["a.tif"]
    assert names(found([page(item("a"), item("b"))], **alone)[0]) == ["a.tif", "b.tif"]
    without = {key: value for key, value in item("a").items() if key not in ("links", "bbox", "properties")}
    assert found([without], **alone)[0] == [("https://data.example/x/a.tif",)]
    for answer, kind in (
        ({"type": "Catalog"}, "Catalog"),
        ([1], "no STAC at all"),
        ({"type": "FeatureCollection"}, "F"),
    ):
        with pytest.raises(DataError, match=rf"is no item and no page of items but {kind}"):
            found([answer], **alone)


def test_more_items_than_meant_are_one_line():
    with pytest.raises(DataError, match=r"more than 3 items touch the region; narrow"):
        found([page(*(item(f"a{number}") for number in range(4)))], max_items=3)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"url": "ftp://x/search"}, "must start with http"),
        ({"collections": None, "datetime": "2023"}, "datetime belongs to a search"),
        ({"assets": []}, "at least 1 item"),
    ],
)
def test_bad_config(config, text):
    with pytest.raises(ValidationError, match=text):
        found([], **config)


# --- to the pixels -----------------------------------------------------------------------------------------------


@pytest.fixture
def catalogue(tmp_path, monkeypatch):
    """A search with two pages; two items of three single-band files each, in two UTM zones."""
    monkeypatch.setattr("pipeline.acquire.windowed.Policy", lambda **given: Policy(**given | {"backoff_s": 0.002}))
    server = RangeServer()
    items = []
    for epsg, left, box in ((32631, 735_000, (5.98, 45.08, 6.02, 45.12)), (32632, 264_000, (5.98, 45.08, 6.05, 45.12))):
        assets = {}
        for band in ("red", "green", "nir"):
            pixels = np.random.default_rng([epsg, len(band)]).integers(1, 4000, (1, 300, 300), dtype=np.uint16)
            place = Affine(10, 0, left, 0, -10, 5_000_000)
            server.files[f"/{epsg}/{band}.tif"] = write(tmp_path / f"{epsg}{band}.tif", pixels, f"EPSG:{epsg}", place)
            assets[band] = {"href": f"../{epsg}/{band}.tif"}
        items.append({**item(str(epsg), box, assets=assets), "links": []})
    server.items = items

    def respond(asked):
        if asked.path != "/api/search":
            return None
        first = b"token" not in asked.body
        following = {"href": "/api/search", "method": "POST", "body": {"token": 2}, "merge": True} if first else None
        return (
            200,
            {"Content-Type": "application/json"},
            json.dumps(page(items[not first], following=following)).encode(),
        )

    server.respond = respond
    with server.running():
        yield server


def shard_of(folder, source, grid, log, shard=None):
    shard = shard or grid.shards()[0]
    out = folder / f"{shard.name}.out.tif"
    arguments = (grid, shard, folder / "cache" / "region", out, folder / "manifest.json")
    manifest = download_imagery("sat", source, *arguments, zoom=None, log=log)
    with rasterio.open(out) as raster:
        return manifest, raster.read(), raster.read_masks(1)


def test_items_of_two_zones_become_one_picture(catalogue, tmp_path, log):
    source = Source(
        kind="stac",
        url=catalogue.url("/api/search"),
        collections=["c"],
        assets=["nir", "red"],
        headers={"X-Key": "typed"},
    )
    grid = web_mercator_grid((5.99, 45.085, 6.03, 45.11), 13, 65536)
    manifest, found, mask = shard_of(tmp_path, source, grid, log)
    assert manifest["bands"] == 2 and manifest["dtype"] == "uint16" and manifest["files"]["requested"] == 4
    parts = []
    for epsg in (32631, 32632):
        bands = []
        for band in ("nir", "red"):
            with (
                rasterio.open(tmp_path / f"{epsg}{band}.tif") as local,
                rasterio.vrt.WarpedVRT(
                    local,
                    crs="EPSG:3857",
                    transform=Affine(*grid.transform()),
                    width=grid.width,
                    height=grid.height,
                    resampling=rasterio.enums.Resampling.bilinear,
                    add_alpha=True,
                    XSCALE=str(10 / grid.gsd_m),
                    YSCALE=str(10 / grid.gsd_m),
                ) as seen,
            ):
                bands.append(seen.read())
        parts.append((np.stack([bands[0][0], bands[1][0]]), bands[0][1] > 0))
    want = np.where(parts[0][1], parts[0][0], np.where(parts[1][1], parts[1][0], 0))
    assert parts[0][1].any() and (parts[1][1] & ~parts[0][1]).any()
    assert np.abs(found.astype(int) - want).max() < 0.01 * want.max()
    assert np.array_equal(mask > 0, parts[0][1] | parts[1][1])
    assert sum(asked.path == "/api/search" for asked in catalogue.asked) == 2
    count = len(catalogue.asked)
    small = web_mercator_grid((5.99, 45.085, 6.03, 45.11), 13, 256)
    for shard in small.shards():
        shard_of(tmp_path, source, small, log, shard)
    assert len(catalogue.asked) == count  # the search and the blocks are in the cache


def test_a_search_with_a_signed_answer_is_not_kept(catalogue, tmp_path, log, everything_below):
    for entry in catalogue.items:
        for asset in entry["assets"].values():
            asset["href"] += "?sig=abc123signed"
    source = Source(kind="stac", url=catalogue.url("/api/search"), collections=["c"], assets=["red"])
    grid = web_mercator_grid((5.99, 45.085, 6.03, 45.11), 13, 65536)
    shard_of(tmp_path, source, grid, log)
    assert any("sig=abc123signed" in asked.path for asked in catalogue.asked)
    assert b"abc123signed" not in everything_below(tmp_path) and "abc123signed" not in "".join(log.lines)
    assert not list(tmp_path.rglob("files-*.json"))


def test_headers_stay_with_the_catalogue(catalogue, tmp_path, log):
    with RangeServer(dict(catalogue.files)).running() as other:
        for entry in catalogue.items:
            for asset in entry["assets"].values():
                asset["href"] = other.url(asset["href"].removeprefix(".."))
        source = Source(
            kind="stac", url=catalogue.url("/api/search"), collections=["c"], assets=["red"], headers={"X-Key": "typed"}
        )
        shard_of(tmp_path, source, web_mercator_grid((5.99, 45.085, 6.03, 45.11), 13, 65536), log)
        assert all(asked.headers.get("x-key") == "typed" for asked in catalogue.asked)
        assert other.asked and not any("x-key" in asked.headers for asked in other.asked)


def test_what_is_wrong_is_one_line(catalogue, tmp_path, log):
    grid = web_mercator_grid((5.99, 45.085, 6.03, 45.11), 13, 65536)
    given = {"kind": "stac", "url": catalogue.url("/api/search"), "collections": ["c"]}
    del catalogue.files["/32631/red.tif"]
    with pytest.raises(
        DownloadError, match=r"1 of 2 files are not on the server, e\.g\. \S+/32631/red\.tif, above max_m"
    ):
        shard_of(tmp_path, Source(assets=["red"], **given), grid, log)
    with pytest.raises(DataError, match="none of 2 items has the assets blue; they have green, nir, red"):
        shard_of(tmp_path, Source(assets=["blue"], **given), grid, log)
    catalogue.respond = lambda asked: (401, {}, b"")
    with pytest.raises(DownloadError, match=r"/api/search: the server answered HTTP 401; check the key or token"):
        shard_of(tmp_path, Source(assets=["green"], **given), grid, log)
    assert not list(tmp_path.glob("*out*"))


def test_a_shard_without_any_item_is_empty(catalogue, tmp_path, log):
    source = Source(kind="stac", url=catalogue.url("/api/search"), collections=["c"], assets=["red"])
    grid = web_mercator_grid((5.99, 45.085, 6.4, 45.11), 13, 256)
    manifest, found, mask = shard_of(tmp_path, source, grid, log, grid.shards()[-1])
    assert manifest["share_missing"] == 1 and not mask.any() and not found.any() and manifest["dtype"] == "uint16"
    assert (tmp_path / "manifest_tiles.csv").read_text().splitlines() == ["file,status,reason,bytes,sha256,date,etag"]
