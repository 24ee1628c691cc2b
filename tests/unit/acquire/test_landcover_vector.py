"""Land cover from polygons in files, against GDAL's rasterizer on the whole grid and shapely's own geometry."""

from __future__ import annotations

import sqlite3
import struct
import subprocess
import sys

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from rasterio import features

from pipeline.acquire import areas, landcover
from pipeline.acquire.landcover import warp_landcover
from pipeline.command import Log
from pipeline.config import ClassScheme, LandcoverVector
from pipeline.errors import DataError
from pipeline.grid import MERCATOR_HALF_M, Grid, web_mercator_grid

NAMES = ["forest", "fields", "water"]
SCHEME = ClassScheme.model_validate(
    {"classes": [{"index": i, "name": name, "colour": (i, i, 9)} for i, name in enumerate(NAMES)]}
)
CLASSES = {"a": "forest", "b": "fields", "c": "water"}
INDEX = {"a": 0, "b": 1, "c": 2, "d": 255}
GRID = web_mercator_grid((8.39, 49.98, 8.42, 50.0), 15, 8192)


def stars(count=120, seed=0):
    """Overlapping polygons of 5 to 600 corners around the region, in UTM: more than it holds, bigger than blocks."""
    rng = np.random.default_rng(seed)

    def star():
        corners = int(rng.integers(5, 600))
        angle, radius = np.sort(rng.uniform(0, 2 * np.pi, corners)), rng.uniform(20, 500, corners)
        x, y = rng.uniform(456_000, 458_700), rng.uniform(5_536_200, 5_539_300)
        return shapely.Polygon(np.column_stack([x + radius * np.cos(angle), y + radius * np.sin(angle)]))

    shapes = [star() for _ in range(count)]
    return geopandas.GeoDataFrame({"use": rng.choice(list("abcd"), count)}, geometry=shapes, crs="EPSG:32632")


def warp(tmp_path, path, grid=GRID, **settings):
    settings = {"kind": "vector", "path": path, "field": "use", "classes": CLASSES, "ignore": ["d"]} | settings
    config = LandcoverVector.model_validate(settings)
    out = tmp_path / "out" / "landcover.tif"
    cache, summary = tmp_path / "cache", tmp_path / "out" / "summary.json"
    found = warp_landcover("cover", config, SCHEME, grid, cache, out, summary, log=Log())
    with rasterio.open(out) as raster:
        return raster.read(1), found


def whole(frame, grid=GRID):
    """Classes by one call of GDAL over the whole grid, later rows over earlier ones; edges are cut to 200 m."""
    on_grid = frame.segmentize(200 if frame.crs.is_projected else 200 / 111_700).to_crs(grid.crs)
    shapes = zip(on_grid, frame["use"].map(INDEX), strict=True)
    transform = rasterio.Affine(*grid.transform())
    return features.rasterize(shapes, (grid.height, grid.width), fill=255, transform=transform, dtype="uint8")


def nothing_left(tmp_path):
    assert not list(tmp_path.glob("out/*")) and not list(tmp_path.glob("cache/landcover/*"))


@pytest.mark.parametrize("suffix", ["gpkg", "fgb", "shp", "geojson"])
def test_the_last_feature_over_a_pixels_centre_counts(tmp_path, suffix):
    frame = stars()
    if suffix == "geojson":
        frame = frame.to_crs(4326)
    frame.to_file(tmp_path / f"cover.{suffix}", **({"SPATIAL_INDEX": "NO"} if suffix == "fgb" else {}))
    band, found = warp(tmp_path, tmp_path / f"cover.{suffix}")
    expected = whole(frame)
    assert (band != expected).sum() <= 3  # at edges within a millionth of a pixel of a centre
    assert 0.2 < (band == 255).mean() < 0.8
    assert found["ignored"]["d"]["pixels"] > 1000 and found["unmapped"] == []
    assert found["read"]["features"] == sum(frame.to_crs(3857).intersects(shapely.box(*GRID.bounds).buffer(20)))
    assert not list(tmp_path.glob("cache/landcover/*"))


@pytest.mark.parametrize("block_px", [64, 100, 333])
def test_blocks_do_not_show(tmp_path, monkeypatch, block_px):
    stars().to_file(tmp_path / "cover.gpkg")
    one, _ = warp(tmp_path, tmp_path / "cover.gpkg")
    monkeypatch.setattr(landcover, "BLOCK_PX", block_px)
    pieces, _ = warp(tmp_path, tmp_path / "cover.gpkg")
    np.testing.assert_array_equal(pieces, one)


