"""A split keeps chips of different parts apart on the ground, balances classes, and depends on the ground alone."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer

from pipeline.config import ChipConfig, SplitConfig
from pipeline.dataset.blocks import NONE, Blocks, split_of_chips
from pipeline.dataset.region_split import split_region
from pipeline.dataset.split import assign_blocks, buffer_in_px
from pipeline.dataset.store import chip_id, positions, writing
from pipeline.errors import DataError
from pipeline.grid import Grid, mercator_lonlat, web_mercator_grid

BALANCED = SplitConfig(balance="osm")


def a_grid(lat: float, tiles: int = 10) -> Grid:
    """A square region of `tiles` zoom-17 tiles whose centre is near `lat`."""
    from pipeline.grid import mercator_px

    x, y = mercator_px(8.5, lat, 17)
    west, north = mercator_lonlat(round(x), round(y), 17)
    east, south = mercator_lonlat(round(x) + tiles * 256, round(y) + tiles * 256, 17)
    return web_mercator_grid((west, south, east, north), 17, 8192)


def make_stores(folder: Path, grid: Grid, px: int, classes: int = 3, seed: int = 0) -> tuple[Path, Path]:
    """Label and image stores with random classes in smooth patches."""
    rng = np.random.default_rng(seed)
    names = [f"class_{k}" for k in range(classes)]
    meta: dict[str, Any] = {"source": "test", "gsd_m": grid.gsd_m}
    everywhere = np.ones((px, px), bool)
    with (
        writing(folder / "osm", 1, np.uint8, px, {**meta, "classes": names, "colours": []}) as labels,
        writing(folder / "summer", 3, np.uint8, px, meta) as images,
    ):
        for row, col in positions(grid.height, grid.width, px, 0, False):
            share = rng.dirichlet(np.ones(classes))
            chip = rng.choice(classes, size=(1, px, px), p=share).astype(np.uint8)
            place = {"chip_id": chip_id(row, col, px), "row_px": row, "col_px": col, "lon": 0.0, "lat": 0.0}
            counts = {f"px_{name}": int((chip == k).sum()) for k, name in enumerate(names)}
            labels.append(chip, everywhere, **place, valid_px=px * px, **counts)
            images.append(np.zeros((3, px, px), np.uint8), everywhere, **place, valid_px=px * px)
    return folder / "osm", folder / "summer"


def ground_distances_m(grid: Grid, a: Any, b: Any, px: int) -> Any:
    """Geodesic distances [len(a), len(b)] of the nearest points of chips, independent of the code under test."""
    a, b = np.asarray(a), np.asarray(b)
    low_a, low_b = np.broadcast_arrays(a[:, None, :], b[None, :, :])
    middle = (np.maximum(low_a, low_b) + np.minimum(low_a, low_b) + px) / 2
    point_a = np.where(low_a + px <= low_b, low_a + px, np.where(low_b + px <= low_a, low_a, middle))
    point_b = np.where(low_a + px <= low_b, low_b, np.where(low_b + px <= low_a, low_b + px, middle))
    to_lonlat = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)

    def lonlat(point: Any) -> Any:
        return to_lonlat.transform(grid.left + point[..., 1] * grid.res_x, grid.top - point[..., 0] * grid.res_y)

    return Geod(ellps="WGS84").inv(*lonlat(point_a), *lonlat(point_b))[2]


@pytest.mark.parametrize("lat", [0.0, 50.0, 65.0])
@pytest.mark.parametrize("buffer_m", [60.0, 150.0])
def test_chips_of_different_splits_are_a_buffer_apart_on_the_ground(
    tmp_path: Path, lat: float, buffer_m: float
) -> None:
    grid = a_grid(lat)
    labels, images = make_stores(tmp_path, grid, 128)
    config = SplitConfig(balance="osm", buffer_m=buffer_m, block_px=512)
    out = tmp_path / "splits" / "blocks.parquet"
    split_region("blocks", config, ChipConfig(), grid, labels, [images], out, out.with_suffix(".png"), lambda _: None)
    blocks = Blocks.load(out)
    places = list(positions(grid.height, grid.width, 128, 0, False))
    rows, cols = np.array(places).T
    codes = split_of_chips(blocks, rows, cols, 128)
    parts = {code: [place for place, c in zip(places, codes, strict=True) if c == code] for code in (0, 1, 2)}
    assert all(parts.values())
    pairs = itertools.combinations(parts.values(), 2)
    least = min(float(ground_distances_m(grid, one, other, 128).min()) for one, other in pairs)
    assert least >= buffer_m
    assert least < buffer_m + 2 * 128 * grid.gsd_m  # and no more ground is given up than chips force


def test_only_training_chips_are_dropped_and_no_more_than_needed(tmp_path: Path) -> None:
    grid = a_grid(50.0)
    labels, images = make_stores(tmp_path, grid, 128)
    out = tmp_path / "s.parquet"
    chips = ChipConfig()
    blocks = split_region("s", BALANCED, chips, grid, labels, [images], out, out.with_suffix(".png"), lambda _: None)
    rows, cols = np.array(list(positions(grid.height, grid.width, 128, 0, False))).T
    codes = split_of_chips(blocks, rows, cols, 128)
    at = blocks.codes[rows // 512, cols // 512]
    assert (at[codes == NONE] == 0).all()
    places = np.stack([rows, cols], axis=1)
    distance = ground_distances_m(grid, places[codes == NONE], places[np.isin(at, (1, 2))], 128).min(axis=1)
    assert (distance < 128 * grid.gsd_m * 1.01).all()


def test_a_split_is_the_same_ground_for_every_chip_size(tmp_path: Path) -> None:
    grid = a_grid(50.0)
    labels, images = make_stores(tmp_path, grid, 128)
    out = tmp_path / "s.parquet"
    split_region("s", BALANCED, ChipConfig(), grid, labels, [images], out, out.with_suffix(".png"), lambda _: None)
    blocks = Blocks.load(out)
    ground = {}
    for px in (64, 128, 256):
        rows, cols = np.array(list(positions(grid.height, grid.width, px, 0, False))).T
        codes = split_of_chips(blocks, rows, cols, px)
        canvas = np.full((grid.height, grid.width), NONE, np.uint8)
        for row, col, code in zip(rows, cols, codes, strict=True):
            canvas[row : row + px, col : col + px] = code
        ground[px] = canvas
    for code in (1, 2):  # held-out ground is the same; training ground differs by what the buffer takes in whole chips
        assert ((ground[64] == code) == (ground[256] == code)).all()
    both = (ground[64] != NONE) & (ground[256] != NONE)
    assert (ground[64][both] == ground[256][both]).all()


def test_classes_are_balanced_better_than_by_chance(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    counts = (rng.dirichlet([0.3] * 4, size=(12, 12)) * 10_000).astype(np.int64)
    config = SplitConfig(balance="osm", block_px=128)

    def worst(codes: np.ndarray) -> float:
        total = counts.sum(axis=(0, 1))
        return max(
            float(np.abs(counts[codes == code].sum(axis=0) / total - share).max() / share)
            for code, share in enumerate(config.fractions)
        )

    chosen = worst(assign_blocks(counts, config, 128, 0, (0.0, 0.0)).codes)
    by_chance = [
        worst(rng.permutation(np.repeat([0, 1, 2], [100, 22, 22])).reshape(12, 12).astype(np.uint8)) for _ in range(200)
    ]
    assert chosen < np.quantile(by_chance, 0.05)


def test_folds_test_every_block_once() -> None:
    counts = np.random.default_rng(0).integers(1, 100, (9, 11, 3))
    tested = np.zeros((9, 11), int)
    for fold in range(4):
        config = SplitConfig(balance="osm", folds=4, fold=fold, buffer_m=0)
        blocks = assign_blocks(counts, config, 512, 0, (100.0, 100.0))
        tested += blocks.codes == 2
        assert (blocks.codes == 1).any()
        rows, cols = np.nonzero(blocks.codes == 2)
        for row, col in zip(*np.nonzero(blocks.codes == 1), strict=True):
            assert np.maximum(np.abs(rows - row), np.abs(cols - col)).min() >= 2
    assert (tested == 1).all()


@pytest.mark.parametrize("seed", range(4))
def test_folds_and_their_validation_ground_share_out_a_rare_class(seed: int) -> None:
    """Two rectangles of ground with a gap between, and one class in a few places only, as in a real settlement."""
    counts = np.zeros((20, 8, 2), np.int64)
    rare = np.random.default_rng(seed).lognormal(0, 0.8, (6, 8)) * np.linspace(3, 0.3, 8)
    counts[[0, 1, 2, 3, 18, 19], :, 1] = np.clip(rare * 5_000, 0, 200_000)
    counts[[0, 1, 2, 3, 18, 19], :, 0] = 262_144 - counts[[0, 1, 2, 3, 18, 19], :, 1]
    total = counts.sum(axis=(0, 1))
    for fold in range(4):
        config = SplitConfig(balance="osm", folds=4, fold=fold, block_px=512)
        codes = assign_blocks(counts, config, 512, 0, (128.0, 128.0)).codes
        test, val = (counts[codes == code].sum(axis=0) / total for code in (2, 1))
        assert np.allclose(test, 1 / 4, atol=0.08)
        assert val.min() > 0.03 and val.max() < 0.25


def test_random_split_has_the_fractions_and_leaks() -> None:
    counts = np.ones((40, 40, 2), np.int64)
    codes = assign_blocks(counts, SplitConfig(balance="osm", kind="random"), 128, 0, (0.0, 0.0)).codes
    shares = [(codes == code).mean() for code in range(3)]
    assert np.allclose(shares, (0.7, 0.15, 0.15), atol=0.002)
    assert ((codes[:, 1:] == 2) & (codes[:, :-1] == 0)).any()


def test_a_class_without_pixels_in_a_split_is_an_error(tmp_path: Path) -> None:
    grid = a_grid(50.0)
    labels, images = make_stores(tmp_path, grid, 128)
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(labels / "index.parquet")
    rare = np.zeros(len(table), np.int64)
    rare[0] = 5
    table = table.set_column(table.column_names.index("px_class_2"), "px_class_2", pa.array(rare))
    pq.write_table(table, labels / "index.parquet")
    out = tmp_path / "s.parquet"
    with pytest.raises(DataError, match="class 'class_2' has no pixel in"):
        split_region("s", BALANCED, ChipConfig(), grid, labels, [images], out, out.with_suffix(".png"), lambda _: None)
    assert not out.exists()


def test_too_few_blocks_is_an_error() -> None:
    with pytest.raises(DataError, match="only 2 blocks"):
        assign_blocks(np.ones((1, 2, 2), np.int64), BALANCED, 512, 0, (0.0, 0.0))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 7).flatmap(lambda rows: st.tuples(st.just(rows), st.integers(1, 7))),
    st.integers(16, 200),
    st.floats(0, 150),
    st.integers(0, 10_000),
)
def test_split_of_chips_agrees_with_a_plain_loop(shape: tuple[int, int], px: int, buffer_px: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = 100
    blocks = Blocks(rng.choice([0, 1, 2, NONE], size=shape).astype(np.uint8), size, 0, (buffer_px, buffer_px))
    rows, cols = rng.integers(-20, shape[0] * size, 12), rng.integers(-20, shape[1] * size, 12)
    expected = [plain_split(blocks, int(row), int(col), px) for row, col in zip(rows, cols, strict=True)]
    assert split_of_chips(blocks, rows, cols, px).tolist() == expected


def plain_split(blocks: Blocks, row: int, col: int, px: int) -> int:
    """The definition, pixel by pixel and block by block."""
    size = blocks.size_px
    seen = set()
    for r in {*range(row, row + px, 10), row + px - 1}:
        for c in {*range(col, col + px, 10), col + px - 1}:
            inside = 0 <= r < blocks.codes.shape[0] * size and 0 <= c < blocks.codes.shape[1] * size
            seen.add(int(blocks.codes[r // size, c // size]) if inside else NONE)
    if len(seen) > 1 or NONE in seen:
        return NONE
    code = seen.pop()
    if code == 0 and blocks.buffer_px[0] > 0:
        for (r, c), other in np.ndenumerate(blocks.codes):
            if other in (1, 2):
                down = max(r * size - (row + px), row - (r + 1) * size, 0)
                across = max(c * size - (col + px), col - (c + 1) * size, 0)
                if np.hypot(down, across) < blocks.buffer_px[0] * (1 - 1e-9):
                    return NONE
    return code


def test_the_buffer_in_pixels_errs_on_the_safe_side() -> None:
    grid = a_grid(60.0, tiles=40)
    down, across = buffer_in_px(grid, 100.0)
    assert down * grid.gsd_y_m >= 100.0
    assert across * grid.gsd_x_m >= 100.0
    assert down * grid.gsd_y_m < 101.0
