"""The Hausdorff loss against its mean in float64 NumPy, with distances of SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from pipeline import losses
from pipeline.errors import ConfigError


def unsigned(region: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Distance of every valid pixel to the other side of a region, in px; 0 without both sides."""
    inside, outside = region & valid, ~region & valid
    if not inside.any() or not outside.any():
        return np.zeros(region.shape)
    return np.where(inside, distance_transform_edt(~outside), distance_transform_edt(~inside))


def reference(logits: np.ndarray, target: np.ndarray, alpha: float) -> float:
    c, e = logits.shape[1], np.exp(logits)
    p = e / (1 + e) if c == 1 else e / e.sum(axis=1, keepdims=True)
    predicted = (p[:, 0] > 0.5).astype(int) if c == 1 else p.argmax(axis=1)
    total = 0.0
    for k in range(c):
        index = 1 if c == 1 else k
        for image, labels, guess in zip(p[:, k], target, predicted, strict=True):
            valid = labels != 255
            reach = unsigned(labels == index, valid) ** alpha + unsigned(guess == index, valid) ** alpha
            total += ((image - (labels == index)) ** 2 * reach)[valid].sum()
    return total / (target != 255).sum() / c


@pytest.mark.parametrize("alpha", [2.0, 0.5])
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_equals_the_mean(classes: int, alpha: float) -> None:
    rng = np.random.default_rng(classes)
    logits = rng.normal(0, 2, (3, classes, 8, 6))
    target = rng.integers(0, max(2, classes), (3, 8, 6))
    target[rng.random(target.shape) < 0.2] = 255
    target[1][target[1] != 255] = 1
    logits[2, -1] = 20
    loss = losses.create("hausdorff", alpha=alpha)
    expected = reference(logits, target, alpha)
    assert loss(torch.tensor(logits), torch.tensor(target)).item() == pytest.approx(expected, rel=1e-6)
    single = loss(torch.tensor(logits, dtype=torch.float32), torch.tensor(target)).item()
    assert single == pytest.approx(expected, rel=1e-6)


def test_is_monais_where_both_regions_have_a_boundary() -> None:
    from monai.losses import HausdorffDTLoss

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 16, 16, generator=generator)
    target = torch.randint(0, 2, (2, 16, 16), generator=generator)
    theirs = HausdorffDTLoss(sigmoid=True)(logits, target.unsqueeze(1).float())
    assert losses.create("hausdorff")(logits, target).item() == pytest.approx(theirs.item(), rel=1e-5)


def test_a_false_island_costs_its_squared_distance() -> None:
    """One wrong pixel, d px from the true region and 1 px from its own edge: (d² + 1) / pixels."""
    target = torch.zeros(1, 1, 30, dtype=torch.int64)
    target[0, 0, :3] = 1
    for distance in (3, 10, 20):
        logits = (target * 2.0 - 1).unsqueeze(1) * 800
        logits[..., 2 + distance] = 800.0
        value = losses.create("hausdorff")(logits, target).item()
        assert value == pytest.approx((distance**2 + 1) / 30, rel=1e-6)


def test_unit_divides_by_its_power() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(1, 3, 6, 6), torch.randint(0, 3, (1, 6, 6))
    one, other = (losses.create("hausdorff", alpha=1.5, unit_px=unit)(logits, target).item() for unit in (1, 4.0))
    assert other == pytest.approx(one / 8, rel=1e-6)


def test_the_predicted_region_takes_no_gradient() -> None:
    """The slope is that of the squared error alone: 2 (p − g) p (1 − p) times the distances as they are."""
    logits = torch.tensor([[[[1.0, 2.0, -1.0, -3.0]]]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[[1, 0, 0, 0]]])
    losses.create("hausdorff")(logits, target).backward()
    p = logits.detach().sigmoid().flatten()
    reach = torch.tensor([1 + 4, 1 + 1, 4 + 1, 9 + 4])
    expected = 2 * (p - target.flatten()) * p * (1 - p) * reach / 4
    torch.testing.assert_close(logits.grad.flatten(), expected)


@pytest.mark.parametrize("params", [{"alpha": 0}, {"alpha": -1.0}, {"unit_px": 0}])
def test_impossible_parameters(params: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(params))):
        losses.create("hausdorff", **params)
