"""The batch-mean Jaccard coefficient against its description, in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import losses
from pipeline.errors import RunError
from pipeline.metrics.jaccard_coefficient import BatchMeanJaccard, batch_jaccard


def chips(count: int, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, 4, 4, generator=generator, dtype=torch.float64)
    target = torch.randint(0, max(2, classes), (count, 4, 4), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.1] = 255
    return (logits.softmax(1) if classes > 1 else logits.sigmoid()), target


def reference(probabilities: torch.Tensor, target: torch.Tensor) -> float:
    p, t = probabilities.double().numpy(), target.numpy()
    valid = t != 255
    scores = []
    for k in range(p.shape[1]):
        probability, truth = p[:, k][valid], (t[valid] == (k if p.shape[1] > 1 else 1)).astype(float)
        intersection = (probability * truth).sum()
        scores.append((intersection + 1e-5) / (probability.sum() + truth.sum() - intersection + 1e-5))
    return float(np.mean(scores))


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_one_batch_equals_the_equation(classes: int) -> None:
    probabilities, target = chips(7, classes)
    assert batch_jaccard(probabilities, target) == pytest.approx(reference(probabilities, target), rel=1e-12)


def test_is_one_minus_the_loss() -> None:
    logits, target = torch.randn(3, 4, 5, 5), torch.randint(0, 4, (3, 5, 5))
    loss = losses.create("jaccard")(logits, target).item()
    assert batch_jaccard(logits.softmax(1), target) == pytest.approx(1 - loss, abs=1e-6)


def mean_over_batches(probabilities: torch.Tensor, target: torch.Tensor, size: int) -> float:
    meter = BatchMeanJaccard(probabilities.shape[1])
    for start in range(0, len(target), size):
        meter.update(probabilities[start : start + size], target[start : start + size])
    return meter.compute()


@pytest.mark.parametrize(
    ("count", "batches"),
    [
        (200, [(0, 64), (64, 128), (128, 192)]),
        (128, [(0, 64), (64, 128)]),
        (65, [(0, 64)]),
        (64, [(0, 64)]),
        (10, [(0, 10)]),
    ],
)
def test_batches_of_64_in_order_without_the_incomplete_last(count: int, batches: list[tuple[int, int]]) -> None:
    probabilities, target = chips(count)
    expected = np.mean([reference(probabilities[a:b], target[a:b]) for a, b in batches])
    assert mean_over_batches(probabilities, target, 64) == pytest.approx(expected, rel=1e-12)


@given(count=st.integers(1, 200), size=st.integers(1, 130), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_fed_in_any_pieces_the_number_is_the_same(count: int, size: int, seed: int) -> None:
    probabilities, target = chips(count, seed=seed)
    whole = mean_over_batches(probabilities.float(), target, 64)
    assert mean_over_batches(probabilities.float(), target, size) == pytest.approx(whole, rel=1e-13)


def test_half_precision_and_small_labels() -> None:
    probabilities, target = chips(8)
    exact = batch_jaccard(probabilities.bfloat16().double(), target)
    assert batch_jaccard(probabilities.bfloat16(), target.to(torch.uint8)) == pytest.approx(exact, rel=1e-9)


def test_without_chips_or_pixels() -> None:
    assert math.isnan(BatchMeanJaccard(3).compute())
    probabilities, target = chips(2)
    assert batch_jaccard(probabilities, torch.full_like(target, 255)) == 1.0
    meter = BatchMeanJaccard(3)
    meter.update(probabilities[:0], target[:0])
    assert math.isnan(meter.compute())


def test_keeps_no_graph() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    meter = BatchMeanJaccard(3)
    meter.update(logits.softmax(1), torch.zeros(2, 4, 4, dtype=torch.long))
    assert isinstance(meter.compute(), float) and not meter._sums[0].requires_grad


def test_shapes_that_do_not_fit() -> None:
    probabilities, target = chips(2)
    with pytest.raises(RunError, match=r"\[N, C, H, W\] and \[N, H, W\]"):
        batch_jaccard(probabilities, target[:1])
    with pytest.raises(RunError, match=r"not \[N, 4, H, W\]"):
        BatchMeanJaccard(4).update(probabilities, target)
