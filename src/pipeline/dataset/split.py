"""Which ground is training, validation and test: blocks on the grid, with a buffer between splits.

A split is a function of ground position: square blocks of the region's grid are assigned once, and any chip of any
size or source gets its split from the blocks it lies on. Chips of different splits are at least `buffer_m` apart on
the ground: validation and test blocks are never closer than that, and training chips nearer to either are dropped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from pipeline.config import SplitConfig
from pipeline.dataset.blocks import NONE, SPLITS, Blocks
from pipeline.errors import DataError
from pipeline.grid import Grid

Array = np.ndarray[Any, np.dtype[Any]]
TRIALS = 400


def buffer_in_px(grid: Grid, buffer_m: float) -> tuple[float, float]:
    """`buffer_m` as pixels (down, across), with the smallest ground pixel of the region, so never too short."""
    down, across = smallest_pixel_m(grid)
    return buffer_m / down, buffer_m / across


def smallest_pixel_m(grid: Grid) -> tuple[float, float]:
    """(down, across): the least metres on the WGS84 ellipsoid that a pixel measures anywhere on the grid's border."""
    from pyproj import Geod, Transformer

    geod = Geod(ellps="WGS84")
    to_lonlat = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    left, bottom, right, top = grid.bounds
    xs, ys = np.meshgrid(np.linspace(left, right, 5), np.linspace(bottom, top, 5))
    x, y = xs.ravel(), ys.ravel()

    def step(dx: float, dy: float) -> float:
        lon0, lat0 = to_lonlat.transform(x - dx / 2, y - dy / 2)
        lon1, lat1 = to_lonlat.transform(x + dx / 2, y + dy / 2)
        return float(np.min(geod.inv(lon0, lat0, lon1, lat1)[2]))

    return step(0.0, grid.res_y), step(grid.res_x, 0.0)


def assign_blocks(
    counts: Array, config: SplitConfig, size_px: int, origin_px: int, buffer_px: tuple[float, float]
) -> Blocks:
    """Assign blocks to splits.

    Args:
        counts: [rows, cols, classes] int64, labelled pixels per block and class; a block without any stays out.
        config: the split's settings.
        size_px: edge of a block in pixels.
        origin_px: pixel offset of block (0, 0), both axes.
        buffer_px: (down, across) the buffer in pixels.

    Among many random assignments the one whose classes are spread most nearly as `fractions` asks is taken, with a
    small price for training ground next to held-out ground. With folds, test is 1 / folds of the ground and training
    and validation share the rest in the proportion of their `fractions`. Raises DataError when no assignment keeps
    validation and test apart.
    """
    empty = Blocks(np.full(counts.shape[:2], NONE, np.uint8), size_px, origin_px, buffer_px)
    filled = counts.sum(axis=2) > 0
    if filled.sum() < 3:
        raise DataError(f"only {int(filled.sum())} blocks of {size_px} px have labels; make block_px smaller")
    rng = np.random.default_rng(config.seed)
    folds = _folds(counts, filled, config, empty.reach) if config.folds is not None else None
    best: tuple[float, Array] | None = None
    for _ in range(1 if config.kind == "random" else TRIALS):
        codes = _draw(rng, counts, filled, config, empty.reach, folds)
        score = _score(codes, counts, config, empty.reach)
        if best is None or score < best[0]:
            best = (score, codes)
    assert best is not None
    codes = best[1]
    missing = [name for code, name in enumerate(SPLITS) if not (codes == code).any()]
    if missing:
        raise DataError(
            f"no assignment of {int(filled.sum())} blocks leaves any for {' and '.join(missing)}; "
            "make block_px or buffer_m smaller"
        )
    return Blocks(codes, size_px, origin_px, buffer_px)


def _draw(
    rng: np.random.Generator,
    counts: Array,
    filled: Array,
    config: SplitConfig,
    reach: tuple[int, int],
    folds: Array | None,
) -> Array:
    """One random assignment: test ground where a random field is high, validation where it is low."""
    codes = np.full(filled.shape, NONE, np.uint8)
    codes[filled] = 0
    field: Array = np.asarray(rng.standard_normal(filled.shape))
    if config.kind == "block":
        field = np.asarray(ndimage.gaussian_filter(field, rng.choice([0.0, 0.6, 1.0, 1.6]), mode="reflect"))
    weights = np.where(filled, counts.sum(axis=2), 0).astype(float)
    if folds is None:
        _fill(codes, 2, -field, weights, config.fractions[2], filled)
    else:
        codes[filled & (folds == config.fold)] = 2
    allowed = filled & (codes == 0)
    if max(reach) > 0:
        allowed &= ~near(codes == 2, reach)
    _fill(codes, 1, field, weights, _wanted(config)[1], allowed)
    return codes


