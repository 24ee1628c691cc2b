"""The demo region: what a user of its files would see."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import osmium
import pytest
import rasterio
import shapely
from PIL import Image
from rasterio.warp import Resampling, reproject

from pipeline.acquire.demo.build import build_demo, build_landscape
from pipeline.acquire.demo.frame import Frame
from pipeline.acquire.demo.landscape import SET_WIDTH_M, Landscape
from pipeline.acquire.demo.scene import truth_classes
from pipeline.errors import ConfigError
from pipeline.grid import web_mercator_grid

TILES, ZOOM, TILE_X, TILE_Y = 4, 17, 68632, 44447
URBAN, WATER = 2, 3
CLASS_OF_CODE = {10: 0, 20: 1, 50: 1, 60: 1, 40: 2, 30: 3}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "region"
    build_demo(out, tiles=TILES)
    return out


@pytest.fixture(scope="module")
def truth(demo: Path) -> np.ndarray:
    with rasterio.open(demo / "truth.tif") as raster:
        return raster.read(1)


@pytest.fixture(scope="module")
def osm(demo: Path) -> list[tuple[str, dict[str, str], Any]]:
    """(kind, tags, geometry) of every way and area, read as any user of osmium would."""
    factory = osmium.geom.WKBFactory()
    found: list[tuple[str, dict[str, str], Any]] = []
    processor = osmium.FileProcessor(str(demo / "demo.osm.pbf")).with_locations().with_areas()
    for item in processor:
        if item.is_way():
            found.append(("way", dict(item.tags), shapely.from_wkb(bytes.fromhex(factory.create_linestring(item)))))
        elif item.is_area():
            kind = "closed way" if item.from_way() else "relation"
            found.append((kind, dict(item.tags), shapely.from_wkb(bytes.fromhex(factory.create_multipolygon(item)))))
    return found


@pytest.fixture(scope="module")
def larger() -> tuple[Frame, Landscape, np.ndarray]:
    """A landscape with room for lone roads, unphotographed, and its truth."""
    frame = Frame(ZOOM, TILE_X, TILE_Y, 8)
    land = build_landscape(frame, 7)
    return frame, land, truth_classes(land)[0]


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_equal_arguments_give_equal_bytes_and_another_seed_does_not(demo: Path, tmp_path: Path) -> None:
    for name, seed in (("same", 7), ("other", 8)):
        build_demo(tmp_path / name, tiles=TILES, seed=seed)
    first, second, other = digests(demo), digests(tmp_path / "same"), digests(tmp_path / "other")
    assert first == second
    assert {name for name in first if first[name] == other[name]} == set()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "same"], "a temporary folder was left behind"


def test_tiles_are_complete_and_decodable_and_the_seasons_differ(demo: Path) -> None:
    means = {}
    for provider in ("summer", "autumn"):
        tiles = sorted((demo / "tiles" / provider).rglob("*.jpg"))
        wanted = {(TILE_X + x, TILE_Y + y) for x in range(TILES) for y in range(TILES)}
        assert {(int(path.parent.name), int(path.stem)) for path in tiles} == wanted
        pixels = np.stack([np.asarray(Image.open(path)) for path in tiles])
        assert pixels.shape == (TILES**2, 256, 256, 3)
        assert pixels.std((1, 2)).min() > 10, "a tile without texture"
        means[provider] = pixels.mean((0, 1, 2))
    green_over_red = {name: mean[1] - mean[0] for name, mean in means.items()}
    assert green_over_red["summer"] > green_over_red["autumn"] + 5


def test_truth_lies_on_the_tiles_pixel_grid(demo: Path) -> None:
    summary = json.loads((demo / "summary.json").read_text())
    grid = web_mercator_grid(tuple(summary["bbox_wgs84"]), ZOOM, 1024)
    with rasterio.open(demo / "truth.tif") as raster:
        assert (raster.width, raster.height) == (grid.width, grid.height) == (TILES * 256, TILES * 256)
        assert raster.crs == "EPSG:3857"
        assert np.allclose(list(raster.transform)[:6], grid.transform(), atol=1e-6)
        assert raster.colormap(1)[3][:3] == (14, 10, 214)


def test_every_class_has_a_share_in_the_truth(truth: np.ndarray) -> None:
    shares = np.bincount(truth.ravel(), minlength=4) / truth.size
    assert len(shares) == 4
    assert shares.min() > 0.06


def test_osm_holds_every_road_class_with_its_tags(osm: list[tuple[str, dict[str, str], Any]]) -> None:
    highways = [tags for kind, tags, _ in osm if kind == "way" and "highway" in tags]
    assert {tags["highway"] for tags in highways} >= {*SET_WIDTH_M, "track", "footway", "path"}
    assert {tags.get("tracktype") for tags in highways} >= {f"grade{number}" for number in range(1, 6)}
    for key in ("width", "lanes", "bridge", "tunnel"):
        assert any(key in tags for tags in highways), key


def test_osm_areas_read_back_with_islands_as_holes(osm: list[tuple[str, dict[str, str], Any]], demo: Path) -> None:
    lakes = [(kind, shape) for kind, tags, shape in osm if kind != "way" and tags.get("water") == "lake"]
    assert len(lakes) == 9
    relations = [shape for kind, shape in lakes if kind == "relation"]
    assert sum(len(part.interiors) for shape in relations for part in shape.geoms) >= 4
    assert any(kind == "relation" and tags.get("building") for kind, tags, _ in osm), "no building with a courtyard"
    assert any(tags.get("water") == "river" for kind, tags, _ in osm if kind != "way")
    written = json.loads((demo / "summary.json").read_text())["osm"]["relations"]
    assert sum(kind == "relation" for kind, _, _ in osm) == written, "a relation vanished: members missing"


def test_osm_agrees_with_the_truth_but_not_perfectly(
    osm: list[tuple[str, dict[str, str], Any]], truth: np.ndarray
) -> None:
    frame = Frame(ZOOM, TILE_X, TILE_Y, TILES)
    west, north = frame.lonlat(0, 0)
    east, south = frame.lonlat(frame.size_px * frame.gsd[0], frame.size_px * frame.gsd[1])
    ground = np.array([frame.size_px * frame.gsd[0] / (east - west), frame.size_px * frame.gsd[1] / (south - north)])
    water = [shape for kind, tags, shape in osm if kind != "way" and tags.get("natural") == "water"]
    burnt = frame.burn((shapely.transform(s, lambda xy: (xy - (west, north)) * ground), 1) for s in water) == 1
    iou = (burnt & (truth == WATER)).sum() / (burnt | (truth == WATER)).sum()
    assert 0.85 < iou < 0.995


def test_landcover_is_worse_than_truth_and_goes_on_beyond_the_region(demo: Path, truth: np.ndarray) -> None:
    seen = np.zeros_like(truth)
    with rasterio.open(demo / "landcover.tif") as cover, rasterio.open(demo / "truth.tif") as exact:
        assert cover.crs == "EPSG:32632"
        assert cover.res == (10.0, 10.0)
        reproject(
            rasterio.band(cover, 1),
            seen,
            dst_transform=exact.transform,
            dst_crs=exact.crs,
            resampling=Resampling.nearest,
        )
        inside = rasterio.warp.transform_bounds(exact.crs, cover.crs, *exact.bounds)
        margins = [inside[0] - cover.bounds.left, inside[1] - cover.bounds.bottom]
        margins += [cover.bounds.right - inside[2], cover.bounds.top - inside[3]]
        assert min(margins) >= 100
        assert set(np.unique(cover.read(1))) <= set(CLASS_OF_CODE)
    mapped = np.vectorize(CLASS_OF_CODE.get)(seen)
    both = [((mapped == c) & (truth == c)).sum() / ((mapped == c) | (truth == c)).sum() for c in range(4)]
    assert 0.45 < np.mean(both) < 0.75


@pytest.mark.parametrize("kind", ["trunk", "secondary", "residential", "track"])
def test_a_road_is_as_wide_on_the_ground_as_its_class_says(
    kind: str, larger: tuple[Frame, Landscape, np.ndarray]
) -> None:
    """Along the normal of a lone stretch of road, the truth's urban run is the width, within a pixel."""
    frame, land, classes = larger
    others = [shapely.union_all([*land.settlements, *land.yards, *(b.shape for b in land.buildings)])]
    step, widths = 0.05, []
    reach = np.arange(-20, 20, step)
    for road in land.roads:
        if road.kind != kind or not road.urban or {"width", "lanes"} & set(road.tags):
            continue
        clear = shapely.union_all([*others, *(r.area for r in land.roads if r is not road and r.urban)]).buffer(21)
        for place in np.arange(25, road.line.length - 25, 10.0):
            here, ahead = road.line.interpolate(place), road.line.interpolate(place + 1)
            if kind != "residential" and clear.contains(here):
                continue
            normal = np.array([-(ahead.y - here.y), ahead.x - here.x])
            line = np.array([here.x, here.y]) + reach[:, None] * normal
            col, row = np.floor(line / frame.gsd).astype(int).T
            if min(col.min(), row.min()) < 0 or max(col.max(), row.max()) >= frame.size_px:
                continue
            widths.append((classes[row, col] == URBAN).sum() * step)
    expected = 3.5 if kind == "track" else SET_WIDTH_M[kind]
    if kind == "residential":  # lies within its settlement: no wider than the settled strip, never narrower
        assert min(widths) >= expected - max(frame.gsd)
    else:
        assert len(widths) > 5
        assert abs(np.median(widths) - expected) <= max(frame.gsd)


def test_a_tunnel_is_not_in_the_truth(larger: tuple[Frame, Landscape, np.ndarray]) -> None:
    frame, land, classes = larger
    tunnel = next(road for road in land.roads if road.level == -1)
    motorway = shapely.union_all([road.area for road in land.roads if road.urban and road is not tunnel])
    hidden = frame.burn([(tunnel.area.difference(motorway.buffer(1)), 1)]) == 1
    assert hidden.sum() > 50
    assert (classes[hidden] == URBAN).mean() < 0.05


def test_a_region_too_small_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tiles is 1: at zoom 17 that is 19"):
        build_demo(tmp_path / "x", tiles=1)
    assert list(tmp_path.iterdir()) == []
