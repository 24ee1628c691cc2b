"""Intervals, tests and summaries: known answers, coverage by simulation, edge cases."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pipeline.errors import ConfigError, RunError
from pipeline.metrics import from_confusion
from pipeline.metrics.statistics import (
    block_interval,
    by_block,
    mean_of_last,
    median_of_last,
    paired_test,
    seed_summary,
)


def blocks(count: int, seed: int = 0, right: float = 0.8, spread: float = 0.1) -> np.ndarray:
    """Counts [B, 2, 2] whose share of right pixels differs from block to block."""
    rng = np.random.default_rng(seed)
    shares = np.clip(rng.normal(right, spread, count), 0, 1)
    truth = rng.integers(20, 81, count)
    counts = np.zeros((count, 2, 2), np.int64)
    for index, pixels in enumerate((truth, 100 - truth)):
        counts[:, index, index] = rng.binomial(pixels, shares)
        counts[:, index, 1 - index] = pixels - counts[:, index, index]
    return counts


def test_interval_of_a_mean_has_the_known_answer() -> None:
    """With blocks of equal size accuracy is the blocks' mean, whose bootstrap is near the normal one."""
    counts = blocks(60)
    shares = np.diagonal(counts, axis1=1, axis2=2).sum(axis=1) / 100
    found = block_interval(counts, "accuracy", draws=4000)
    half = 1.96 * shares.std() / math.sqrt(60)
    assert found.value == pytest.approx(shares.mean())
    assert [found.low, found.high] == pytest.approx([shares.mean() - half, shares.mean() + half], abs=0.1 * half)
    assert (found.blocks, found.undefined, found.reason, found.level) == (60, 0, "", 0.95)


@pytest.mark.parametrize("score", ["mean_iou", "mcc", "precision_0"])
def test_draws_are_sums_of_whole_blocks(score: str) -> None:
    """Against a loop over draws, each scored by `from_confusion`: the same spread."""
    counts = blocks(12)
    rng = np.random.default_rng(9)
    drawn = [from_confusion(counts[rng.integers(0, 12, 12)].sum(axis=0))[score] for _ in range(800)]
    found = block_interval(counts, score, level=0.8, draws=1500)
    low, high = np.quantile(drawn, [0.1, 0.9])
    assert found.value == from_confusion(counts.sum(axis=0))[score]
    assert [found.low, found.high] == pytest.approx([low, high], abs=0.15 * (high - low))


def test_covers_what_it_says() -> None:
    """Of 95 % intervals from 40 blocks some 93 % cover the expected score (percentile intervals are a little short)."""
    covered = sum(
        found.low <= 0.8 <= found.high
        for found in (block_interval(blocks(40, seed), "accuracy", draws=300, seed=seed) for seed in range(300))
    )
    assert 0.89 <= covered / 300 <= 0.98


def test_chips_are_summed_by_block() -> None:
    counts = blocks(7)
    names = ["b", "a", "b", "c", "a", "b", "c"]
    expected = [sum(part for part, name in zip(counts, names, strict=True) if name == block) for block in "abc"]
    assert np.array_equal(by_block(counts, names), expected)
    assert np.array_equal(by_block(counts, np.arange(7)), counts)
    with pytest.raises(RunError, match=r"2 names of blocks for counts per chip \[7, 2, 2\]"):
        by_block(counts, ["a", "b"])


def test_deterministic_and_by_seed() -> None:
    counts = blocks(9)
    assert block_interval(counts, seed=3) == block_interval(counts, seed=3) != block_interval(counts, seed=4)
    other = blocks(9, right=0.7)
    other[:, 0], other[:, 1] = counts[:, 0], counts[:, 1, ::-1]
    assert paired_test(counts, other, seed=3) == paired_test(counts, other, seed=3)


def test_in_parts_the_draws_are_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.metrics.statistics.DRAWS_AT_ONCE", 50)
    seen: list[int] = []

    def accuracy(counts: np.ndarray) -> np.ndarray:
        seen.append(len(counts) if counts.ndim == 3 else 0)
        return np.trace(counts, axis1=-2, axis2=-1) / counts.sum(axis=(-2, -1))

    found = block_interval(blocks(20), accuracy, draws=101)
    assert sum(seen) == 101 and max(seen) == 2 and found.low < found.value < found.high


def test_one_block_or_none_gives_no_interval_but_a_reason() -> None:
    for count in (0, 1):
        found = block_interval(blocks(3)[:count], "accuracy")
        assert math.isnan(found.low) and math.isnan(found.high) and math.isnan(found.value) == (count == 0)
        assert found.reason.startswith(f"{count} block") and "two or more" in found.reason
    two = np.concatenate([blocks(1), np.zeros((4, 2, 2), np.int64)])
    assert block_interval(two, "accuracy").reason.startswith("1 block with pixels")
    alone = paired_test(blocks(1), blocks(1)[:, :, ::-1])
    assert alone.p == 1.0 and alone.difference.reason and math.isnan(alone.difference.low)


