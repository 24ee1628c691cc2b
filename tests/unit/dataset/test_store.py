"""The packed chip store: what goes in comes out, in few files, or nothing is left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from pipeline.config import ChipConfig, ClassEntry, ClassScheme, load_region
from pipeline.dataset.chips import cut_chips, cut_image_chips, cut_label_chips
from pipeline.dataset.store import ChipStore, positions, writing
from pipeline.errors import DataError
from pipeline.grid import Grid, web_mercator_grid

SCHEME = ClassScheme(
    classes=[ClassEntry(index=0, name="land", colour=(0, 0, 0)), ClassEntry(index=1, name="water", colour=(0, 0, 255))]
)


def a_grid(shard_px: int = 256) -> Grid:
    return web_mercator_grid((8.5, 50.0, 8.504, 50.002), 17, shard_px)


def write_shards(folder: Path, grid: Grid, pixels: np.ndarray, valid: np.ndarray | None) -> dict[str, Path]:
    """GeoTIFFs of [bands, H, W] per shard, with an internal mask when `valid` is given."""
    paths = {}
    folder.mkdir(parents=True, exist_ok=True)
    for shard in grid.shards():
        window = (slice(shard.row_px, shard.row_px + shard.height), slice(shard.col_px, shard.col_px + shard.width))
        paths[shard.name] = folder / f"{shard.name}.tif"
        profile = {
            "driver": "GTiff",
            "dtype": pixels.dtype,
            "count": len(pixels),
            "height": shard.height,
            "width": shard.width,
            "crs": grid.crs,
            "transform": Affine(*grid.transform(shard.row_px, shard.col_px)),
            "nodata": 255 if valid is None else None,
        }
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(paths[shard.name], "w", **profile) as raster:
            raster.write(pixels[(slice(None), *window)])
            if valid is not None:
                raster.write_mask(valid[window].astype(np.uint8) * 255)
    return paths


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_image_chips_are_the_rasters_pixels(tmp_path: Path, dtype: type) -> None:
    grid = a_grid()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 200, (4, grid.height, grid.width)).astype(dtype)
    valid = np.ones((grid.height, grid.width), bool)
    valid[:70, :130] = False
    paths = write_shards(tmp_path / "tif", grid, pixels, valid)
    count = cut_image_chips(paths, grid, ChipConfig(px=60), tmp_path / "store", "four", lambda _: None)
    store = ChipStore.open(tmp_path / "store")
    expected = [
        (row, col)
        for row, col in positions(grid.height, grid.width, 60, 0, False)
        if valid[row : row + 60, col : col + 60].any()
    ]
    assert count == len(store) == len(expected) < (grid.height // 60) * (grid.width // 60)
    assert list(zip(store.index["row_px"].tolist(), store.index["col_px"].tolist(), strict=True)) == expected
    assert store.chips.dtype == dtype and store.chips.shape[1:] == (4, 60, 60)
    for at, (row, col) in enumerate(expected):
        window = (slice(row, row + 60), slice(col, col + 60))
        seen = valid[window]
        assert np.array_equal(store.chips[at][:, seen], pixels[(slice(None), *window)][:, seen])
        assert np.array_equal(store.valid(np.array([at]))[0], seen)
        assert store.index["valid_px"][at] == seen.sum()
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [
        "chips.npy",
        "index.parquet",
        "store.json",
        "valid.npy",
    ]


def test_label_chips_count_their_classes_and_ignore_255(tmp_path: Path) -> None:
    grid = a_grid(100)
    labels = np.random.default_rng(1).choice([0, 1, 255], (1, grid.height, grid.width), p=[0.5, 0.2, 0.3])
    paths = write_shards(tmp_path / "tif", grid, labels.astype(np.uint8), None)
    cut_label_chips(paths, grid, ChipConfig(px=64), SCHEME, tmp_path / "store", "osm", lambda _: None)
    store = ChipStore.open(tmp_path / "store")
    for at in range(len(store)):
        row, col = int(store.index["row_px"][at]), int(store.index["col_px"][at])
        window = labels[0, row : row + 64, col : col + 64]
        assert np.array_equal(store.chips[at, 0], window)
        assert store.index["px_land"][at] == (window == 0).sum()
        assert store.index["px_water"][at] == (window == 1).sum()
    assert store.meta["classes"] == ["land", "water"]


def test_a_label_outside_the_scheme_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    grid = a_grid()
    labels = np.zeros((1, grid.height, grid.width), np.uint8)
    labels[0, 3, 3] = 7
    paths = write_shards(tmp_path / "tif", grid, labels, None)
    with pytest.raises(DataError, match="osm has the value 7, the class scheme ends at 1"):
        cut_label_chips(paths, grid, ChipConfig(px=64), SCHEME, tmp_path / "out" / "store", "osm", lambda _: None)
    assert list((tmp_path / "out").iterdir()) == []


def test_equal_pixels_give_an_equal_sha256(tmp_path: Path) -> None:
    grid = a_grid()
    pixels = np.random.default_rng(0).integers(0, 255, (3, grid.height, grid.width)).astype(np.uint8)
    valid = np.ones((grid.height, grid.width), bool)
    hashes = []
    for shard_px in (64 * 4, 64 * 5):
        shards = write_shards(tmp_path / str(shard_px), a_grid(shard_px), pixels, valid)
        cut_image_chips(shards, a_grid(shard_px), ChipConfig(px=64), tmp_path / f"s{shard_px}", "x", lambda _: None)
        hashes.append(ChipStore.open(tmp_path / f"s{shard_px}").meta["sha256"])
    assert hashes[0] == hashes[1]


def test_margin_and_outermost_chips_are_left_out() -> None:
    assert next(positions(100, 100, 20, 10, False)) == (10, 10)
    assert len(list(positions(100, 100, 20, 10, False))) == 16
    assert list(positions(100, 100, 20, 10, True)) == [(30, 30), (30, 50), (50, 30), (50, 50)]
    assert list(positions(10, 100, 20, 0, False)) == []


def test_a_damaged_store_is_one_clear_error(tmp_path: Path) -> None:
    with writing(tmp_path / "store", 1, np.uint8, 8, {"source": "x"}) as writer:
        writer.append(np.zeros((1, 8, 8), np.uint8), np.ones((8, 8), bool), chip_id="a")
    path = tmp_path / "store" / "chips.npy"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        ChipStore.open(tmp_path / "store")


def test_an_empty_store_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match="no chip has any data for x"),
        writing(tmp_path / "store", 1, np.uint8, 8, {"source": "x"}),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_missing_chip_id_is_named(tmp_path: Path) -> None:
    with writing(tmp_path / "store", 1, np.uint8, 8, {"source": "x"}) as writer:
        for name in ("b", "a"):
            writer.append(np.zeros((1, 8, 8), np.uint8), np.ones((8, 8), bool), chip_id=name)
    store = ChipStore.open(tmp_path / "store")
    assert store.rows_of(np.array(["a", "b", "a"])).tolist() == [1, 0, 1]
    with pytest.raises(DataError, match="no chip 'c'"):
        store.rows_of(np.array(["a", "c"]))


@pytest.mark.parametrize(
    "change",
    [{"left": 3.0}, {"top": 3.0}, {"res_x": 0.004}, {"res_y": -0.004}],  # metres; pixels have 1.19
)
def test_a_truth_off_the_grid_is_an_error_that_says_how_to_bring_it_there(
    tmp_path: Path, change: dict[str, float]
) -> None:
    """Pixels a little too large add up to two pixels at the far edge."""
    grid = a_grid(1024)
    classes = np.zeros((1, grid.height, grid.width), np.uint8)
    moved = {name: getattr(grid, name) + by for name, by in change.items()}
    truth = write_shards(tmp_path / "tif", replace(grid, **moved), classes, None)
    region = load_region("demo").model_copy(update={"truth": next(iter(truth.values()))})
    with pytest.raises(DataError, match=r"r00c00.tif does not lie on the region's grid; .*gdalwarp -t_srs EPSG:3857"):
        cut_chips(region, SCHEME, tmp_path, "truth", grid, tmp_path / "out", lambda _: None)
