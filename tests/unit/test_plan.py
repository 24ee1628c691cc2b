"""The plan of a download against counts made another way: pyproj for the ground, sets of tiles for the requests."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pyproj import Geod, Transformer

from pipeline.config import RegionConfig, load_region, validate
from pipeline.dataset.store import positions
from pipeline.grid import Grid, mercator_lonlat
from pipeline.plan import chip_count, fitting_recipes, plan_region
from pipeline.plan_page import hours, page, size, warnings

ROOT = Path(__file__).resolve().parents[2]
FRANKFURT = (8.39033, 49.88891, 8.98149, 50.35695)
NOWHERE = Path("/nonexistent/data/region")


def region(**changes: Any) -> RegionConfig:
    """A small region of x/y/z tiles at zoom 16; `changes` replace its keys."""
    raw: dict[str, Any] = {
        "bbox": [8.50, 50.10, 8.56, 50.13],
        "grid": {"zoom": 16},
        "shard_px": 1000,
        "classes": "frankfurt",
        "imagery": {"tiles": {"kind": "xyz", "url": "https://tiles.example.org/{z}/{x}/{y}.jpg"}},
    }
    return validate(RegionConfig, raw | changes, "region.yaml")


def plan_of(config: RegionConfig, recipes: tuple[str, ...] = (), free: int = 10**15) -> dict[str, Any]:
    grid = config.static_grid()
    assert grid is not None
    return plan_region("here", config, grid, list(recipes), NOWHERE, free=free)


def tile_at(lon: float, lat: float, zoom: int) -> tuple[int, int]:
    """The x/y/z tile of a place, by way of metres in EPSG:3857."""
    east, north = Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True).transform(lon, lat)
    edge = 40075016.68557849 / 2**zoom
    return math.floor((east + 20037508.342789244) / edge), math.floor((20037508.342789244 - north) / edge)


@pytest.mark.parametrize(
    ("zoom", "gigapixels", "width", "height", "tiles"),
    [(17, 3.75, 55_100, 68_043, 57_939), (18, 15.0, 110_201, 136_086, 230_256)],
)
def test_frankfurt_is_what_the_report_says(zoom: int, gigapixels: float, width: int, height: int, tiles: int) -> None:
    shipped = load_region("frankfurt", ROOT / "config")
    config = shipped.model_copy(update={"grid": shipped.grid.model_copy(update={"zoom": zoom})})
    plan = plan_of(config, ("initial", "bing_old", "bing_new", "google_new"))
    grid = plan["grid"]
    assert grid["width"] == pytest.approx(width, abs=2) and grid["height"] == pytest.approx(height, abs=2)
    assert grid["pixels"] / 1e9 == pytest.approx(gigapixels, rel=0.005)
    geod = Geod(ellps="WGS84")
    west, south, east, north = FRANKFURT
    area = abs(geod.polygon_area_perimeter([west, east, east, west], [south, south, north, north])[0]) / 1e6
    assert grid["area_km2"] == pytest.approx(area, rel=0.01)
    (x0, y0), (x1, y1) = tile_at(west, north, zoom), tile_at(east, south, zoom)
    assert (x1 - x0 + 1) * (y1 - y0 + 1) == tiles
    for name in ("bing", "google"):
        source = plan["imagery"][name]
        assert source["tiles"] == tiles < source["requests"] < 1.1 * tiles
        assert source["hours"] == pytest.approx(source["requests"] / config.imagery[name].rate_per_s / 3600)
        assert source["bytes"] == source["requests"] * config.imagery[name].tile_kb * 1000
        assert len(source["off"]) == 1 and "accept_terms: true" in source["off"][0]
    if zoom == 17:
        assert plan["chips"]["count"] == pytest.approx(206_000, rel=0.01)
        assert grid["shards"] == math.ceil(width / 8192) * math.ceil(height / 8192) == 63
    shown = page(plan)
    assert f"{tiles:,}" in shown and f"zoom {zoom}" in shown and f"{plan['chips']['count']:,} chips of 128 px" in shown
    assert len(shown.splitlines()) < 70  # one page


def test_requests_are_the_tiles_that_each_shard_touches() -> None:
    config = region()
    grid = config.static_grid()
    assert grid is not None
    to_tile = 256 * grid.res_x
    asked = 0
    seen = set()
    for shard in grid.shards():
        left = grid.left + 20037508.342789244 + shard.col_px * grid.res_x
        top = 20037508.342789244 - grid.top + shard.row_px * grid.res_x
        columns = {math.floor((left + (x + 0.5) * grid.res_x) / to_tile) for x in range(shard.width)}
        rows = {math.floor((top + (y + 0.5) * grid.res_x) / to_tile) for y in range(shard.height)}
        tiles = {(x, y) for x in columns for y in rows}
        asked, seen = asked + len(tiles), seen | tiles
    found = plan_of(config)["imagery"]["tiles"]
    assert (found["requests"], found["tiles"]) == (asked, len(seen)) and asked > len(seen)


KINDS = {
    "xyz": {"kind": "xyz", "url": "https://tiles.example.org/{z}/{x}/{y}.jpg"},
    "quadkey": {"kind": "quadkey", "url": "https://tiles.example.org/{quadkey}.jpg"},
    "wms": {"kind": "wms", "url": "https://maps.example.org/wms", "layers": "ortho", "tile_px": 512},
    "wmts": {"kind": "wmts", "url": "https://maps.example.org/wmts", "layer": "ortho"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bbox", [[8.50, 50.10, 8.56, 50.13], [179.98, -17.03, -179.97, -17.0]])
def test_the_plan_counts_the_tiles_that_a_download_asks_for(kind: str, bbox: list[float]) -> None:
    config = region(imagery={"tiles": KINDS[kind]}, bbox=bbox)
    grid = config.static_grid()
    assert grid is not None
    source: Any = config.imagery["tiles"]
    layout = source.layout("tiles", grid, 16)
    shards = [layout.tiles(shard) for shard in grid.shards()]
    found = plan_of(config)["imagery"]["tiles"]
    assert found["requests"] == sum(map(len, shards))
    assert found["tiles"] == len({tile for tiles in shards for tile in tiles})


def test_the_pace_is_the_rate_of_the_entry_or_its_connections() -> None:
    slow = {**KINDS["xyz"], "rate_per_s": 2, "connections": 4}
    fast = {**KINDS["xyz"], "rate_per_s": 200, "connections": 4}
    free = {**KINDS["xyz"], "connections": 4}
    found = plan_of(region(imagery={"slow": slow, "fast": fast, "free": free}))["imagery"]
    assert found["slow"]["hours"] == pytest.approx(found["slow"]["requests"] / 2 / 3600)
    assert "2 requests/s" in found["slow"]["pace"]
    for name in ("fast", "free"):  # four connections at a quarter of a second
        assert found[name]["hours"] == pytest.approx(found[name]["requests"] / 16 / 3600)
        assert "4 connections, 0.25 s" in found[name]["pace"]


def test_other_zooms_are_counted_where_the_source_has_them() -> None:
    plan = plan_of(region(imagery={"tiles": {**KINDS["xyz"], "max_zoom": 16}}))
    assert [(entry["zoom"], list(entry["imagery"])) for entry in plan["zooms"]] == [
        (15, ["tiles"]),
        (16, ["tiles"]),
        (17, []),
    ]
    lower = plan_of(region(grid={"zoom": 15}))
    assert plan["zooms"][0]["imagery"]["tiles"]["requests"] == lower["imagery"]["tiles"]["requests"]
    assert plan["zooms"][0]["pixels"] == lower["grid"]["pixels"]


def test_what_keeps_a_source_off_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAPS_KEY", raising=False)
    keyed = {**KINDS["xyz"], "headers": {"X-Key": "${MAPS_KEY}"}}
    barred = {**KINDS["xyz"], "requires_terms": True, "terms": "https://example.org/terms"}
    config = region(imagery={"keyed": keyed, "barred": barred, "open": KINDS["xyz"]})
    plan = plan_of(config)
    assert [len(plan["imagery"][name]["off"]) for name in ("keyed", "barred", "open")] == [1, 1, 0]
    lines = warnings(plan)
    assert any("MAPS_KEY" in line for line in lines) and any("https://example.org/terms" in line for line in lines)
    assert all(line in page(plan) for line in lines)
    monkeypatch.setenv("MAPS_KEY", "s3cret")
    accepted = region(imagery={"keyed": keyed, "barred": {**barred, "accept_terms": True}})
    plan = plan_of(accepted)
    assert warnings(plan) == []
    assert "s3cret" not in page(plan) + json.dumps(plan)


def test_a_disk_that_is_too_small_is_said_with_both_numbers() -> None:
    plan = plan_of(region(), ("a", "b"))
    total = plan["disk"]["total"]
    parts = ("cache", "imagery", "osm", "landcover", "labels", "chips")
    assert total == sum(plan["disk"][part] for part in parts) and plan["disk"]["enough"]
    short = plan_of(region(), ("a", "b"), free=total - 1)
    assert not short["disk"]["enough"]
    assert [f"{size(total)} are needed" in line for line in warnings(short)] == [True]
    assert plan_of(region(), ("a", "b"), free=total)["disk"]["enough"]


def test_files_read_by_window_are_unknown_and_local_ones_cost_nothing(tmp_path: Path) -> None:
    image = tmp_path / "ortho.tif"
    image.write_bytes(b"x" * 1000)
    plan = plan_of(region(imagery={"own": {"kind": "raster", "path": str(image), "bands": [1, 2, 3, 4]}}))
    own = plan["imagery"]["own"]
    assert (own["requests"], own["bytes"], own["hours"]) == (0, 0, 0)
    three = plan_of(region())["imagery"]["tiles"]["raster_bytes"]
    assert own["raster_bytes"] == pytest.approx(three * 4 / 3, abs=1)
    plan = plan_of(region(imagery={"far": {"kind": "cog", "url": "https://example.org/ortho.tif"}}))
    far = plan["imagery"]["far"]
    assert (far["requests"], far["bytes"], far["hours"]) == (None, None, None) and far["raster_bytes"] == three
    assert any("imagery far" in line for line in plan["unknown"]) and "| far | cog | – | unknown |" in page(plan)
    url = "https://example.org/cover_{tile3}.tif"
    plan = plan_of(region(landcover={"cover": {"url": url, "classes": {1: "forest"}}}))
    assert plan["landcover"]["cover"]["bytes"] is None
    assert any("land cover cover" in line for line in plan["unknown"]) and "## Not counted" in page(plan)


def test_files_of_ones_own_that_are_not_there_yet_wait_for_no_server() -> None:
    cover = {"cover": {"path": "own/cover.tif", "classes": {1: "forest"}}}
    plan = plan_of(region(landcover=cover, osm={"path": "own/town.osm.pbf"}))
    lines = [line for line in plan["unknown"] if "own/" in line]
    assert lines == [
        "land cover cover: own/cover.tif is not there yet",
        "OSM extract town.osm.pbf: own/town.osm.pbf is not there yet",
    ]
    assert "server" not in " ".join(lines)


@pytest.mark.parametrize(("shard_px", "twice"), [(256, False), (300, True)])
def test_tiles_of_two_shards_are_explained_where_there_are_some(shard_px: int, twice: bool) -> None:
    west, north = mercator_lonlat(68_696 * 256, 44_390 * 256, 17)
    east, south = mercator_lonlat(68_699 * 256, 44_392 * 256, 17)
    plan = plan_of(region(bbox=[west, south, east, north], grid={"zoom": 17}, shard_px=shard_px))
    cost = plan["imagery"]["tiles"]
    assert (cost["requests"] > cost["tiles"]) == twice
    assert ("asked for twice" in page(plan)) == twice


def test_an_extract_that_is_here_has_a_size(tmp_path: Path) -> None:
    urls = [f"https://me:secret@example.org/{name}.osm.pbf?key=secret" for name in ("one", "two")]
    config = region(osm=[{"url": url, "checksum_url": f"{url}.md5"} for url in urls])
    (tmp_path / "osm").mkdir()
    (tmp_path / "osm" / "one.osm.pbf").write_bytes(b"x" * 5000)
    grid = config.static_grid()
    assert grid is not None
    plan = plan_region("here", config, grid, [], tmp_path, free=10**12)
    assert [entry["bytes"] for entry in plan["osm"]] == [5000, None]
    assert plan["disk"]["osm"] == 5000 and any("two.osm.pbf: " in line for line in plan["unknown"])
    assert "secret" not in page(plan) + json.dumps(plan)


@pytest.mark.parametrize("chips", [{}, {"margin_px": 100}, {"drop_outer": True}, {"px": 500, "drop_outer": True}])
@pytest.mark.parametrize("extent", [(1000, 700), (500, 4000), (129, 128), (90, 90)])
def test_chips_are_counted_as_they_are_cut(chips: dict[str, Any], extent: tuple[int, int]) -> None:
    config = region(chips=chips).chips
    height, width = extent
    grid = Grid("EPSG:32632", 5e5, 5.5e6, 1, 1, width, height, 1, 1, 256)
    wanted = list(positions(height, width, config.px, config.margin_px, config.drop_outer))
    assert chip_count(grid, config) == len(wanted)


def test_recipes_that_fit_are_those_whose_sources_and_classes_a_region_has() -> None:
    config = ROOT / "config"
    frankfurt, demo = (set(fitting_recipes(name, config)) for name in ("frankfurt", "demo"))
    assert {"bing_new", "bing_old", "google_new", "initial"} <= frankfurt
    assert "osm" in demo and not demo & frankfurt


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "unknown"), (0.0, "0 s"), (0.01, "36 s"), (0.5, "30 min"), (1.7, "1.7 h"), (2000.0, "2,000.0 h")],
)
def test_hours_are_written_for_people(value: float | None, text: str) -> None:
    assert hours(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "unknown"), (0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (54.8e9, "54.8 GB"), (2.5e15, "2,500 TB")],
)
def test_sizes_are_written_for_people(value: int | None, text: str) -> None:
    assert size(value) == text