@pytest.mark.parametrize("suffix", ["gpkg", "geojson"])
def test_polygons_elsewhere_are_one_line_with_both_places_in_degrees(tmp_path, suffix):
    frame = geopandas.GeoDataFrame({"use": ["a"]}, geometry=[shapely.box(9.5, 50.5, 9.75, 50.75)], crs=4326)
    frame = frame if suffix == "geojson" else frame.to_crs(3857)
    frame.to_file(tmp_path / f"cover.{suffix}")
    words = r"\[8\.389993, .*north\); it covers \[9\.500000, 50\.500000, 9\.750000, 50\.750000\]"
    with pytest.raises(DataError, match=rf"cover\.{suffix}: has no data in the region {words}"):
        warp(tmp_path, tmp_path / f"cover.{suffix}")
    nothing_left(tmp_path)


def test_edges_on_pixel_centres_fall_alike_in_every_block(tmp_path, monkeypatch):
    grid = Grid("EPSG:32632", 450_000.0, 5_540_000.0, 10.0, 10.0, 200, 200, 10.0, 10.0, 8192)
    rng = np.random.default_rng(5)
    x = 450_005 + 10 * rng.integers(-5, 195, (80, 1))
    y = 5_539_995 - 10 * rng.integers(-5, 195, (80, 1))
    size = 10 * rng.integers(1, 60, (80, 2))
    corners = np.hstack([x, y - size[:, 1:], x + size[:, :1], y])
    frame = geopandas.GeoDataFrame({"use": rng.choice(list("abc"), 80)}, geometry=shapely.box(*corners.T), crs=32632)
    frame.to_file(tmp_path / "cover.gpkg")
    one, _ = warp(tmp_path, tmp_path / "cover.gpkg", grid)
    for block_px in (7, 32, 61):
        monkeypatch.setattr(landcover, "BLOCK_PX", block_px)
        np.testing.assert_array_equal(warp(tmp_path, tmp_path / "cover.gpkg", grid)[0], one)
    assert set(np.unique(one)) == {0, 1, 2, 255}


def test_numbers_text_and_keys_of_either_kind_meet(tmp_path):
    frame = stars()
    codes = {"a": 311, "b": 231, "c": 512, "d": 999}
    expected = None
    for name, values in (
        ("number", frame["use"].map(codes)),
        ("float", frame["use"].map(codes).astype(float)),
        ("text", frame["use"].map(codes).astype(str)),
    ):
        frame.assign(code=values).to_file(tmp_path / f"{name}.gpkg")
        settings = {"field": "code", "classes": {311: "forest", "231": "fields", 512: "water"}, "ignore": ["999"]}
        band, found = warp(tmp_path, tmp_path / f"{name}.gpkg", **settings)
        expected = band if expected is None else expected
        np.testing.assert_array_equal(band, expected)
        assert set(found["values"]) == {"311", "231", "512", "999"}
    with pytest.raises(DataError, match="value 311 stands twice in `classes`"):
        warp(tmp_path, tmp_path / "text.gpkg", field="code", classes={311: "forest", "311": "water"}, ignore=[])


def test_nulls_and_broken_shapes_are_counted(tmp_path, capsys):
    left, _, _, top = GRID.bounds
    bow = shapely.Polygon([(0, 0), (400, 400), (400, 0), (0, 400)])
    shapes = [shapely.transform(shape, lambda p: p * [1, -1] + [left, top]) for shape in (bow, shapely.box(0, 0, 9, 9))]
    shapes.append(shapely.transform(shapely.box(500, 500, 900, 900), lambda p: p * [1, -1] + [left, top]))
    frame = geopandas.GeoDataFrame({"use": ["a", "b", None]}, geometry=shapes, crs=3857)
    frame = pd.concat([frame, geopandas.GeoDataFrame({"use": ["b"]}, geometry=[None], crs=3857)])
    frame.to_file(tmp_path / "cover.gpkg")
    band, found = warp(tmp_path, tmp_path / "cover.gpkg")
    assert "of 4 features some were left out: 1 without value, 1 without area" in capsys.readouterr().err
    counts = {"features": 4, "repaired": 1, "without_value": 1, "without_area": 1}
    assert {key: found["read"][key] for key in counts} == counts
    area = (band == 0).sum() * GRID.res_x**2
    assert area == pytest.approx(400 * 400 / 2, rel=0.03)  # both wings of the bow tie
    assert (band == 2).sum() == 0 and found["outside"] == (band == 255).sum()


