"""Damaged inputs and a full disk: one line that names the file, and nothing half-written."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import rasterio
import shapely

from pipeline.errors import DataError
from pipeline.files import write_json
from pipeline.labels.rasters import RasterFile, open_rasters
from tests.unit.labels.test_rasterize import GRID, WHOLE, at_pixels, landcover_raster

SQUARE = shapely.Polygon(at_pixels([(10, 10), (30, 10), (30, 30), (10, 30)]))
LAKE = {"kind": "areas", "layer": "water", "label": "water"}
TRACKS = {"kind": "lines", "layer": "railways", "label": "urban", "widths_m": {"rail": 5}}
COVER = {"kind": "landcover", "source": "old"}


def failure(paint, tmp_path, layers, gpkg, landcover=None):
    """The one line of the error; nothing may be written."""
    with pytest.raises(DataError) as caught:
        paint({"layers": layers}, GRID, WHOLE, gpkg, landcover)
    assert not list(tmp_path.glob("*labels*")) and not list(tmp_path.glob(".*"))
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_geopackage_without_a_layer_matters_only_to_recipes_that_ask(tmp_path, write_layers, paint):
    gpkg = write_layers({"water": [(SQUARE, {})]})
    text = failure(paint, tmp_path, {"lake": LAKE, "tracks": TRACKS}, gpkg)
    assert str(gpkg) in text and "'railways' cannot be read" in text and "make the OSM layers again" in text
    assert (paint({"layers": {"lake": LAKE}}, GRID, WHOLE, gpkg)[0] == 3).sum() == 400


def test_a_layer_without_a_column(tmp_path, write_layers, paint):
    gpkg = write_layers({"railways": [(SQUARE.exterior, {"railway": "rail"})]})
    with sqlite3.connect(gpkg) as base:
        base.execute("alter table railways rename column tunnel to tunel")
    text = failure(paint, tmp_path, {"tracks": TRACKS}, gpkg)
    assert "layer 'railways' has no column 'tunnel'; make the OSM layers again" in text


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6])
def test_a_geopackage_that_is_cut_off(tmp_path, write_layers, paint, keep):
    rows = [(SQUARE, {"natural": "water", "name": "x" * 200})] * 300
    gpkg = write_layers({"water": rows})
    content = gpkg.read_bytes()
    gpkg.write_bytes(content[: int(len(content) * keep)])
    text = failure(paint, tmp_path, {"lake": LAKE}, gpkg)
    assert text.startswith(f"{gpkg}: layer 'water' cannot be read (")


def test_a_geometry_that_is_cut_off(tmp_path, write_layers, paint):
    gpkg = write_layers({"water": [(SQUARE, {}), (SQUARE, {})]})
    with sqlite3.connect(gpkg) as base:
        triggers = [name for (name,) in base.execute("select name from sqlite_master where type = 'trigger'")]
        for name in triggers:
            base.execute(f'drop trigger "{name}"')
        base.execute("update water set geom = substr(geom, 1, 60) where fid = 2")
    assert str(gpkg) in failure(paint, tmp_path, {"lake": LAKE}, gpkg)


def test_land_cover_that_is_cut_off(tmp_path, write_layers, paint):
    cover = tmp_path / "old.tif"
    landcover_raster(cover)
    cover.write_bytes(cover.read_bytes()[:-20_000])
    text = failure(paint, tmp_path, {"cover": COVER}, None, {"old": cover})
    assert str(cover) in text and "cannot be read as a raster" in text


def test_land_cover_of_another_place(tmp_path, write_layers, paint):
    """As large as the grid, but elsewhere: a leftover of another box."""
    cover = tmp_path / "old.tif"
    landcover_raster(cover)
    with rasterio.open(cover, "r+") as raster:
        raster.transform = rasterio.Affine(*GRID.transform(3, 0))
    text = failure(paint, tmp_path, {"cover": COVER}, None, {"old": cover})
    assert text == f"{cover}: does not lie on the region's grid; delete it, and it is made again"


FULL = """
    import json, resource, signal, sys
    from pathlib import Path
    from pipeline.config import ClassScheme, RecipeConfig
    from pipeline.errors import DataError
    from pipeline.files import read_json
    from pipeline.grid import Grid
    from pipeline.labels.rasterize import rasterize_labels

    folder, threads = Path(sys.argv[1]), int(sys.argv[2])
    grid = Grid.load(folder / "grid.json")
    given = read_json(folder / "given.json")
    recipe, scheme = RecipeConfig.model_validate(given["recipe"]), ClassScheme.model_validate(given["scheme"])
    (folder / "out").mkdir()
    out = [folder / "out" / name for name in ("labels.tif", "labels_source.tif", "labels.json")]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def job(limit):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        cover = {"old": folder / "old.tif"}
        try:
            rasterize_labels(
                recipe, scheme, grid, grid.shards()[0], None, cover, *out, log=lambda _: None, threads=threads
            )
            error = None
        except DataError as caught:
            error = str(caught)
        left = {path.name: path.stat().st_size for path in (folder / "out").iterdir()}
        for name in left:
            (folder / "out" / name).unlink()
        return error, left

    whole = job(resource.RLIM_INFINITY)
    size = whole[1]["labels.tif"]
    print(json.dumps([whole, *(job(size - short) for short in (1, 200, 4000, size // 2, size - 1))]))
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_a_disk_that_fills_up_at_any_moment(tmp_path, scheme, threads):
    """A limit on the size of files stands for the disk; GDAL closes such a file without a word."""
    landcover_raster(tmp_path / "old.tif")
    dataclasses.replace(GRID, shard_px=1024).save(tmp_path / "grid.json")
    given = {"recipe": {"layers": {"cover": COVER}}, "scheme": scheme.model_dump(mode="json")}
    write_json(tmp_path / "given.json", given)
    command = [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole, *full = json.loads(done.stdout)
    assert whole[0] is None and set(whole[1]) == {"labels.tif", "labels_source.tif", "labels.json"}
    for error, left in full:
        assert "labels.tif: " in error and error.endswith("is there space on the disk?") and "\n" not in error
        assert left == {}, "nothing is left"


def test_an_error_between_bands_leaves_what_was_there(tmp_path):
    """The rasters of an earlier run stay as they were, both or none are new."""
    files = [RasterFile(tmp_path / name, {0: (0, 0, 0, 255)}) for name in ("a.tif", "b.tif")]
    band = np.ones((WHOLE.height, WHOLE.width), dtype=np.uint8)
    with open_rasters(files, GRID, WHOLE) as writers:
        for writer in writers:
            writer.write(WHOLE, band)
    before = [file.path.read_bytes() for file in files]
    with pytest.raises(RuntimeError, match="stop"), open_rasters(files, GRID, WHOLE) as writers:
        writers[0].write(WHOLE, band * 2)
        raise RuntimeError("stop")
    assert [file.path.read_bytes() for file in files] == before
    back = pytest.raises(DataError, match=r"b\.tif: what was written cannot be read back")
    with back, open_rasters(files, GRID, WHOLE) as writers:  # b.tif gets no row
        writers[0].write(WHOLE, band * 2)
    assert [file.path.read_bytes() for file in files] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "b.tif"]


@pytest.mark.parametrize("lost", ["crs", "transform", "nodata", "colours"])
def test_a_header_that_did_not_reach_the_disk(tmp_path, monkeypatch, lost):
    """Right pixels alone do not make the file: GDAL writes its header when it closes it."""
    opened = rasterio.open

    def without(path, mode="r", **profile):
        target = opened(path, mode, **{key: value for key, value in profile.items() if mode == "r" or key != lost})
        if mode == "w" and lost == "colours":
            monkeypatch.setattr(rasterio.io.DatasetWriter, "write_colormap", lambda *_: None)
        return target

    monkeypatch.setattr(rasterio, "open", without)
    file = RasterFile(tmp_path / "a.tif", {0: (9, 8, 7, 255)}, nodata=255)
    band = np.zeros((WHOLE.height, WHOLE.width), dtype=np.uint8)
    with pytest.raises(DataError, match="cannot be read back"), open_rasters([file], GRID, WHOLE) as (writer,):
        writer.write(WHOLE, band)
    assert not list(tmp_path.iterdir())


def test_rasters_carry_place_colours_and_tags(tmp_path):
    file = RasterFile(tmp_path / "a.tif", {3: (1, 2, 3, 255)}, {"layers": json.dumps(["none"])}, nodata=255)
    with open_rasters([file], GRID, WHOLE, threads=2) as (writer,):
        writer.write(WHOLE, np.full((WHOLE.height, WHOLE.width), 3, dtype=np.uint8))
    with rasterio.open(file.path) as raster:
        assert raster.colormap(1)[3] == (1, 2, 3, 255) and raster.nodata == 255
        assert raster.crs.to_epsg() == 3857 and raster.transform == rasterio.Affine(*GRID.transform())
        assert json.loads(raster.tags()["layers"]) == ["none"] and raster.block_shapes == [(256, 256)]
        assert raster.compression == rasterio.enums.Compression.deflate
