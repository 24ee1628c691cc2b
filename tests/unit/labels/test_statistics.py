"""Sums over shards against pixels counted by hand, areas against the ellipsoid's formula, and the picture."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from pipeline.config import RecipeConfig
from pipeline.errors import DataError
from pipeline.files import sha256_file, write_json
from pipeline.grid import Grid, Shard, web_mercator_grid
from pipeline.labels.statistics import area_text, pixel_area_m2, summarize_labels
from pipeline.report.label_pictures import distribution_picture

GRID = web_mercator_grid((8.0, 50.0, 8.004, 50.002), 17, 256)
NAMES = ["forest", "fields", "urban", "water", "ignored"]
SOURCES = ["none", "old", "water", "roads"]
RECIPE = RecipeConfig.model_validate(
    {
        "layers": {
            "old": {"kind": "landcover", "source": "old"},
            "water": {"kind": "areas", "layer": "water", "label": "water"},
            "roads": {"kind": "lines", "layer": "roads", "label": "urban", "widths_m": {"primary": 9}},
        }
    }
)


def counted(names, parts, total):
    pixels = dict(zip(names, parts, strict=True))
    return {name: {"pixels": count, "share": count / total} for name, count in pixels.items()}


def stats_of(shard, classes, sources, features):
    total = shard.height * shard.width
    classes, sources = [total - sum(classes), *classes], [total - sum(sources), *sources]
    return {
        "shard": shard.name,
        "classes": counted(NAMES, classes, total),
        "sources": counted(SOURCES, sources, total),
        "features": features,
    }


@pytest.fixture
def folder(tmp_path):
    """Statistics of all shards of `GRID`, the n-th with n · 10 fields, n urban, 5 water and n · 100 ignored pixels."""
    assert len(GRID.shards()) == 4
    for n, shard in enumerate(GRID.shards()):
        features = {
            "water": {"painted": n, "left_out": {}, "absent": []},
            "roads": {"painted": 2, "left_out": {"tunnel": n} | ({"area": 1} if n == 3 else {}), "absent": []},
        }
        write_json(tmp_path / f"{shard.name}_stats.json", stats_of(shard, [n * 10, n, 5, n * 100], [7, n, 1], features))
    return tmp_path


def summarize(folder, scheme, grid=GRID, log=lambda _: None):
    return summarize_labels("place", "mine", RECIPE, scheme, grid, folder, folder / "summary.json", log=log)


def test_shards_are_added_up(folder, scheme):
    lines = []
    found = summarize(folder, scheme, log=lines.append)
    assert found == json.loads((folder / "summary.json").read_text())
    total = GRID.width * GRID.height
    assert found["pixels"] == total and found["shards"] == 4
    expected = {"fields": 60, "urban": 6, "water": 20, "forest": total - 60 - 6 - 20 - 600}
    assert {name: entry["pixels"] for name, entry in found["classes"].items()} == expected
    assert list(found["classes"]) == NAMES[:-1], "in the scheme's order"
    assert found["ignored"]["pixels"] == 600 and found["ignored"]["share"] == pytest.approx(600 / total)
    assert found["labelled"]["pixels"] == total - 600
    for name, count in expected.items():
        assert found["classes"][name]["share"] == pytest.approx(count / total)
        assert found["classes"][name]["share_of_labelled"] == pytest.approx(count / (total - 600))
    sources = {name: entry["pixels"] for name, entry in found["sources"].items()}
    assert sources == {"none": total - 28 - 6 - 4, "old": 28, "water": 6, "roads": 4}
    assert found["features"] == {
        "water": {"painted": 6, "left_out": {}, "absent": []},
        "roads": {"painted": 8, "left_out": {"tunnel": 6, "area": 1}, "absent": []},
    }
    assert found["sha256"] == {path.name: sha256_file(path) for path in folder.glob("*_stats.json")}
    assert f"fields {60 / (total - 600):.2%}" in lines[0] and f"ignored {600 / total:.2%} of all" in lines[0]
    assert "with or without imagery" in lines[0]
    assert "roads" in lines[1] and len(lines) == 2


def test_areas_are_those_of_the_pixels_on_the_ground(folder, scheme):
    found = summarize(folder, scheme)
    pixel = GRID.gsd_x_m * GRID.gsd_y_m  # at the centre of a grid of 200 m
    assert found["area_km2"] == pytest.approx(GRID.width * GRID.height * pixel / 1e6, rel=1e-4)
    assert found["classes"]["urban"]["area_km2"] == pytest.approx(6 * pixel / 1e6, rel=1e-4)
    parts = [*found["classes"].values(), found["ignored"]]
    assert sum(entry["area_km2"] for entry in parts) == pytest.approx(found["area_km2"])
    assert sum(entry["area_km2"] for entry in found["sources"].values()) == pytest.approx(found["area_km2"])


def zone_m2(south, north, lon_deg):
    """Area between two parallels of the WGS84 ellipsoid over `lon_deg` degrees, by the textbook's closed form."""
    b, e = 6356752.314245179, math.sqrt(0.0066943799901413165)

    def upto(lat):
        x = e * math.sin(math.radians(lat))
        return math.atanh(x) / e + math.sin(math.radians(lat)) / (1 - x**2)

    return math.pi * b**2 * (upto(north) - upto(south)) * lon_deg / 360


