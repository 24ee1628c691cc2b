"""ROC AUC and average precision from histograms against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import metrics
from pipeline.errors import ConfigError, RunError
from pipeline.metrics import _ranking
from pipeline.metrics.histograms import ExactProbabilities, ProbabilityHistograms, _bin

CLASSES = ("a", "b", "c", "d")
SCORES = (
    ("roc_auc", sk.roc_auc_score, _ranking.roc_auc_error),
    ("average_precision", sk.average_precision_score, _ranking.average_precision_error),
)


def chips(classes: int = 4, seed: int = 0, sure: float = 1.0, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, max(2, classes), (count, 9, 8), generator=generator)
    logits = torch.randn(count, classes, 9, 8, generator=generator)
    truth = torch.stack([target == (index if classes > 1 else 1) for index in range(classes)], dim=1)
    logits = (logits + truth) * sure
    target[torch.rand(target.shape, generator=generator) < 0.15] = 255
    return (logits.softmax(1) if classes > 1 else logits.sigmoid()), target


def feed(meter, probabilities: torch.Tensor, target: torch.Tensor, size: int = 2):
    for start in range(0, len(target), size):
        meter.update(probabilities[start : start + size], target[start : start + size])
    return meter.compute()


def of_class(probabilities: torch.Tensor, target: torch.Tensor, index: int) -> tuple[np.ndarray, np.ndarray]:
    known = target != 255
    wanted = 1 if probabilities.shape[1] == 1 else index
    return (target[known] == wanted).numpy(), probabilities[:, index][known].numpy()


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("sure", [0.2, 1.0, 12.0])
@pytest.mark.parametrize(("name", "theirs", "error"), SCORES)
def test_exact_equals_scikit_learn(classes: int, sure: float, name: str, theirs, error) -> None:
    probabilities, target = chips(classes, sure=sure)
    names = CLASSES[: max(2, classes)]
    scores = metrics.create(name)(feed(ExactProbabilities(classes), probabilities, target), names)
    expected = [theirs(*of_class(probabilities, target, index)) for index in range(classes)]
    assert list(scores) == [name, *(f"{name}_{label}" for label in (names if classes > 1 else names[1:]))]
    assert list(scores.values()) == pytest.approx([np.mean(expected), *expected], abs=1e-12)


@pytest.mark.parametrize("bins", [64, 1024, 4096])
@pytest.mark.parametrize("sure", [0.2, 1.0, 12.0])
@pytest.mark.parametrize(("name", "theirs", "error"), SCORES)
def test_binned_lies_within_its_stated_bound(bins: int, sure: float, name: str, theirs, error) -> None:
    probabilities, target = chips(4, sure=sure, count=8)
    histograms = feed(ProbabilityHistograms(4, bins=bins), probabilities, target)
    scores = metrics.create(name)(histograms, CLASSES)
    for index, label in enumerate(CLASSES):
        exact, bound = theirs(*of_class(probabilities, target, index)), error(histograms[index])
        assert abs(scores[f"{name}_{label}"] - exact) <= bound + 1e-12
        assert 0 < bound < {64: 0.6, 1024: 0.3, 4096: 0.15}[bins]


def test_many_bins_are_near_for_confident_networks_too() -> None:
    """Where probabilities crowd at 0 and 1 the bins are finest: the bound stays small, equal bins would be coarse."""
    for sure in (1.0, 3.0):
        probabilities, target = chips(2, sure=sure, count=100)
        histogram = feed(ProbabilityHistograms(2), probabilities, target, 50)[1]
        assert _ranking.roc_auc_error(histogram) < 0.003
        assert _ranking.average_precision_error(histogram) < 0.01
        exact = sk.average_precision_score(*of_class(probabilities, target, 1))
        assert _ranking.average_precision(histogram) == pytest.approx(exact, abs=1e-3)
    equal = np.histogram(probabilities[:, 1], bins=4096, range=(0, 1))[0]
    assert max(equal[0], equal[-1]) > 2 * histogram.sum(axis=0).max()


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
@settings(max_examples=150, deadline=None)
def test_bounds_hold_for_any_order_within_bins(cells: list[tuple[int, int]], random) -> None:
    """Pixels of a bin in any order and with any ties: no exact score is farther away than the bound says."""
    histogram = np.array(cells, dtype=np.int64).T
    truth, place = [], []
    for at, (negatives, positives) in enumerate(cells):
        truth += [False] * negatives + [True] * positives
        place += [at + random.choice((0.0, 0.25, 0.5, 0.75)) for _ in range(negatives + positives)]
    if any(truth):
        found = sk.average_precision_score(truth, place)
        bound = _ranking.average_precision_error(histogram)
        assert abs(_ranking.average_precision(histogram) - found) <= bound + 1e-12
    if any(truth) and not all(truth):
        found = sk.roc_auc_score(truth, place)
        assert abs(_ranking.roc_auc(histogram) - found) <= _ranking.roc_auc_error(histogram) + 1e-12


@pytest.mark.parametrize("meter", [ProbabilityHistograms, ExactProbabilities])
def test_in_any_pieces_the_histograms_are_the_same(meter) -> None:
    probabilities, target = chips(3, count=7)
    whole = feed(meter(3), probabilities, target, 7)
    assert whole.dtype == np.int64 and whole.sum() == 3 * (target != 255).sum()
    assert np.array_equal(feed(meter(3), probabilities, target, 1), whole)
    order = torch.randperm(7)
    assert np.array_equal(feed(meter(3), probabilities[order], target[order].to(torch.uint8), 3), whole)


def test_exact_merges_while_it_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities, target = chips(2, count=20)
    whole = feed(ExactProbabilities(2), probabilities, target, 20)
    monkeypatch.setattr("pipeline.metrics.histograms.MERGE_AT", 100)
    meter = ExactProbabilities(2)
    assert np.array_equal(feed(meter, probabilities.round(decimals=2), target, 1).sum(axis=2), whole.sum(axis=2))
    assert len(meter._merged[0]) < 10 and len(meter._merged[0][0][0]) <= 101


def test_bins_rise_and_are_fine_at_both_ends() -> None:
    p = torch.cat([torch.tensor([0.0, 2**-40, 2**-33]), torch.logspace(-9, -0.31, 4000), torch.tensor([0.5])])
    p = torch.cat([p, 1 - p.flip(0)]).sort().values
    cells = _bin(p, 4096)
    assert (cells.diff() >= 0).all() and cells[0] == 0 and cells[-1] == 4095
    assert int(_bin(torch.tensor([0.5]), 4096)) == 2048 and int(_bin(torch.tensor([0.49999997]), 4096)) == 2047
    inner = (p > 2**-33) & (p < 1 - 2**-20)
    odds = (p.double() / (1 - p.double()))[inner]
    starts = np.unique(cells[inner].numpy(), return_index=True)[1]
    widest = np.maximum.reduceat(odds.numpy(), starts) / np.minimum.reduceat(odds.numpy(), starts)
    assert 1.01 < widest.max() < 1.032
    assert np.array_equal(_bin(torch.tensor([-0.1, 1.1, math.nan, math.inf]), 64).numpy(), [128] * 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("meter", [ProbabilityHistograms, ExactProbabilities])
def test_other_precisions_are_counted_as_float32(meter, dtype: torch.dtype) -> None:
    probabilities, target = chips(1)
    rounded = probabilities.to(dtype)
    assert np.array_equal(feed(meter(1), rounded, target), feed(meter(1), rounded.float(), target))


def test_without_positives_or_negatives() -> None:
    auc, ap = metrics.create("roc_auc"), metrics.create("average_precision")
    only = np.array([[[0, 0], [2, 3]], [[4, 1], [0, 0]], [[1, 0], [0, 1]]])
    assert list(map(str, auc(only, "abc").values())) == ["1.0", "nan", "nan", "1.0"]
    assert list(map(str, ap(only, "abc").values())) == ["1.0", "1.0", "nan", "1.0"]
    empty = ProbabilityHistograms(2, bins=64).compute()
    assert empty.shape == (2, 2, 64) and all(map(math.isnan, auc(empty, "ab").values()))
    assert ExactProbabilities(2).compute().shape == (2, 2, 0)
    assert all(map(math.isnan, ap(ExactProbabilities(2).compute(), "ab").values()))


def test_counts_beyond_32_bits() -> None:
    scores = metrics.create("roc_auc")(np.array([[[10**12, 10**12], [10**12, 3 * 10**12]]]), ["x"])
    assert scores["roc_auc"] == pytest.approx(0.625, abs=1e-15)


@pytest.mark.parametrize("meter", [ProbabilityHistograms, ExactProbabilities])
def test_what_is_no_probability_is_named(meter) -> None:
    probabilities, target = chips(2)
    probabilities[0, 1, 0, 0], target[0, 0, 0] = 1.5, 0
    with pytest.raises(RunError, match="1 values are not between 0 and 1"):
        feed(meter(2), probabilities, target)
    target[0, 0, 0] = 255
    feed(meter(2), probabilities, target)
    for wrong in ((probabilities[:, :1], target), (probabilities, target[:1]), (probabilities[0], target)):
        with pytest.raises(RunError, match=r"are not \[N, 2, H, W\] and \[N, H, W\]"):
            meter(2).update(*wrong)


def test_what_does_not_fit_is_named() -> None:
    for bins in (0, 63, 100, 192, 4095):
        with pytest.raises(ConfigError, match=f"64 times a power of two, got {bins}"):
            ProbabilityHistograms(2, bins=bins)
    with pytest.raises(RunError, match=r"3 names of classes for histograms \[2, 2, 5\]"):
        metrics.create("roc_auc")(np.zeros((2, 2, 5), int), "abc")
    for wrong in (np.zeros((2, 3, 5), int), np.zeros((2, 2, 5)), np.full((2, 2, 5), -1)):
        with pytest.raises(RunError, match="histograms"):
            metrics.create("average_precision")(wrong, "ab")
