"""How sure a score is: block-bootstrap intervals, paired tests on the same blocks, summaries over seeds and epochs.

Pixels near each other are alike, so that intervals draw whole blocks (chips, or groups of chips that lie together).
Everything is drawn from a seed and is the same each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import ConfigError, RunError
from pipeline.metrics import _counts

Array = np.ndarray[Any, Any]
Score = str | Callable[[Array], Array]

DRAWS_AT_ONCE = 1 << 21  # cells of the matrix of weights
TIES = 1e-12  # differences this near are equal: sums differ in their last digits


@dataclass(frozen=True)
class Interval:
    """A score and its interval.

    `low` and `high` are NaN where there is none, `reason` then says why. `undefined` draws had no score (a class
    without pixels, for example) and were left out.
    """

    value: float
    low: float
    high: float
    level: float
    blocks: int
    undefined: int
    reason: str = ""


@dataclass(frozen=True)
class PairedTest:
    """The difference of two runs' scores (first minus second), its interval, and a two-sided p-value.

    `p` is NaN where a run has no score. `exact` says whether all ways to swap blocks were tried.
    """

    difference: Interval
    p: float
    exact: bool


def by_block(counts: Array, blocks: Sequence[Any] | Array) -> Array:
    """Sum counts per chip into counts per block.

    Args:
        counts: [N, C, C] integers, rows truth.
        blocks: N names or numbers of blocks, one per chip.

    Returns:
        [B, C, C] int64, blocks in the order of their names.

    Raises:
        RunError: when there are not as many names as chips.
    """
    table = np.asarray(counts)
    if table.ndim != 3 or len(blocks) != len(table):
        raise RunError(f"statistics: {len(blocks)} names of blocks for counts per chip {list(table.shape)}")
    names, place = np.unique(np.asarray(blocks), return_inverse=True)
    sums = np.zeros((len(names), *table.shape[1:]), np.int64)
    np.add.at(sums, place, table)
    return sums


def block_interval(
    counts: Array, score: Score = "mean_iou", level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Percentile interval of a score by the block bootstrap (Efron 1979; blocks: Künsch 1989).

    Each draw takes B blocks with replacement, sums their counts and scores the sum; the interval runs between the
    (1 − level) / 2 and (1 + level) / 2 quantiles of the draws. Blocks without a pixel that counts are left out. With
    few blocks (below some 20) such intervals are too narrow, and so they are where blocks resemble their neighbours.
    A mean over classes is, in a draw that lacks a rare class, the mean over the others.

    Args:
        counts: confusion counts per block, [B, C, C] integers, rows truth.
        score: a name of `from_confusion` (such as ``mean_iou`` or ``iou_2``), or a function from counts [..., C, C]
            float64 to scores [...].
        level: of confidence, between 0 and 1.
        draws: 1 or more.
        seed: of the draws.

    Raises:
        ConfigError: for an unknown score, or a level or number of draws out of range.
        RunError: when `counts` are no such counts.
    """
    (blocks,), scored = _checked([counts], score, level, draws)
    value = float(scored(blocks.sum(axis=0)))
    if len(blocks) < 2:
        return _without(value, level, len(blocks))
    found = np.concatenate([scored(part) for (part,) in _resampled([blocks], draws, seed)])
    return _percentiles(value, found, level, len(blocks))


def paired_test(
    first: Array, second: Array, score: Score = "mean_iou", level: float = 0.95, draws: int = 2000, seed: int = 0
) -> PairedTest:
    """Whether two runs differ on the same blocks.

    The interval of the difference is `block_interval`'s with the same blocks drawn for both. The p-value is that of a
    paired permutation test: were the runs alike, their counts of a block could be swapped; p is the share of swaps,
    this one among them, whose difference is at least as large. All 2^B ways are tried where they are no more than
    `draws`, else `draws` random ones; a swap without a score counts as large.

    Args:
        first: confusion counts per block of one run, [B, C, C] integers, rows truth.
        second: of the other run, on the same blocks in the same order.
        score: as in `block_interval`.
        level: as in `block_interval`.
        draws: of the bootstrap, and of the permutations.
        seed: of both.

    Raises:
        ConfigError: for an unknown score, or a level or number of draws out of range.
        RunError: when they are no such counts, or the runs were not scored on the same pixels.
    """
    (one, two), scored = _checked([first, second], score, level, draws)
    value = float(scored(one.sum(axis=0)) - scored(two.sum(axis=0)))
    if len(one) < 2:
        interval = _without(value, level, len(one))
    else:
        parts = _resampled([one, two], draws, seed)
        found = np.concatenate([scored(a) - scored(b) for a, b in parts])
        interval = _percentiles(value, found, level, len(one))
    exact = len(one) < 63 and 2 ** len(one) <= draws
    if math.isnan(value):
        return PairedTest(interval, math.nan, exact)
    total, apart = one + two, one - two
    large = tried = 0
    for signs in _all_signs(len(one)) if exact else _random_signs(len(one), draws, seed):
        swapped = np.tensordot(signs, apart, axes=1)
        difference = scored((total.sum(axis=0) + swapped) / 2) - scored((total.sum(axis=0) - swapped) / 2)
        large += int((~(np.abs(difference) < abs(value) - TIES)).sum())
        tried += len(difference)
    return PairedTest(interval, large / tried if exact else (large + 1) / (tried + 1), exact)