@pytest.mark.parametrize("south", [-0.5, 50.0, -70.0])
def test_shards_of_a_high_grid_have_their_latitudes_area(south):
    """From 70 degrees south to the equator, a pixel of EPSG:3857 grows to eight times its area."""
    grid = web_mercator_grid((179.0, south, 180.0, south + 1.0), 11, 256)
    lat = [web_mercator_lat(grid, row) for row in (0, grid.height)]
    total = sum(pixel_area_m2(grid, shard) * shard.width * shard.height for shard in grid.shards())
    lon_deg = grid.width * 360 / (256 * 2**11)
    assert total == pytest.approx(zone_m2(lat[1], lat[0], lon_deg), rel=2e-6)
    assert len(grid.shards()) > 8


def web_mercator_lat(grid, row):
    north = grid.top - row * grid.res_y
    return math.degrees(math.atan(math.sinh(north / 6378137.0)))


@pytest.mark.parametrize(
    ("crs", "left", "top", "res", "area"),
    [
        ("EPSG:4326", 8.0, 51.0, 1e-3, None),
        ("EPSG:32632", 500_000.0, 5_600_000.0, 1.0, 1 / 0.9996**2),
        ("EPSG:32632", 320_000.0, 5_600_000.0, 1.0, 1.0),  # 180 km out, the zone's scale is 1
    ],
)
def test_areas_in_other_coordinate_systems(crs, left, top, res, area):
    grid = Grid(crs, left, top, res, res, 1000, 1000, 1.0, 1.0, 1000)
    expected = zone_m2(50.0, 51.0, 1.0) / 1000**2 if area is None else area
    assert pixel_area_m2(grid, Shard("all", 0, 0, 1000, 1000)) == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("bbox", [(-180, -90, 180, 90), (-180, 60, 180, 90), (-20, -60, 70, 60)])
def test_a_shard_as_wide_as_the_world_has_the_worlds_area(bbox):
    """Its outline alone surrounds nothing, or runs along geodesics far from its parallels."""
    west, south, east, north = bbox
    grid = Grid("EPSG:4326", west, north, 0.1, 0.1, (east - west) * 10, (north - south) * 10, 8e3, 11e3, 65536)
    (shard,) = grid.shards()
    total = pixel_area_m2(grid, shard) * shard.width * shard.height
    assert total == pytest.approx(zone_m2(south, north, east - west), rel=1e-3)


@pytest.mark.parametrize(
    ("km2", "text"),
    [(0.0, "0 km²"), (3.22e-05, "32 m²"), (0.372, "0.372 km²"), (2.03, "2.03 km²"), (2184.4, "2,184 km²")],
)
def test_areas_for_people(km2, text):
    assert area_text(km2) == text


def edit(folder, change):
    path = folder / "r00c01_stats.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def rename_class(stats):
    stats["classes"]["meadow"] = stats["classes"].pop("fields")


def drop_layer(stats):
    del stats["sources"]["old"]


def lose_a_pixel(stats):
    stats["sources"]["none"]["pixels"] -= 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (rename_class, "r00c01_stats.json: has the classes forest, ignored, meadow, .*expected fields.*changed"),
        (drop_layer, "r00c01_stats.json: has the sources none, roads, water, expected none, old"),
        (lose_a_pixel, "r00c01_stats.json: its sources do not add up to 256 x "),
        (lambda stats: stats.pop("features"), "r00c01_stats.json: is no statistics of labels .*'features'"),
        (
            lambda stats: stats["features"].update(moats={"painted": 1, "left_out": {}, "absent": []}),
            "features of unknown layers",
        ),
    ],
)
def test_statistics_of_something_else_are_one_line(folder, scheme, change, says):
    edit(folder, change)
    with pytest.raises(DataError, match=says):
        summarize(folder, scheme)
    assert not (folder / "summary.json").exists()


def test_missing_and_broken_shards_are_one_line(folder, scheme):
    (folder / "r01c00_stats.json").write_text("{")
    with pytest.raises(DataError, match=r"r01c00_stats.json: is no statistics of labels"):
        summarize(folder, scheme)
    (folder / "r01c00_stats.json").unlink()
    (folder / "r01c01_stats.json").unlink()
    says = r"labels 'mine': 2 of 4 shard files do not exist, the first is .*r01c00_stats.json; .*data/place/labels/mine"
    with pytest.raises(DataError, match=says):
        summarize(folder, scheme)


def edit_features(folder, features):
    """Give every shard, in their order, one of `features`."""
    for shard, entry in zip(GRID.shards(), features, strict=True):
        path = folder / f"{shard.name}_stats.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "features": entry}))


