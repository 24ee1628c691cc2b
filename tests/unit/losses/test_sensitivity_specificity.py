"""The sensitivity-specificity loss against its equation, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from pipeline import losses
from pipeline.errors import ConfigError
from tests.unit.losses.overlap_reference import case, groups


def reference(logits: np.ndarray, target: np.ndarray, lam: float, eps: float, weights: list[float] | None) -> float:
    tp = fn = fp = tn = np.zeros(logits.shape[1])
    for p, truth in groups(logits, target, "batch")[0]:
        tp, fn = tp + p * truth, fn + (1 - p) * truth
        fp, tn = fp + p * (1 - truth), tn + (1 - p) * (1 - truth)
    score = lam * (tn + eps) / (tn + fp + eps) + (1 - lam) * (tp + eps) / (tp + fn + eps)
    if logits.shape[1] == 2 and weights is None:
        weights = [0.0, 1.0]
    return 1 - float(np.average(score, weights=weights))


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_equals_the_equation(classes: int, lam: float) -> None:
    logits, target = case(classes)
    for eps, weights in ((1e-5, None), (0.5, [1.0, 2.0, 0.0, 4.0][:classes] if classes > 1 else None)):
        loss = losses.create("sensitivity_specificity", specificity_weight=lam, eps=eps, class_weights=weights)
        expected = reference(logits, target, lam, eps, weights)
        for dtype, close in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
            got = loss(torch.tensor(logits, dtype=dtype), torch.tensor(target)).item()
            assert got == pytest.approx(expected, abs=close)


def test_default_is_one_minus_the_balanced_accuracy() -> None:
    rng = np.random.default_rng(0)
    target, guess = (rng.random((2, 6, 6)) < 0.3 for _ in range(2))
    logits = torch.tensor(np.where(guess, 100.0, -100.0)).unsqueeze(1)
    got = losses.create("sensitivity_specificity", eps=1e-12)(logits, torch.tensor(target.astype(np.int64)))
    assert got.item() == pytest.approx(1 - balanced_accuracy_score(target.ravel(), guess.ravel()), abs=1e-10)


def test_two_classes_are_the_binary_case() -> None:
    """The sigmoid of a logit is the softmax of it and 0: the same loss, with λ of the same say."""
    logits, target = map(torch.tensor, case(1))
    pair = torch.cat([torch.zeros_like(logits), logits], dim=1)
    small, large = (losses.create("sensitivity_specificity", specificity_weight=lam) for lam in (0.1, 0.9))
    for loss in (small, large):
        torch.testing.assert_close(loss(logits, target), loss(pair, target))
    assert abs(small(pair, target) - large(pair, target)) > 1e-3


def test_impossible_parameters() -> None:
    for wrong in (-0.1, 1.1):
        with pytest.raises(ConfigError, match=f"specificity_weight {wrong} is not between 0 and 1"):
            losses.create("sensitivity_specificity", specificity_weight=wrong)
    with pytest.raises(ConfigError, match=r"eps 0\.0 is not above 0"):
        losses.create("sensitivity_specificity", eps=0)