def test_draws_without_a_score_are_counted() -> None:
    """Class 1 is in one block of three: with the share (2/3)³ a draw has none of it."""
    counts = np.array([[[9, 1], [2, 5]], [[9, 0], [0, 0]], [[7, 0], [0, 0]]])
    found = block_interval(counts, "iou_1", draws=4000)
    assert found.undefined == pytest.approx(4000 * (2 / 3) ** 3, rel=0.08)
    assert (found.low, found.high, found.reason) == (0.625, 0.625, "")
    never = block_interval(np.array([[[5, 0], [0, 0]]] * 3), "mcc")
    assert math.isnan(never.value) and never.undefined == 2000 and "every draw" in never.reason


def test_equal_runs_do_not_differ() -> None:
    for count in (2, 5, 40):
        found = paired_test(blocks(count), blocks(count), "mean_iou")
        assert (found.difference.value, found.difference.low, found.difference.high, found.p) == (0, 0, 0, 1.0)


def truth_alike(count: int, worse: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two runs on the same pixels; the second has `worse` wrong pixels more in every block."""
    first = blocks(count, seed)
    second = first.copy()
    second[:, 0, 0] -= worse
    second[:, 0, 1] += worse
    return first, second


def test_a_steady_difference_is_found_though_blocks_spread_wider() -> None:
    first, second = truth_alike(40, 2)
    found = paired_test(first, second, "accuracy")
    assert found.difference.value == pytest.approx(0.02) and not found.exact
    assert [found.difference.low, found.difference.high] == pytest.approx([0.02, 0.02])
    assert found.p == pytest.approx(1 / 2001)
    alone = block_interval(first, "accuracy")
    assert alone.high - alone.low > 0.04
    assert paired_test(second, first, "accuracy").difference.value == pytest.approx(-0.02)


def test_few_blocks_are_swapped_in_all_ways() -> None:
    first, second = truth_alike(6, 1)
    second[0, 0] += [8, -8]
    found = paired_test(first, second, "mean_iou")

    def difference(swaps: tuple[bool, ...]) -> float:
        pairs = [(b, a) if swap else (a, b) for swap, a, b in zip(swaps, first, second, strict=True)]
        return float(np.subtract(*(from_confusion(sum(part))["mean_iou"] for part in zip(*pairs, strict=True))))

    ways = [difference(swaps) for swaps in itertools.product((False, True), repeat=6)]
    expected = np.mean([abs(value) >= abs(found.difference.value) - 1e-12 for value in ways])
    assert found.exact and found.p == expected and found.difference.value == pytest.approx(ways[0])
    assert paired_test(*truth_alike(5, 3), "accuracy").p == 2 / 2**5


def test_under_no_difference_p_is_even() -> None:
    """Runs that differ by chance alone: p is below 0.2 in some 20 % of the trials."""
    low = 0
    for seed in range(200):
        first, second = truth_alike(12, 0)
        shift = np.random.default_rng(seed).integers(-6, 7, 12)
        second[:, 0, 0] += np.minimum(shift, second[:, 0, 1])
        second[:, 0, 1] = first[:, 0].sum(axis=1) - second[:, 0, 0]
        low += paired_test(first, second, "accuracy", draws=200, seed=seed).p <= 0.2
    assert 0.12 <= low / 200 <= 0.28


def test_a_run_without_a_score_has_no_p() -> None:
    counts = np.array([[[5, 0], [3, 0]]] * 4)
    found = paired_test(counts, counts, "mcc")
    assert math.isnan(found.p) and math.isnan(found.difference.value)


def test_what_does_not_fit_is_named() -> None:
    counts = blocks(4)
    with pytest.raises(RunError, match="block 2 differs in truth"):
        other = counts.copy()
        other[2, 0, 0] += 1
        paired_test(counts, other)
    with pytest.raises(RunError, match="differ in shape"):
        paired_test(counts, counts[:3])
    for wrong in (counts[0], counts.astype(float), -counts, counts[:, :, :1]):
        with pytest.raises(RunError, match="counts per block"):
            block_interval(wrong)
    with pytest.raises(ConfigError, match="no score 'mean_iu'"):
        block_interval(counts, "mean_iu")
    with pytest.raises(ConfigError, match="level"):
        block_interval(counts, level=95)
    with pytest.raises(ConfigError, match="draws"):
        paired_test(counts, counts, draws=0)


def test_seeds() -> None:
    found = seed_summary([0.68, 0.70, 0.71, math.nan])
    assert found == pytest.approx({"mean": np.mean([0.68, 0.7, 0.71]), "sd": 0.0152752523, "n": 3, "undefined": 1})
    assert math.isnan(seed_summary([0.5])["sd"]) and seed_summary([0.5])["mean"] == 0.5
    assert math.isnan(seed_summary([])["mean"]) and seed_summary([])["n"] == 0


def test_last_epochs() -> None:
    values = [9.0, 9.0, 1.0, 5.0, 2.0, 8.0]
    assert (median_of_last(values, 3), median_of_last(values, 4), mean_of_last(values, 3)) == (5.0, 3.5, 5.0)
    assert median_of_last(values, 99) == 6.5 and mean_of_last(values[:2], 5) == 9.0
    assert math.isnan(median_of_last([], 3)) and math.isnan(mean_of_last([1.0, math.nan], 2))
    with pytest.raises(ConfigError, match="last 0 epochs"):
        median_of_last(values, 0)