def test_values_that_a_shard_has_are_not_absent(folder, scheme):
    absent = [["highway=trunck", "highway=path"], ["highway=trunck", "highway=track"], ["highway=trunck"], []]
    edit_features(
        folder, [{"roads": {"painted": 1, "left_out": {}, "absent": entry}} for entry in [*absent[:3], absent[0]]]
    )
    lines = []
    found = summarize(folder, scheme, log=lines.append)
    assert found["features"]["roads"]["absent"] == ["highway=trunck"]
    assert lines[2:] == ["mine of place: the recipe names what no feature there has: roads highway=trunck"]
    edit_features(folder, [{"roads": {"painted": 1, "left_out": {}, "absent": entry}} for entry in absent])
    assert summarize(folder, scheme, log=lines.append)["features"]["roads"]["absent"] == []
    assert len(lines) == 5


def test_layers_that_painted_nothing_are_warned_of(folder, scheme):
    """A feature in one shard is enough for silence."""
    roads = {"painted": 0, "left_out": {"other tags": 2, "tunnel": 1}, "absent": ["surface=asfalt"]}
    water = {"painted": 0, "left_out": {}, "absent": []}
    edit_features(folder, [{"roads": roads, "water": water}] * 4)
    lines = []
    summarize(folder, scheme, log=lines.append)
    reasons = "its features there are left out (8 other tags, 4 tunnel), and none has surface=asfalt"
    assert lines[2:] == [
        f"warning: mine of place: layer 'roads' painted nothing: {reasons}",
        "mine of place: layer 'water' painted nothing: no feature of it lies there",
    ]
    edit_features(
        folder, [{"roads": {**roads, "painted": int(n == 2)}, "water": {**water, "painted": n}} for n in range(4)]
    )
    lines.clear()
    summarize(folder, scheme, log=lines.append)
    assert lines[2:] == ["mine of place: the recipe names what no feature there has: roads surface=asfalt"]


def test_nothing_labelled_has_no_shares(tmp_path, scheme):
    grid = dataclasses.replace(GRID, shard_px=4096)
    (shard,) = grid.shards()
    total = shard.height * shard.width
    stats = stats_of(shard, [0, 0, 0, total], [0, 0, 0], {})
    write_json(tmp_path / "r00c00_stats.json", stats)
    found = summarize(tmp_path, scheme, grid)
    assert found["labelled"]["pixels"] == 0 and found["ignored"]["share"] == 1
    assert all(entry["share_of_labelled"] is None for entry in found["classes"].values())
    distribution_picture(found, scheme, tmp_path / "a.png")


def test_bars_are_as_long_as_the_shares(folder, scheme):
    for shard in GRID.shards():
        fifth = shard.height * shard.width // 5
        stats = stats_of(shard, [2 * fifth, fifth, fifth // 2, 0], [fifth, 0, 0], {})
        write_json(folder / f"{shard.name}_stats.json", stats)
    found = summarize(folder, scheme)
    for name in "ab":
        distribution_picture(found, scheme, folder / f"{name}.png")
    assert (folder / "a.png").read_bytes() == (folder / "b.png").read_bytes()
    picture = np.asarray(Image.open(folder / "a.png").convert("RGB"))
    lengths = [max((picture == colour).all(axis=2).sum(axis=1)) for colour in scheme.colours]
    shares = [found["classes"][name]["share_of_labelled"] for name in scheme.names]
    assert np.array(lengths) / lengths[1] == pytest.approx(np.array(shares) / shares[1], abs=0.02)


def test_shares_of_all_stand_apart_from_shares_of_the_labelled(tmp_path, scheme):
    """Roads 61 %, water 39 %, ignored 98 %: two axes, and none goes beyond 100 %."""
    grid = dataclasses.replace(GRID, shard_px=4096)
    (shard,) = grid.shards()
    total = shard.height * shard.width
    urban, water = total * 61 // 5000, total * 39 // 5000
    stats = stats_of(shard, [0, urban, water, total - urban - water], [0, 0, urban + water], {})
    assert stats["classes"]["forest"]["pixels"] == 0
    write_json(tmp_path / "r00c00_stats.json", stats)
    distribution_picture(summarize(tmp_path, scheme, grid), scheme, tmp_path / "a.svg")
    texts = re.findall("<!-- (.*?) -->", (tmp_path / "a.svg").read_text())
    shares = [int(text[:-1]) for text in texts if re.fullmatch(r"\d+%", text)]
    assert max(shares) == 100 and shares.count(0) == 3, "three axes"
    labelled, of_all = texts.index("share of labelled pixels"), texts.index("share of all pixels")
    assert "80%" in texts[:labelled] and "100%" not in texts[:labelled], "as long as 61 % and its text need"
    assert "100%" in texts[labelled:of_all] and "ignored" in texts and "background or ignored 98.00%" in texts
    assert "all of the grid counts, with or without imagery" in texts


def test_a_class_alone_has_no_tick_above_100(folder, scheme):
    distribution_picture(summarize(folder, scheme), scheme, folder / "a.svg")
    texts = re.findall("<!-- (.*?) -->", (folder / "a.svg").read_text())
    shares = [int(text[:-1]) for text in texts if re.fullmatch(r"\d+%", text)]
    assert max(shares) == 100 and shares.count(100) >= 3
