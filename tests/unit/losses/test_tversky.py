"""`tversky` and `focal_tversky` against the thesis's equations, pixel by pixel, and their identities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline import losses
from pipeline.errors import ConfigError
from tests.unit.losses.overlap_reference import case, groups


def reference(
    logits: np.ndarray, target: np.ndarray, alpha: float, beta: float, gamma: float, eps: float, per: str, weights: Any
) -> float:
    scores = []
    for group in groups(logits, target, per):
        tp = fn = fp = np.zeros(logits.shape[1])
        for p, truth in group:
            tp, fn, fp = tp + p * truth, fn + (1 - p) * truth, fp + p * (1 - truth)
        index = (tp + eps) / (tp + alpha * fn + beta * fp + eps)
        scores.append(np.average((1 - index) ** gamma, weights=weights))
    return float(np.mean(scores))


def value(name: str, case_: tuple[np.ndarray, np.ndarray], dtype: torch.dtype = torch.float64, **params: Any) -> float:
    logits, target = case_
    return losses.create(name, **params)(torch.tensor(logits, dtype=dtype), torch.tensor(target)).item()


@pytest.mark.parametrize("per", ["batch", "sample"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.7, 0.3), (1.0, 1.0), (0.0, 2.0)])
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_equal_the_equations(classes: int, alpha: float, beta: float, per: str) -> None:
    pair = case(classes)
    params = {"alpha": alpha, "beta": beta, "per": per}
    for gamma, eps in ((1.0, 1e-5), (0.75, 0.1), (2.0, 1e-5)):
        expected = reference(*pair, alpha, beta, gamma, eps, per, None)
        for dtype, close in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
            got = value("focal_tversky", pair, dtype, gamma=gamma, eps=eps, **params)
            assert got == pytest.approx(expected, abs=close)
        if gamma == 1:
            assert value("tversky", pair, eps=eps, **params) == pytest.approx(expected, abs=1e-12)


def test_class_weights_lie_over_the_mean_over_classes() -> None:
    pair, weights = case(4), [0.0, 1.0, 2.0, 0.5]
    expected = reference(*pair, 0.5, 0.5, 2.0, 1e-5, "batch", weights)
    assert value("focal_tversky", pair, class_weights=weights) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_defaults_are_the_thesis(classes: int) -> None:
    """Experiment 3: false negatives 0.7, false positives 0.3. Experiment 1: one half each, γ 2."""
    pair = case(classes, seed=2)
    assert value("tversky", pair) == pytest.approx(reference(*pair, 0.7, 0.3, 1.0, 1e-5, "batch", None), abs=1e-12)
    focal = reference(*pair, 0.5, 0.5, 2.0, 1e-5, "batch", None)
    assert value("focal_tversky", pair) == pytest.approx(focal, abs=1e-12)


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("per", ["batch", "sample"])
def test_one_half_each_is_dice(classes: int, per: str) -> None:
    """(TP + ε) / (TP + ½ FN + ½ FP + ε) = (2 TP + 2 ε) / (2 TP + FN + FP + 2 ε)."""
    pair = case(classes)
    half = value("tversky", pair, alpha=0.5, beta=0.5, eps=0.01, per=per)
    assert half == pytest.approx(value("dice", pair, smooth=0.02, per=per), abs=1e-12)


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_one_each_is_jaccard(classes: int) -> None:
    pair = case(classes)
    assert value("tversky", pair, alpha=1, beta=1) == pytest.approx(value("jaccard", pair), abs=1e-12)


def test_alpha_weighs_false_negatives_and_beta_false_positives() -> None:
    target = torch.tensor([[[1, 1, 1, 0, 0, 0, 0]]])
    missed, alarmed = (torch.where(target == 1, 100.0, -100.0).unsqueeze(1) for _ in range(2))
    missed[..., 0] = -100.0
    alarmed[..., -1] = 100.0
    loss = losses.create("tversky", alpha=0.8, beta=0.2, eps=1e-9)
    assert loss(missed, target).item() == pytest.approx(1 - 2 / 2.8, rel=1e-6)
    assert loss(alarmed, target).item() == pytest.approx(1 - 3 / 3.2, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.05, 0.5, 1.0, 3.0])
def test_a_perfect_mask_has_no_loss_and_a_finite_slope(gamma: float) -> None:
    """Below γ = 1 the slope of the power is infinite at 0."""
    target = torch.tensor([[[0, 1], [1, 0]]])
    for scale in (4.0, 20.0, 500.0):
        logits = (torch.tensor([[[[-1.0, 1.0], [1.0, -1.0]]]]) * scale).requires_grad_()
        loss = losses.create("focal_tversky", gamma=gamma)(logits, target)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()
    assert loss.item() == 0


@pytest.mark.parametrize("name", ["tversky", "focal_tversky"])
def test_impossible_parameters(name: str) -> None:
    for wrong in ({"alpha": -0.1}, {"beta": -1}, {"alpha": 0, "beta": 0}, {"eps": 0}):
        with pytest.raises(ConfigError, match=f"loss {name}: .*{next(iter(wrong))}"):
            losses.create(name, **wrong)
    with pytest.raises(ConfigError, match=r"gamma 0\.0 is not above 0"):
        losses.create("focal_tversky", gamma=0)
