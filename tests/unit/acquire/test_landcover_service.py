"""Land cover of an ArcGIS feature service on loopback, against the same polygons in a file."""

from __future__ import annotations

import json

import geopandas
import numpy as np
import pytest
import rasterio
import shapely

from pipeline.acquire import arcgis
from pipeline.acquire.landcover import warp_landcover
from pipeline.command import Log
from pipeline.config import ClassScheme, LandcoverService, LandcoverVector
from pipeline.errors import DataError, DownloadError
from pipeline.grid import web_mercator_grid
from tests.support.feature_service import FakeService

SCHEME = ClassScheme.model_validate(
    {
        "classes": [
            {"index": 0, "name": "forest", "colour": (4, 135, 29)},
            {"index": 1, "name": "water", "colour": (0, 0, 9)},
        ]
    }
)
CLASSES = {311: "forest", "312": "forest", "512": "water"}
GRID = web_mercator_grid((8.0, 50.0, 8.02, 50.012), 14, 256)


def squares(count=60, seed=3):
    """(id, code, polygon) in the region; some have an island in a hole, one has no code, one is far away."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(1, count + 1):
        x, y, size = rng.uniform(7.9995, 8.019), rng.uniform(49.9995, 50.011), rng.uniform(0.001, 0.005)
        shape = shapely.box(x, y, x + size, y + size * 0.7)
        if number % 5 == 0:
            hole = shapely.box(x + size * 0.2, y + size * 0.2, x + size * 0.8, y + size * 0.5)
            shape = shape - hole | hole.buffer(-size * 0.1)
        found.append((number, str(rng.choice(["311", "312", "512"])), shape))
    found[7] = (8, None, found[7][2])
    found[9] = (10, "512", shapely.box(9.0, 50.0, 9.1, 50.1))
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(arcgis, "BACKOFF_S", 0.001)


def warp(tmp_path, config, name="cover", log=None):
    out, summary = tmp_path / name / "out.tif", tmp_path / name / "out.json"
    found = warp_landcover(name, config, SCHEME, GRID, tmp_path / "cache" / "region", out, summary, log=log or Log())
    with rasterio.open(out) as raster:
        return raster.read(1), found


def service_config(service, **settings):
    settings = {"url": service.url, "field": "code", "page_size": 7, "classes": CLASSES} | settings
    return LandcoverService.model_validate({"kind": "arcgis", **settings})


def from_file(tmp_path, features):
    """The same polygons by way of a file."""
    rows = [entry for entry in features if entry[2] is not None]
    columns = {"code": [code for _, code, _ in rows]}
    frame = geopandas.GeoDataFrame(columns, geometry=[shape for _, _, shape in rows], crs=4326)
    frame.to_file(tmp_path / "same.gpkg", layer="same")
    config = {"kind": "vector", "path": tmp_path / "same.gpkg", "field": "code", "classes": CLASSES}
    return warp(tmp_path, LandcoverVector.model_validate(config), "file")


@pytest.mark.parametrize("form", ["JSON, geoJSON, PBF", "JSON"])
def test_pages_equal_the_same_polygons_in_a_file(tmp_path, form):
    service = FakeService(squares(), {"supportedQueryFormats": form})
    with service.running():
        band, found = warp(tmp_path, service_config(service))
    expected, _ = from_file(tmp_path, service.features)
    np.testing.assert_array_equal(band, expected)
    assert 0.2 < (band == 255).mean() < 0.9 and set(np.unique(band)) == {0, 1, 255}
    assert found["read"]["features"] == 59 and found["read"]["without_value"] == 1
    assert found["read"]["pages"] == len(service.pages) == 9
    assert found["read"]["edited"] == "2020-09-13T12:26:40+00:00" and found["read"]["url"] == service.url
    assert {options["f"] for options in service.pages} == {"geojson" if "geo" in form else "json"}


def test_a_server_may_send_less_than_it_is_asked_for(tmp_path):
    service = FakeService(squares())
    service.spoil = lambda options, answer: (
        answer | {"features": answer["features"][:3], "exceededTransferLimit": True}
        if "resultOffset" in options
        else answer
    )
    with service.running():
        band, found = warp(tmp_path, service_config(service))
    np.testing.assert_array_equal(band, from_file(tmp_path, service.features)[0])
    assert found["read"]["features"] == 59


OLD = [{"supportsPagination": False}, {}, None]  # before ArcGIS 10.3


@pytest.mark.parametrize("capabilities", OLD)
def test_a_server_without_offsets_is_asked_by_ids(tmp_path, capabilities):
    """It sends what it likes first, and never more than 5."""
    features = [(7 * number, code, shape) for number, code, shape in squares()]
    shuffled = [features[place] for place in np.random.default_rng(1).permutation(len(features))]
    layer = {"advancedQueryCapabilities": capabilities, "maxRecordCount": 5, "supportedQueryFormats": "JSON"}
    service = FakeService(shuffled, layer)
    with service.running():
        band, found = warp(tmp_path, service_config(service, page_size=1000))
        asked = len(service.pages)
        again, _ = warp(tmp_path, service_config(service, page_size=1000))
    np.testing.assert_array_equal(band, from_file(tmp_path, features)[0])
    np.testing.assert_array_equal(again, band)
    assert found["read"]["features"] == 59 and found["read"]["pages"] == asked == len(service.pages) == 12


def test_a_kill_between_pages_by_ids_and_a_layer_that_changes(tmp_path):
    service = FakeService(squares(), {"advancedQueryCapabilities": None, "maxRecordCount": 10})
    service.server.fault = lambda asked, number: "reset" if "%3E%3D+32+" in asked.path else None
    with service.running():
        config = service_config(service, page_size=10, retries=0)
        with pytest.raises(DownloadError, match="failed after one try"):
            warp(tmp_path, config)
        had = [options["where"] for options in service.pages]
        service.server.fault = lambda asked, number: None
        band, _ = warp(tmp_path, config)
        later = [options["where"] for options in service.pages[len(had) :]]
        assert 1 <= len(later) < 6 and len({*had, *later}) == 6
        np.testing.assert_array_equal(band, from_file(tmp_path, service.features)[0])
        gone = [entry for entry in service.features if entry[0] != 33]
        service.spoil = lambda options, answer: (
            ("outFields" in options and setattr(service, "features", gone)) or answer
        )
        with pytest.raises(DownloadError, match="changed while it was read"):
            warp(tmp_path, service_config(service, page_size=9), "other")


def test_a_layer_has_a_longest_page(tmp_path):
    service = FakeService(squares(), {"maxRecordCount": 5})
    with service.running():
        warp(tmp_path, service_config(service, page_size=1000))
    assert {options["resultRecordCount"] for options in service.pages} == {"5", "4"}


def test_an_item_of_a_hub_names_the_service(tmp_path):
    service = FakeService(squares())
    with service.running():
        url = service.server.url("/sharing/rest/content/items/abc#4")
        band, _ = warp(tmp_path, service_config(service, url=url))
        with pytest.raises(DownloadError, match="the item names no service, or the url no layer"):
            warp(tmp_path, service_config(service, url=url.partition("#")[0]), "none")
    np.testing.assert_array_equal(band, from_file(tmp_path, service.features)[0])


def test_what_was_fetched_is_not_asked_for_again(tmp_path):
    """A job that dies between pages, then one that ends, then one without a server."""
    service = FakeService(squares())
    service.server.fault = lambda asked, number: "reset" if "resultOffset=35" in asked.path else None
    with service.running():
        config = service_config(service, retries=1)
        with pytest.raises(DownloadError, match=r"landcover 'cover'.*failed after 2 tries"):
            warp(tmp_path, config)
        had = {options["resultOffset"] for options in service.pages} - {"35"}
        assert len(had) >= 4
        service.server.fault = lambda asked, number: None
        asked = len(service.pages)
        band, _ = warp(tmp_path, config)
        later = [options["resultOffset"] for options in service.pages[asked:]]
        assert "35" in later and sorted([*had, *later], key=int) == [str(offset) for offset in range(0, 59, 7)]
    again, found = warp(tmp_path, config)
    np.testing.assert_array_equal(band, again)
    assert found["read"]["features"] == 59


def test_faults_on_the_way_lose_nothing(tmp_path):
    service = FakeService(squares())
    faults = ["429", "reset", "500", "truncated", None, None]
    service.server.fault = lambda asked, number: faults[number % len(faults)]
    busy = iter(range(100))
    service.spoil = lambda options, answer: (
        {"error": {"code": 503, "message": "busy"}} if next(busy) % 4 == 1 else answer
    )
    with service.running():
        band, _ = warp(tmp_path, service_config(service, retries=12))
    np.testing.assert_array_equal(band, from_file(tmp_path, service.features)[0])


def changing_count(options, answer):
    if options.get("returnCountOnly"):
        changing_count.asked += 1
        return {"count": answer["count"] + changing_count.asked - 1}
    return answer


def repeating(options, answer):
    if options.get("resultOffset") == "14":
        return answer | {"features": [answer["features"][0]] * 7}
    return answer


def vanishing(options, answer):
    return answer | {"features": []} if options.get("resultOffset") == "56" else answer


@pytest.mark.parametrize("spoil", [changing_count, repeating, vanishing])
def test_a_layer_that_changes_while_it_is_read_is_one_clear_error(tmp_path, spoil):
    changing_count.asked = 0
    service = FakeService(squares(), spoil=spoil)
    with service.running():
        with pytest.raises(DownloadError, match=r"landcover 'cover'.*changed while it was read.*run again") as caught:
            warp(tmp_path, service_config(service))
        assert "\n" not in str(caught.value) and not list(tmp_path.glob("cover/*"))
        service.spoil = lambda options, answer: answer
        band, _ = warp(tmp_path, service_config(service))
    np.testing.assert_array_equal(band, from_file(tmp_path, service.features)[0])


def test_pages_of_an_older_layer_are_dropped(tmp_path, capsys):
    service = FakeService(squares())
    service.server.fault = lambda asked, number: "reset" if "resultOffset=35" in asked.path else None
    with service.running():
        config = service_config(service, retries=0)
        with pytest.raises(DownloadError):
            warp(tmp_path, config)
        service.server.fault = lambda asked, number: None
        service.features, service.layer = squares(seed=4), {"editingInfo": {"lastEditDate": 1_700_000_000_000}}
        band, _ = warp(tmp_path, config)
    np.testing.assert_array_equal(band, from_file(tmp_path, service.features)[0])
    assert "the layer changed since parts of it were read" in capsys.readouterr().err


def without_ids(options, answer):
    return {"features": []} if options.get("returnIdsOnly") else answer


ERROR = {"error": {"code": 400, "message": "Invalid query", "details": ["'code' is\nunknown"]}}


@pytest.mark.parametrize(
    ("layer", "spoil", "kind", "message"),
    [
        ({}, lambda options, answer: ERROR, DownloadError, "answered error 400: Invalid query 'code' is unknown"),
        ({}, lambda options, answer: {"error": "no"}, DownloadError, "answered error : no"),
        ({}, lambda options, answer: b"<html>", DownloadError, "no JSON but application/json"),
        ({"fields": [{"name": "codes"}]}, None, DataError, "no field 'code'; did you mean 'codes'"),
        ({"geometryType": "esriGeometryPoint"}, None, DataError, "holds esriGeometryPoint, no polygons"),
        ({"advancedQueryCapabilities": None}, without_ids, DownloadError, "has neither pages nor ids .* kind: vector"),
        ({"objectIdField": None, "fields": [{"name": "code"}]}, None, DataError, "no object id"),
    ],
)
def test_what_a_service_cannot_do_is_one_line(tmp_path, layer, spoil, kind, message):
    service = FakeService(squares(), layer, **({"spoil": spoil} if spoil else {}))
    with service.running(), pytest.raises(kind, match=message) as caught:
        warp(tmp_path, service_config(service, retries=1))
    assert "landcover 'cover'" in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.glob("cover/*"))


def test_a_token_goes_to_the_server_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LAYER_TOKEN", "s3cr3t")
    service = FakeService(squares())
    with service.running():
        _, found = warp(tmp_path, service_config(service, url=service.url + "?token=${LAYER_TOKEN}"))
        assert all("token=s3cr3t" in asked.path for asked in service.server.asked)
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "s3cr3t" not in json.dumps(found) + kept + capsys.readouterr().err


def test_nothing_in_the_region_is_one_line(tmp_path):
    service = FakeService([(1, "311", shapely.box(9, 50, 9.1, 50.1))])
    with (
        service.running(),
        pytest.raises(
            DataError, match=r"landcover 'cover': has no data in the region \[.*\] \(west, south, east, north\)$"
        ),
    ):
        warp(tmp_path, service_config(service))