def _wanted(config: SplitConfig) -> tuple[float, float, float]:
    """The share of the ground that train, val and test should have."""
    if config.folds is None:
        return config.fractions
    rest = (1 - 1 / config.folds) / (config.fractions[0] + config.fractions[1])
    return config.fractions[0] * rest, config.fractions[1] * rest, 1 / config.folds


def _fill(codes: Array, code: int, order: Array, weights: Array, fraction: float, allowed: Array) -> None:
    """Give `code` to the allowed blocks of lowest `order` until `fraction` of all the weight is reached."""
    at = np.flatnonzero(allowed.ravel())
    at = at[np.argsort(order.ravel()[at], kind="stable")]
    total = np.cumsum(weights.ravel()[at])
    target = fraction * weights.sum()
    count = int(np.searchsorted(total, target))
    if count < len(total) and (count == 0 or total[count] - target < target - total[count - 1]):
        count += 1
    codes.ravel()[at[:count]] = code


def near(mask: Array, reach: tuple[int, int]) -> Array:
    """Blocks within `reach` (down, across) of a block of `mask`, itself included."""
    return np.asarray(ndimage.binary_dilation(mask, np.ones((2 * reach[0] + 1, 2 * reach[1] + 1), bool)))


def _folds(counts: Array, filled: Array, config: SplitConfig, reach: tuple[int, int]) -> Array:
    """Fold number of each block, the same whichever `fold` is asked for; -1 where there is no label.

    Blocks are drawn one by one, so that each fold's ground resembles that of the others, and each fold gets an equal
    share of the classes (a rare class weighs as much as a common one). Of many draws the one that spreads the classes
    most evenly is taken, with a small price for blocks next to another fold, where the buffer takes training chips.
    """
    assert config.folds is not None
    rng = np.random.default_rng([config.seed, config.folds])
    present = counts.sum(axis=(0, 1)) > 0
    shares = (counts / np.maximum(counts.sum(axis=(0, 1)), 1))[..., present]
    at = np.flatnonzero(filled.ravel())
    weights = shares.mean(axis=2).ravel()[at]
    best: tuple[float, Array] | None = None
    for _ in range(1 if config.kind == "random" else TRIALS):
        order = rng.permutation(len(at))
        middle = np.cumsum(weights[order]) - weights[order] / 2
        fold = np.full(filled.shape, -1)
        fold.ravel()[at[order]] = np.minimum((middle * config.folds).astype(int), config.folds - 1)
        per_fold = np.stack([shares[fold == k].sum(axis=0) for k in range(config.folds)])
        score = float(np.abs(per_fold * config.folds - 1).max())
        if max(reach) > 0:
            lost = [(near(fold == k, reach) & filled & (fold != k)).sum() for k in range(config.folds)]
            score += 0.5 * float(np.mean(lost)) / (len(at) * (1 - 1 / config.folds))
        if best is None or score < best[0]:
            best = (score, fold)
    assert best is not None
    return best[1]


def _score(codes: Array, counts: Array, config: SplitConfig, reach: tuple[int, int]) -> float:
    """How far the classes' shares are from those wanted, relative to them; empty classes count heavily.

    A fold's test set is given, so that only the shares of training and validation matter there.
    """
    total = np.maximum(counts.sum(axis=(0, 1)), 1)
    worst = 0.0
    for code, fraction in enumerate(_wanted(config)[: 3 if config.folds is None else 2]):
        share = counts[codes == code].sum(axis=0) / total
        present = counts.sum(axis=(0, 1)) > 0
        off = np.abs(share - fraction)[present] / fraction
        worst = max(worst, float(off.max(initial=0.0)) + 10.0 * float((share[present] == 0).any()))
    held = (codes == 1) | (codes == 2)
    touched = near(held, reach) & (codes == 0) if max(reach) > 0 else held & False
    return worst + 0.5 * float(touched.sum()) / max(int((codes == 0).sum()), 1)
