"""Shard files: written, hashed, and read as one image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.acquire.shards import Mosaic, write_shard
from pipeline.errors import DataError
from pipeline.grid import Grid, Shard
from tests.support.rasters import noise, write


@pytest.fixture
def mosaic_files(tmp_path):
    grid = Grid("EPSG:3857", 100.0, 100.0, 1.0, 1.0, 70, 50, 1.0, 1.0, 32)
    pixels, valid = noise(2, 50, 70, "uint16"), np.random.default_rng(5).random((50, 70)) < 0.8
    paths = {}
    for s in grid.shards():
        part = (slice(s.row_px, s.row_px + s.height), slice(s.col_px, s.col_px + s.width))
        paths[s.name] = tmp_path / f"{s.name}.tif"
        write_shard(paths[s.name], grid, s, 2, "uint16", [(pixels[(slice(None), *part)], valid[part])])
    return grid, paths, pixels * valid, valid


def descriptors():
    return [str(link.resolve()) for link in Path("/proc/self/fd").iterdir()]


def test_a_mosaic_reads_any_window(mosaic_files, monkeypatch, tmp_path):
    grid, paths, pixels, valid = mosaic_files
    monkeypatch.setattr("pipeline.acquire.shards.OPEN_FILES", 2)
    rng = np.random.default_rng(7)
    with Mosaic(paths, grid) as mosaic:
        assert (mosaic.count, mosaic.dtype) == (2, "uint16")
        for _ in range(50):
            row, col = rng.integers(0, 50), rng.integers(0, 70)
            height, width = rng.integers(1, 51 - row), rng.integers(1, 71 - col)
            found, found_valid = mosaic.read(row, col, height, width)
            assert sum(str(tmp_path) in link for link in descriptors()) <= 2
            assert np.array_equal(found, pixels[:, row : row + height, col : col + width])
            assert np.array_equal(found_valid, valid[row : row + height, col : col + width])


def test_what_a_mosaic_cannot_read_is_one_clear_line(mosaic_files, tmp_path):
    grid, paths, _, _ = mosaic_files
    with Mosaic(paths, grid) as mosaic, pytest.raises(DataError, match="reaches beyond the grid of 50 × 70 px"):
        mosaic.read(40, 0, 11, 5)
    first = {"r00c00": paths["r00c00"]}
    with Mosaic(first, grid) as mosaic, pytest.raises(DataError, match="no file for shard 'r00c01'"):
        mosaic.read(0, 20, 5, 20)
    wrong = {**paths, "r00c01": write(tmp_path / "wrong.tif", noise(2, 5, 5, "uint16"))}
    with Mosaic(wrong, grid) as mosaic, pytest.raises(DataError, match=r"wrong\.tif: height, width, bands, dtype are"):
        mosaic.read(0, 20, 5, 20)
    with pytest.raises(DataError, match="no shard files"):
        Mosaic({}, grid)


def test_equal_pixels_give_equal_hashes_and_files(tmp_path):
    grid = Grid("EPSG:3857", 100.0, 100.0, 1.0, 1.0, 300, 300, 1.0, 1.0, 300)
    pixels, valid = noise(3, 300, 300), np.ones((300, 300), bool)
    valid[3:9] = False

    def strips(values):
        return [(values[:, :256], valid[:256]), (values[:, 256:], valid[256:])]

    hidden = pixels.copy()
    hidden[:, 5] = 99
    shown = pixels.copy()
    shown[:, 50, 0] += 1
    one, two, three = (
        write_shard(tmp_path / name, grid, Shard("r00c00", 0, 0, 300, 300), 3, "uint8", strips(values))
        for name, values in [("1.tif", pixels), ("2.tif", hidden), ("3.tif", shown)]
    )
    assert one == two and one.valid_px == 300 * 294 and one.sha256 != three.sha256
    assert (tmp_path / "1.tif").read_bytes() == (tmp_path / "2.tif").read_bytes()


@pytest.mark.parametrize("manifest", ["r00c01.json", "r00c01_stats.json"])
@pytest.mark.parametrize("damage", ["another size", "cut off", "absent"])
def test_how_a_shard_file_is_built_again_names_what_rules_look_at(mosaic_files, tmp_path, manifest, damage):
    """Rule cut_chips depends on the manifest alone, so that deleting the raster would change nothing."""
    grid, paths, _, _ = mosaic_files
    (tmp_path / manifest).write_text("{}")
    path = paths["r00c01"]
    if damage == "another size":
        write(path, noise(2, 5, 5, "uint16"))
    elif damage == "cut off":
        path.write_bytes(path.read_bytes()[:100])
    else:
        path.unlink()
    want = (
        rf"delete \S+{manifest} and run" if damage == "absent" else rf"delete \S+r00c01\.tif and \S+{manifest} and run"
    )
    with Mosaic(paths, grid) as mosaic, pytest.raises(DataError, match=want):
        mosaic.read(0, 20, 5, 20)
    with pytest.raises(DataError, match=want):
        Mosaic({"r00c01": path}, grid).read(0, 33, 1, 1)