def test_a_polygon_that_reaches_to_infinity_has_no_area(tmp_path):
    left, _, _, top = GRID.bounds
    shapes = [shapely.box(left, top - 500, left + 500, top), shapely.Polygon([(left, top), (np.inf, top - 9), (9, 9)])]
    frame = geopandas.GeoDataFrame({"use": ["a", "b"]}, geometry=shapes, crs=3857)
    frame.to_file(tmp_path / "cover.gpkg")
    band, found = warp(tmp_path, tmp_path / "cover.gpkg")
    assert set(np.unique(band)) == {0, 255} and found["read"]["features"] == 2
    assert (found["read"]["without_area"], found["read"]["repaired"]) == (1, 0)


def test_an_unmapped_value_fails_above_the_limit_and_is_listed_below_it(tmp_path):
    stars().to_file(tmp_path / "cover.gpkg")
    band, found = warp(tmp_path, tmp_path / "cover.gpkg", ignore=[], max_unmapped=0.9)
    (entry,) = found["unmapped"]
    ignored, _ = warp(tmp_path, tmp_path / "cover.gpkg")
    np.testing.assert_array_equal(band, ignored)
    assert entry["value"] == "d" and entry["share"] == entry["pixels"] / band.size > 0.05
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    limit = entry["share"] * 0.99
    with pytest.raises(DataError, match=r"no class for value d \(.*max_unmapped allows .*`classes` or `ignore`"):
        warp(tmp_path, tmp_path / "cover.gpkg", ignore=[], max_unmapped=limit)
    nothing_left(tmp_path)
    warp(tmp_path, tmp_path / "cover.gpkg", ignore=[], max_unmapped=entry["share"])


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3832", "EPSG:32701"])
def test_across_180_degrees(tmp_path, crs):
    """Cells of a fifth of a degree on both sides of the seam, on a grid that runs past the world's edge."""
    grid = Grid("EPSG:3857", MERCATOR_HALF_M - 60_000, -1_900_000.0, 500.0, 500.0, 240, 160, 475.0, 475.0, 8192)
    rng = np.random.default_rng(2)
    west, south = np.meshgrid(np.r_[np.arange(179, 180, 0.2), np.arange(-180, -179, 0.2)], np.arange(-18, -16, 0.2))
    cells = shapely.box(west.ravel(), south.ravel(), west.ravel() + 0.2, south.ravel() + 0.2)
    use = rng.choice(list("abc"), len(cells))
    frame = geopandas.GeoDataFrame({"use": use}, geometry=shapely.segmentize(cells, 0.01), crs=4326).to_crs(crs)
    frame.to_file(tmp_path / "cover.gpkg")
    band, _ = warp(tmp_path, tmp_path / "cover.gpkg", grid)
    x = (grid.left + (np.arange(240) + 0.5) * 500) / MERCATOR_HALF_M * 180
    y = np.degrees(np.arctan(np.sinh((grid.top - (np.arange(160) + 0.5) * 500) / MERCATOR_HALF_M * np.pi)))
    col, row = np.floor((x - 179) / 0.2 + 1e-9).astype(int), np.floor((y + 18) / 0.2).astype(int)
    expected = np.vectorize(INDEX.get)(use).reshape(west.shape)[np.ix_(row, col)]
    clear = (np.abs((x - 179) / 0.2 - np.round((x - 179) / 0.2)) > 0.03)[None, :]
    clear = clear & (np.abs((y + 18) / 0.2 - np.round((y + 18) / 0.2)) > 0.03)[:, None]
    assert clear.mean() > 0.8
    np.testing.assert_array_equal(band[clear], expected[clear])


def test_polygons_to_the_poles_are_no_trouble(tmp_path):
    world = geopandas.GeoDataFrame({"use": ["c"]}, geometry=[shapely.box(-180, -90, 180, 90)], crs=4326)
    world.to_file(tmp_path / "cover.gpkg")
    band, _ = warp(tmp_path, tmp_path / "cover.gpkg")
    assert (band == 2).all()


def layers(path):
    stars(5).to_file(path, layer="one")
    stars(5).to_file(path, layer="two")


