"""The Jaccard loss against its equation in float64 NumPy, written class by class."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline import losses
from pipeline.errors import ConfigError


def reference(logits: np.ndarray, target: np.ndarray, eps: float) -> float:
    c = logits.shape[1]
    flat = np.moveaxis(logits.astype(np.float64), 1, -1).reshape(-1, c)[target.ravel() != 255]
    labels = target.ravel()[target.ravel() != 255]
    if c == 1:
        probability, truth = 1 / (1 + np.exp(-flat)), (labels == 1)[:, None].astype(float)
    else:
        probability = np.exp(flat) / np.exp(flat).sum(1, keepdims=True)
        truth = np.eye(c)[labels]
    scores = []
    for k in range(c):
        intersection = float(np.dot(probability[:, k], truth[:, k]))
        union = float(probability[:, k].sum() + truth[:, k].sum() - intersection)
        scores.append((intersection + eps) / (union + eps))
    return 1 - sum(scores) / c


@pytest.mark.parametrize("eps", [1e-5, 1.0])
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_equals_the_equation(classes: int, eps: float) -> None:
    rng = np.random.default_rng(classes)
    logits = rng.normal(0, 3, (3, classes, 5, 4))
    target = rng.integers(0, max(2, classes), (3, 5, 4))
    target[rng.random(target.shape) < 0.2] = 255
    expected = reference(logits, target, eps)
    loss = losses.create("jaccard", eps=eps)
    assert loss(torch.tensor(logits), torch.tensor(target)).item() == pytest.approx(expected, rel=1e-12)
    single = loss(torch.tensor(logits, dtype=torch.float32), torch.tensor(target)).item()
    assert single == pytest.approx(expected, abs=1e-6)


def test_runs_over_the_whole_batch_not_chip_by_chip() -> None:
    logits, target = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    target[0] = 0
    loss = losses.create("jaccard")
    by_chip = (loss(logits[:1], target[:1]) + loss(logits[1:], target[1:])) / 2
    stacked = loss(logits.permute(1, 0, 2, 3).reshape(1, 3, 8, 4), target.reshape(1, 8, 4))
    assert loss(logits, target).item() == pytest.approx(stacked.item(), abs=1e-6)
    assert abs(loss(logits, target).item() - by_chip.item()) > 1e-3


def test_eps_stands_in_numerator_and_denominator() -> None:
    """A class that is absent and never predicted counts as right: (0 + ε) / (0 + ε)."""
    logits = torch.full((1, 2, 3, 3), -200.0)
    logits[:, 0] = 200.0
    target = torch.zeros(1, 3, 3, dtype=torch.int64)
    assert losses.create("jaccard")(logits, target).item() == 0.0
    assert losses.create("jaccard", eps=0.5)(logits, target + 1).item() == pytest.approx(1 - 0.5 / 9.5, rel=1e-6)


def test_perfect_and_hopeless() -> None:
    target = torch.tensor([[[0, 1], [2, 0]]])
    right = torch.nn.functional.one_hot(target, 3).permute(0, 3, 1, 2) * 100.0
    loss = losses.create("jaccard")
    assert loss(right, target).item() == pytest.approx(0, abs=1e-6)
    assert loss(right, (target + 1) % 3).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("eps", [0, -1, "x"])
def test_impossible_eps(eps: object) -> None:
    with pytest.raises(ConfigError, match="eps"):
        losses.create("jaccard", eps=eps)
