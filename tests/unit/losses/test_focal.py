"""The focal loss against its equation in float64 NumPy, written pixel by pixel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pipeline import losses
from pipeline.errors import ConfigError


def reference(logits: np.ndarray, target: np.ndarray, alpha: float, gamma: float, classes_too: bool) -> float:
    n, c, h, w = logits.shape
    total, count = 0.0, 0
    for i, y, x in itertools.product(range(n), range(h), range(w)):
        truth = target[i, y, x]
        if truth == 255:
            continue
        z = logits[i, :, y, x].astype(np.float64)
        if c == 1:
            positive = 1 / (1 + np.exp(-z[0]))
            p, weight = (positive, alpha) if truth == 1 else (1 - positive, 1 - alpha)
        else:
            p, weight = (np.exp(z) / np.exp(z).sum())[truth], alpha
        total += weight * (1 - p) ** gamma * -np.log(p)
        count += 1
    return total / count / (c if classes_too else 1)


@pytest.mark.parametrize("reduction", ["classes", "pixels"])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.7, 0.5), (1.0, 0.0), (0.3, 5.0)])
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_equals_the_equation(classes: int, alpha: float, gamma: float, reduction: str) -> None:
    rng = np.random.default_rng(classes)
    logits = rng.normal(0, 3, (2, classes, 5, 4))
    target = rng.integers(0, max(2, classes), (2, 5, 4))
    target[rng.random(target.shape) < 0.2] = 255
    expected = reference(logits, target, alpha, gamma, reduction == "classes")
    loss = losses.create("focal", alpha=alpha, gamma=gamma, reduction=reduction)
    assert loss(torch.tensor(logits), torch.tensor(target)).item() == pytest.approx(expected, rel=1e-12)
    single = loss(torch.tensor(logits, dtype=torch.float32), torch.tensor(target)).item()
    assert single == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_defaults_are_the_reports() -> None:
    """α 0.25, γ 2, mean over classes: one pixel, two even logits, so 0.25 · 0.5² · ln 2 / 2."""
    value = losses.create("focal")(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64))
    assert value.item() == pytest.approx(0.25 * 0.25 * np.log(2) / 2, rel=1e-6)


def test_mean_over_classes_is_the_pixel_mean_over_c() -> None:
    logits, target = torch.randn(1, 4, 8, 8), torch.randint(0, 4, (1, 8, 8))
    by_class, by_pixel = (losses.create("focal", reduction=r)(logits, target) for r in ("classes", "pixels"))
    assert by_class.item() == pytest.approx(by_pixel.item() / 4, rel=1e-6)


def test_gamma_zero_is_alpha_times_the_cross_entropy() -> None:
    logits, target = torch.randn(2, 4, 8, 8), torch.randint(0, 4, (2, 8, 8))
    target[0, :3] = 255
    cross_entropy = torch.nn.functional.cross_entropy(logits, target, ignore_index=255)
    loss = losses.create("focal", alpha=0.4, gamma=0, reduction="pixels")(logits, target)
    assert loss.item() == pytest.approx(0.4 * cross_entropy.item(), rel=1e-6)


def test_hard_pixel_keeps_its_gradient() -> None:
    """A pixel that is wrong beyond float32's reach of the softmax still pulls: no clipping of p."""
    logits = torch.tensor([-60.0, 60.0]).view(1, 2, 1, 1).requires_grad_()
    losses.create("focal", reduction="pixels")(logits, torch.zeros(1, 1, 1, dtype=torch.int64)).backward()
    assert logits.grad.flatten().tolist() == pytest.approx([-0.25, 0.25], rel=1e-5)


@pytest.mark.parametrize("gamma", [0.3, 0.9])
def test_gamma_below_one_has_no_infinite_slope(gamma: float) -> None:
    logits = torch.tensor([60.0, -60.0]).view(1, 2, 1, 1).requires_grad_()
    losses.create("focal", gamma=gamma)(logits, torch.zeros(1, 1, 1, dtype=torch.int64)).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    "params", [{"alpha": -0.1}, {"alpha": 1.5}, {"gamma": -1}, {"reduction": "sum"}, {"gamma": "2"}]
)
def test_impossible_parameters(params: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(params))) as caught:
        losses.create("focal", **params)
    assert "\n" not in str(caught.value)
