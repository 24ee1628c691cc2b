"""Cross entropy against its equation in float64 NumPy, pixel by pixel, and against torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import losses
from tests.unit.losses.overlap_reference import case, pixels


def reference(logits: np.ndarray, target: np.ndarray, class_weights: list[float]) -> float:
    total = weight = 0.0
    for _, (p, truth) in pixels(logits, target):
        if len(p) == 1:
            p, truth = np.array([1 - p[0], p[0]]), np.array([1 - truth[0], truth[0]])
        total -= float((class_weights * truth * np.log(p)).sum())
        weight += float((class_weights * truth).sum())
    return total / weight


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_equation(classes: int, weighted: bool) -> None:
    logits, target = case(classes)
    weights = [0.3, 0.7, 0.0, 2.5][: max(2, classes)] if weighted else None
    loss = losses.create("cross_entropy", class_weights=weights)
    expected = reference(logits, target, weights or [1.0] * max(2, classes))
    assert loss(torch.tensor(logits), torch.tensor(target)).item() == pytest.approx(expected, rel=1e-12)
    single = loss(torch.tensor(logits, dtype=torch.float32), torch.tensor(target)).item()
    assert single == pytest.approx(expected, abs=1e-6)


def test_equals_torch_with_several_classes() -> None:
    logits, target = map(torch.tensor, case(4))
    weights = [1.0, 2.0, 0.5, 0.1]
    expected = nn.CrossEntropyLoss(torch.tensor(weights, dtype=torch.float64), ignore_index=255)(logits, target)
    torch.testing.assert_close(losses.create("cross_entropy", class_weights=weights)(logits, target), expected)


def test_the_weighted_binary_form_of_the_thesis() -> None:
    """Positive pixels weigh 0.7, the others 0.3; two even classes then give the plain loss."""
    target = torch.tensor([[[1, 1, 0, 0]]])
    logits = torch.tensor([[[[2.0, -1.0, 0.5, -3.0]]]])
    got = losses.create("cross_entropy", class_weights=[0.3, 0.7])(logits, target)
    by_pixel = nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target.float(), reduction="none")
    assert got.item() == pytest.approx((0.7 * by_pixel[..., :2].sum() + 0.3 * by_pixel[..., 2:].sum()).item() / 2)
    assert losses.create("cross_entropy", class_weights=[1, 0])(logits, target).item() == pytest.approx(
        by_pixel[..., 2:].mean().item()
    )


def test_one_logit_is_two_with_the_first_at_zero() -> None:
    logits, target = map(torch.tensor, case(1))
    pair = torch.cat([torch.zeros_like(logits), logits], dim=1)
    loss = losses.create("cross_entropy", class_weights=[1.0, 3.0])
    torch.testing.assert_close(loss(logits, target), loss(pair, target))


def test_digits_survive_large_logits() -> None:
    target = torch.zeros(1, 1, 1, dtype=torch.int64)
    loss = losses.create("cross_entropy")
    assert loss(torch.tensor([[[[80.0]]]]), target).item() == pytest.approx(80)
    assert loss(torch.tensor([[[[-40.0]]]]), target).item() == pytest.approx(np.exp(-40), rel=1e-5)


def test_pixels_of_weightless_classes_alone_give_zero() -> None:
    logits = torch.randn(1, 2, 2, 2, requires_grad=True)
    loss = losses.create("cross_entropy", class_weights=[0, 1])(logits, torch.zeros(1, 2, 2, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()
