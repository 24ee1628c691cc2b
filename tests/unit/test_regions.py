"""The regions, recipes and providers that are shipped, and what a wrong box is answered with."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import (
    LandcoverLayer,
    LineLayer,
    PolygonLayer,
    RegionConfig,
    check_recipe,
    load_recipe,
    load_region,
    validate,
)
from pipeline.errors import ConfigError
from pipeline.grid import mercator_lonlat
from pipeline.plan import fitting_recipes
from pipeline.sources._base import TiledSource

CONFIG = Path(__file__).resolve().parents[2] / "config"
NEEDS_FILES = ("zanzibar",)  # regions whose sources the user puts there first
REGIONS = sorted(path.stem for path in (CONFIG / "regions").glob("*.yaml") if path.stem not in NEEDS_FILES)
PROVIDERS = sorted(path.stem for path in (CONFIG / "providers" / "imagery").glob("*.yaml"))
VARIANTS = ("initial", "bing_old", "bing_new", "google_new")
OPEN = ("edersee", "calvi")


# --- what is shipped ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REGIONS)
def test_every_region_is_complete(name: str) -> None:
    region = load_region(name, CONFIG)
    grid = region.static_grid()
    assert grid is not None and grid.width > 0 and grid.height > 0
    recipes = fitting_recipes(name, CONFIG)
    assert {split.balance for split in region.splits.values()} <= set(recipes) and region.splits
    for key, source in region.imagery.items():
        assert source.attribution, f"{name}: imagery {key} has no attribution"
        if isinstance(source, TiledSource):
            layout = source.layout(key, grid, region.grid.zoom)
            tile = next(iter(layout.tiles(grid.shards()[0])))
            assert "{" not in source.address(tile, layout, grid).replace("{host}", "")
    if region.demo is None:
        for extract in region.osm_extracts:
            assert extract.checksum_url == f"{extract.url}.md5"


@pytest.mark.parametrize("name", OPEN)
def test_the_small_regions_are_open_and_small(name: str) -> None:
    region = load_region(name, CONFIG)
    grid = region.static_grid()
    assert grid is not None
    assert all(source.off(key) is None for key, source in region.imagery.items())
    assert 2 < grid.width * grid.height * grid.gsd_x_m * grid.gsd_y_m / 1e6 < 20
    assert "${" not in region.model_dump_json()  # no keys


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_provider_fits_a_region_at_each_of_its_zooms(provider: str, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(CONFIG, tmp_path / "config")
    values = "values: {image: a/0/b}, " if provider == "openaerialmap" else ""

    def region(name: str, zoom: int) -> RegionConfig:
        path = tmp_path / "config" / "regions" / f"{name}.yaml"
        path.write_text(
            f"bbox: [8.5, 50.1, 8.501, 50.101]\ngrid: {{zoom: {zoom}}}\nclasses: frankfurt\n"
            f"imagery: {{p: {{provider: {provider}, {values}accept_terms: true}}}}\n"
        )
        return load_region(name, tmp_path / "config")

    first: Any = region("first", 17 if provider not in ("sentinel2_cloudless", "usgs_imagery") else 14).imagery["p"]
    assert first.off("p") is None and first.terms.startswith("https://") and first.attribution
    if not isinstance(first, TiledSource):
        return  # read by window: any zoom
    for zoom in range(max(first.min_zoom, 10), first.max_zoom + 1):
        assert region(f"z{zoom}", zoom).grid.zoom == zoom
    with pytest.raises(ConfigError, match=rf"imagery\.p: zoom {first.max_zoom + 1} is not one of the source's"):
        region("above", first.max_zoom + 1)


@pytest.mark.parametrize(("region", "recipe"), [*product(["frankfurt"], VARIANTS), *product(OPEN, ["worldcover_osm"])])
def test_recipes_can_be_painted_in_their_regions(region: str, recipe: str) -> None:
    load_region(region, CONFIG)
    check_recipe(region, recipe, CONFIG)


# --- the Frankfurt region ----------------------------------------------------------------------------------------

SETS = {  # the report's, as the specification of this project lists them
    14.0: "motorway, motorway_link, trunk, trunk_link, primary",
    9.0: "primary_link, secondary",
    6.0: "secondary_link, tertiary, tertiary_link, unclassified, residential, living_street",
    3.5: "track",
}


def test_frankfurt_is_the_reports_region() -> None:
    region = load_region("frankfurt", CONFIG)
    assert region.bbox == (8.39033, 49.88891, 8.98149, 50.35695) and region.grid.zoom == 17
    assert (region.chips.px, region.chips.margin_px, region.chips.drop_outer) == (128, 1500, True)
    assert [source.kind for source in region.imagery.values()] == ["quadkey", "xyz"]
    for name, source in region.imagery.items():
        assert "accept_terms: true" in (source.off(name) or "")
    assert {split.kind: split.fractions for split in region.splits.values()} == dict.fromkeys(
        ("block", "random"), (0.7, 0.15, 0.15)
    )


@pytest.mark.parametrize("recipe", VARIANTS[1:])
def test_the_later_variants_have_four_sets_of_roads_and_no_water_of_the_land_cover(recipe: str) -> None:
    layers = load_recipe(recipe, CONFIG).layers
    cover = layers["landcover"]
    assert isinstance(cover, LandcoverLayer)
    assert (cover.source, cover.without) == (recipe.rpartition("_")[2], ["water"])
    roads = [layer for layer in layers.values() if isinstance(layer, LineLayer) and layer.layer == "roads"]
    found = {
        width: {value for layer in roads for value in layer.widths_m if layer.widths_m[value] == width}
        for width in SETS
    }
    assert found == {width: set(values.split(", ")) for width, values in SETS.items()}
    assert all(layer.use_width_tag and layer.lane_m for layer in roads)
    (tracks,) = (layer for layer in roads if "track" in layer.widths_m)
    assert tracks.grades == ["grade1", "grade2"]
    areas = layers["road_areas"]
    assert isinstance(areas, PolygonLayer) and areas.tags is not None  # but tracks, whose areas have no grade
    assert set(areas.tags["highway"]) == {value for values in found.values() for value in values} - {"track"}
    order = list(layers)
    assert order.index("landcover") < order.index("water") < order.index("roads_1")  # bridges over water


def test_the_initial_variant_has_one_width_on_a_coarse_raster_and_the_land_covers_water() -> None:
    layers = load_recipe("initial", CONFIG).layers
    cover, roads = layers["landcover"], layers["roads"]
    assert isinstance(cover, LandcoverLayer) and isinstance(roads, LineLayer) and len(layers) == 2
    assert (cover.source, cover.without) == ("old", [])
    assert roads.pixel_m == 10 and set(roads.widths_m.values()) == {10} and not roads.use_width_tag


def test_googles_variant_is_bings_new_one() -> None:
    assert load_recipe("google_new", CONFIG).layers == load_recipe("bing_new", CONFIG).layers


def test_a_class_that_a_recipe_leaves_out_must_exist(tmp_path: Path) -> None:
    import shutil

    shutil.copytree(CONFIG, tmp_path / "config")
    path = tmp_path / "config" / "recipes" / "bing_old.yaml"
    path.write_text(path.read_text().replace("without: [water]", "without: [watr]"))
    with pytest.raises(ConfigError, match=r"layers\.landcover\.without: no class 'watr' .*did you mean 'water'"):
        check_recipe("frankfurt", "bing_old", tmp_path / "config")


# --- wrong boxes and sizes ---------------------------------------------------------------------------------------

INF, NAN = math.inf, math.nan
UTM = {"crs": "EPSG:25832", "resolution": 0.2}
TILES = {"kind": "xyz", "url": "https://tiles.example.org/{z}/{x}/{y}.png"}
EDGE = mercator_lonlat(17_500_000, 0, 17)[0] + 1e-9  # just right of a pixel's edge
BAD: list[tuple[dict[str, Any], str]] = [
    ({"bbox": [8.5, 50.0, 8.5, 50.1]}, "is empty, it has no width: west and east are both 8.5"),
    ({"bbox": [8.5, 50.1, 8.6, 50.1]}, "is empty, it has no height: south and north are both 50.1"),
    ({"bbox": [EDGE, 50.0, EDGE + 1e-9, 50.1]}, "smaller than a pixel of 0.76"),
    ({"bbox": [8.6, 50.0, 8.5, 50.1]}, "west 8.6 is not left of east 8.5; the order is west, south, east, north"),
    ({"bbox": [8.5, 50.1, 8.6, 50.0]}, "south 50.1 is not below north 50.0; the order is"),
    ({"bbox": [8.5, 50.0, 190.0, 50.1]}, "is not west, south, east, north in degrees"),
    ({"bbox": [8.5, -91.0, 8.6, 50.1]}, "is not west, south, east, north in degrees"),
    ({"bbox": [8.5, 80.0, 8.6, 86.0]}, "beyond 85.05 degrees of latitude, where x/y/z tiles end"),
    ({"bbox": [8.5, 50.0, NAN, 50.1]}, "bbox.2: .*finite number"),
    ({"bbox": [8.5, 50.0, INF, 50.1]}, "bbox.2: .*finite number"),
    ({"bbox": [8.5, 50.0, 8.6]}, "bbox: must be four numbers: west, south, east, north in degrees, got a list of 3"),
    ({"bbox": []}, "bbox: must be four numbers: west, south, east, north in degrees, got a list of 0"),
    ({"bbox": [8, 50, 9, 51, 10]}, "bbox: must be four numbers: west, south, east, north in degrees, got a list of 5"),
    ({"bbox": 8.5}, "bbox: must be four numbers: west, south, east, north in degrees, got 8.5"),
    ({"bbox": [8.5, 50.0, "east", 50.1]}, "bbox.2: must be a number, got 'east'"),
    ({"grid": {"zoom": 24}}, "grid.zoom: must be at most 23, got 24"),
    (
        {"bbox": [-180, -80, 180, 80], "grid": {"zoom": 15}},
        r"8,388,608 x 6,5\d\d,\d\d\d = 5.\de\+13 pixels.* at most 1,000,000,000,000 .* lower zoom",
    ),
    (
        {"bbox": [0, 45, 5, 50], "shard_px": 256},
        r"in \d,\d\d\d,\d\d\d shards of 256 px, at most 100,000 .* set shard_px: 2048",
    ),
    ({"shard_px": 100}, "shard_px: must be at least 256, got 100"),
    ({"shard_px": 10**6}, "shard_px: must be at most 65536"),
    ({"imagery": {"t": {**TILES, "max_zoom": 16}}}, r"imagery\.t: zoom 17 is not one of the source's \(0 to 16\)"),
    ({"imagery": {"t": {**TILES, "min_zoom": 18}}}, r"imagery\.t: zoom 17 is not one of the source's \(18 to 23\)"),
    ({"imagery": {"t": {**TILES, "zoom": 18}}}, r"imagery\.t: zoom 18 differs from the grid's 17"),
    ({"imagery": {}}, "imagery: .*at least one entry"),
    (
        {"grid": UTM},
        r"imagery\.t: the grid \(EPSG:25832, 0.2 per pixel\) is not that of x/y/z tiles .* grid: \{zoom: …\}",
    ),
    ({"grid": {**UTM, "crs": "EPSG:123456"}}, "grid.crs: 'EPSG:123456' is no coordinate system"),
    ({"grid": {"crs": "EPSG:25832"}}, "grid: `crs` and `resolution` go together"),
    ({"grid": {"zoom": 17, "origin": [0, 0]}}, "grid: `origin` is for a grid of `crs` and `resolution`"),
    ({"grid": {**UTM, "zoom": 17}}, "grid: give one of `zoom`, `imagery`, or `crs` with `resolution`"),
    ({"grid": {**UTM, "resolution": 0}}, "grid.resolution: must be above 0, got 0"),
    ({"grid": {**UTM, "resolution": 1e-320}}, "grid.resolution: 9.99989e-321 is too fine to be meant"),
    ({"grid": {**UTM, "resolution": 1e-4}}, "at most 1,000,000,000,000 make a region"),
    ({"grid": {**UTM, "resolution": 1e9}}, "grid.resolution: 1e\\+09 is too coarse to be meant"),
    ({"grid": {**UTM, "resolution": 3e7}}, "grid.resolution: 3e\\+07 is too coarse to be meant"),
    (
        {"grid": {"crs": "EPSG:4326", "resolution": 2.5}},
        r"grid\.resolution: 2\.5 is in degrees of EPSG:4326: pixels of 2\d\d km on the ground, 1 x 1 of them, less "
        "than a chip of 128 px; write degrees per pixel, or take a crs in metres",
    ),
    (
        {"grid": {"crs": "EPSG:4258", "resolution": 0.05}},
        r"0\.05 is in degrees of EPSG:4258: pixels of 4\.\d+ km on the ground, 2 x 2 of",
    ),
    (
        {"grid": {"crs": "EPSG:4326", "resolution": 0.2}, "bbox": [-60, -60, 60, 60]},
        r"0\.2 is in degrees of EPSG:4326: pixels of 22\.\d km on the ground, 600 x 600 of them; write",
    ),
    (
        {"grid": {**UTM, "resolution": 2500}},
        r"2500 is in metres of EPSG:25832: pixels of 2\.5 km on the ground, 4 x 5 of them, .* metres per pixel$",
    ),
    (
        {"grid": {"zoom": 6}},
        r"grid\.zoom: 6 means pixels of 1\.57 km on the ground, 6 x 8 of them, less than a chip .*; take a higher zoom",
    ),
    ({"grid": {**UTM, "resolution": NAN}}, "grid.resolution: .*finite number"),
    ({"grid": UTM, "bbox": [-60, 0, -59, 1]}, r"lies outside of grid.crs EPSG:25832, which is made for \[6.0, "),
    ({"grid": UTM, "bbox": None}, "a grid by crs needs a bbox"),
    ({"bbox": None}, "a grid by zoom needs a bbox"),
]


@pytest.mark.parametrize(("changes", "words"), BAD, ids=[words[:40] for _, words in BAD])
def test_a_wrong_box_or_grid_is_one_line(changes: dict[str, Any], words: str) -> None:
    raw: dict[str, Any] = {
        "bbox": [8.5, 50.0, 8.6, 50.1],
        "grid": {"zoom": 17},
        "classes": "c",
        "imagery": {"t": TILES},
    }
    with pytest.raises(ConfigError, match=words) as caught:
        validate(RegionConfig, raw | changes, "region.yaml")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("region.yaml: ")


@pytest.mark.parametrize(
    ("grid", "bbox"),
    [
        ({"crs": "EPSG:4326", "resolution": 0.01}, [8, 49, 10, 51]),  # a kilometre, two hundred pixels wide
        ({"crs": "EPSG:4326", "resolution": 2.5e-5}, [8.5, 50.0, 8.501, 50.001]),  # smaller than a chip
        ({"crs": "EPSG:25832", "resolution": 100}, [8.5, 50.0, 8.6, 50.1]),
    ],
)
def test_a_coarse_grid_or_a_small_one_is_no_mistake(grid: dict[str, Any], bbox: list[float]) -> None:
    source = {"s": {"kind": "raster", "path": "a.tif"}}
    region = validate(RegionConfig, {"bbox": bbox, "grid": grid, "classes": "c", "imagery": source}, "region.yaml")
    assert region.static_grid() is not None


def test_a_box_across_180_degrees_is_no_mistake() -> None:
    raw = {"bbox": [179.9, -17, -179.9, -16.9], "grid": {"zoom": 14}, "classes": "c", "imagery": {"t": TILES}}
    grid = validate(RegionConfig, raw, "region.yaml").static_grid()
    assert grid is not None and grid.bounds[2] > 20037508.4 > grid.bounds[0]