def seed_summary(values: Sequence[float]) -> dict[str, float]:
    """``mean``, ``sd`` (n − 1; NaN below two values), ``n`` and ``undefined`` (NaN left out) of runs by seed."""
    defined = [float(value) for value in values if not math.isnan(value)]
    mean = math.fsum(defined) / len(defined) if defined else math.nan
    spread = math.fsum((value - mean) ** 2 for value in defined)
    sd = math.sqrt(spread / (len(defined) - 1)) if len(defined) > 1 else math.nan
    return {"mean": mean, "sd": sd, "n": len(defined), "undefined": len(values) - len(defined)}


def median_of_last(values: Sequence[float], k: int) -> float:
    """Median of the last k values of epochs, of all where there are fewer; NaN where one of them is NaN or none is.

    Raises:
        ConfigError: when k is below 1.
    """
    last = _last(values, k)
    return float(np.median(last)) if len(last) else math.nan


def mean_of_last(values: Sequence[float], k: int) -> float:
    """Mean of the last k values of epochs, of all where there are fewer; NaN where one of them is NaN or none is.

    Raises:
        ConfigError: when k is below 1.
    """
    last = _last(values, k)
    return float(np.mean(last)) if len(last) else math.nan


def _last(values: Sequence[float], k: int) -> Array:
    if k < 1:
        raise ConfigError(f"statistics: the last {k} epochs: take 1 or more")
    return np.asarray(values, dtype=np.float64)[-k:]


def _checked(runs: list[Array], score: Score, level: float, draws: int) -> tuple[list[Array], Callable[[Array], Array]]:
    """Counts of the runs in float64 without empty blocks, and the score as a function."""
    if not 0 < level < 1:
        raise ConfigError(f"statistics: level must be between 0 and 1, got {level}")
    if draws < 1:
        raise ConfigError(f"statistics: draws must be 1 or more, got {draws}")
    tables = [np.asarray(counts) for counts in runs]
    for table in tables:
        integer = np.issubdtype(table.dtype, np.integer)
        if table.ndim != 3 or table.shape[1] != table.shape[2] or not integer or (table < 0).any():
            shape = f"{table.dtype} {list(table.shape)}"
            raise RunError(f"statistics: expected counts per block [B, C, C], integers of 0 or more, got {shape}")
    if len(tables) > 1:
        if tables[0].shape != tables[1].shape:
            shapes = f"{list(tables[0].shape)} and {list(tables[1].shape)}"
            raise RunError(f"statistics: counts {shapes} of the two runs differ in shape")
        differ = (tables[0].sum(axis=2) != tables[1].sum(axis=2)).any(axis=1)
        if differ.any():
            at = int(np.flatnonzero(differ)[0])
            raise RunError(f"statistics: the two runs were not scored on the same pixels: block {at} differs in truth")
    filled = tables[0].any(axis=(1, 2))
    return [table[filled].astype(np.float64) for table in tables], (
        _counts.named(score) if isinstance(score, str) else score
    )


def _resampled(runs: list[Array], draws: int, seed: int) -> Iterator[tuple[Array, ...]]:
    """Sums [D, C, C] of B blocks drawn with replacement, the same for all runs [B, C, C], some draws at a time."""
    rng = np.random.default_rng(seed)
    count = len(runs[0])
    step = max(1, DRAWS_AT_ONCE // count)
    for start in range(0, draws, step):
        some = min(step, draws - start)
        chosen = rng.integers(0, count, (some, count)) + np.arange(some)[:, None] * count
        weights = np.bincount(chosen.ravel(), minlength=some * count).reshape(some, count).astype(np.float64)
        yield tuple(np.tensordot(weights, run, axes=1) for run in runs)


def _all_signs(blocks: int) -> Iterator[Array]:
    """All rows of ±1 for `blocks`, [2^B, B]."""
    yield 1.0 - 2.0 * ((np.arange(2**blocks)[:, None] >> np.arange(blocks)) & 1)


def _random_signs(blocks: int, draws: int, seed: int) -> Iterator[Array]:
    """Random rows of ±1, some at a time; another stream than the bootstrap's."""
    rng = np.random.default_rng([seed, 1])
    step = max(1, DRAWS_AT_ONCE // blocks)
    for start in range(0, draws, step):
        yield 1.0 - 2.0 * rng.integers(0, 2, (min(step, draws - start), blocks))


def _without(value: float, level: float, blocks: int) -> Interval:
    reason = f"{blocks} block{'' if blocks == 1 else 's'} with pixels: an interval needs two or more"
    return Interval(value, math.nan, math.nan, level, blocks, 0, reason)


def _percentiles(value: float, found: Array, level: float, blocks: int) -> Interval:
    defined = found[~np.isnan(found)]
    undefined = len(found) - len(defined)
    if not len(defined):
        return Interval(value, math.nan, math.nan, level, blocks, undefined, "the score is undefined in every draw")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level, blocks, undefined)