def curves(path):
    """By hand: geopandas writes none. A circle of two arcs in GeoPackage's binary form."""
    stars(1).assign(use="a").to_file(path, layer="x")
    with sqlite3.connect(path) as base:
        ((blob,),) = base.execute("select geom from x").fetchall()
        x, y = 457_000.0, 5_538_000.0
        points = [(x - 99, y), (x, y + 99), (x + 99, y), (x, y - 99), (x - 99, y)]
        arcs = struct.pack("<BII", 1, 8, 5) + b"".join(struct.pack("<dd", *point) for point in points)
        curve = blob[:40] + struct.pack("<BII", 1, 10, 1) + arcs  # header with its box, CurvePolygon, CircularString
        for (name,) in base.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            base.execute(f"drop trigger {name}")
        base.execute("update x set geom = ?", [curve])
        base.execute("update gpkg_geometry_columns set geometry_type_name = 'GEOMETRY'")


def not_utf8(path):
    stars(5).assign(use="zzz").to_file(path.with_suffix(".shp"))
    table = path.with_suffix(".dbf")
    table.write_bytes(table.read_bytes().replace(b"zzz", b"\xfczz"))
    path.with_suffix(".cpg").write_text("UTF-8")


def cut_off(path):
    stars().to_file(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (lambda path: path, {}, "does not exist"),
        (lambda path: path.write_bytes(b"nothing"), {}, "cannot be read as polygons"),
        (lambda path: stars(5).set_crs(None, allow_override=True).to_file(path), {}, "no coordinate system"),
        (lambda path: stars(5).to_file(path), {"field": "used"}, "no field 'used'; did you mean 'use'"),
        (lambda path: stars(5).to_file(path, layer="a"), {"layer": "b"}, "no layer 'b'; "),
        (layers, {}, "has 2 layers; name one with `layer`: one, two"),
        (lambda path: stars(5).iloc[:0].to_file(path), {}, "is empty"),
        (lambda path: stars(5).set_geometry(stars(5).centroid).to_file(path), {}, "holds Point, no areas"),
        (lambda path: stars(5).translate(90_000).to_frame("geometry").assign(use="a").to_file(path), {}, "no data in"),
        (cut_off, {}, "damaged|cannot be read"),
        (curves, {}, "layer 'x' holds curves; .*CONVERT_TO_LINEAR"),
    ],
)
def test_unusable_polygons_are_one_clear_error(tmp_path, make, settings, message):
    path = tmp_path / "cover.gpkg"
    make(path)
    with pytest.raises(DataError, match=message) as caught:
        warp(tmp_path, path, **settings)
    assert "cover.gpkg" in str(caught.value) and "\n" not in str(caught.value)
    nothing_left(tmp_path)


def test_text_of_an_unknown_encoding_is_one_clear_error(tmp_path):
    not_utf8(tmp_path / "cover.shp")
    with pytest.raises(DataError, match=r"cover\.shp: the text of 'use' is no UTF-8 .*\.cpg") as caught:
        warp(tmp_path, tmp_path / "cover.shp")
    assert "\n" not in str(caught.value)
    nothing_left(tmp_path)


SMALL_DISK = """
import resource, signal, sys
from pathlib import Path
from pipeline.command import run
from tests.unit.acquire.test_landcover_vector import warp
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
run(lambda log: warp(Path(sys.argv[1]), Path(sys.argv[1]) / "cover.gpkg"), None)
"""


def test_prepared_polygons_that_find_no_room_are_one_line(tmp_path):
    stars(400).to_file(tmp_path / "cover.gpkg")
    done = subprocess.run([sys.executable, "-c", SMALL_DISK, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "cache/landcover/cover: the polygons cannot be written" in errors[0], done
    nothing_left(tmp_path)


@pytest.mark.parametrize("short", [1, 300, 50_000])
def test_prepared_polygons_whose_last_bytes_found_no_room_are_one_line(tmp_path, monkeypatch, short):
    """GDAL tells of no error that it meets while it closes a file."""
    stars().to_file(tmp_path / "cover.gpkg")
    write = areas.pyogrio.raw.write_arrow

    def cut(reader, path, **options):
        write(reader, path, **options)
        path.write_bytes(path.read_bytes()[:-short])

    monkeypatch.setattr(areas.pyogrio.raw, "write_arrow", cut)
    with pytest.raises(DataError, match=r"cache/landcover/cover: the polygons cannot be written .* disk full"):
        warp(tmp_path, tmp_path / "cover.gpkg")
    nothing_left(tmp_path)
