"""The boundary F1 loss against its equations in float64 NumPy, and against boundaries counted on masks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import losses
from pipeline.errors import ConfigError


def pool(y: np.ndarray, window: int, valid: np.ndarray) -> np.ndarray:
    """Maximum over the valid pixels of every window, pixel by pixel; 0 at ignored ones."""
    reach, found = window // 2, np.zeros_like(y)
    for i, j in itertools.product(*map(range, y.shape)):
        if valid[i, j]:
            box = (slice(max(0, i - reach), i + reach + 1), slice(max(0, j - reach), j + reach + 1))
            found[i, j] = y[box][valid[box]].max()
    return found


def image_loss(p: np.ndarray, y: np.ndarray, valid: np.ndarray, theta0: int, theta: int) -> float | None:
    """1 − 2PR / (P + R) of one image and class; None without a true boundary."""
    y_b = np.where(valid, pool(1 - y, theta0, valid) - (1 - y), 0)
    p_b = np.where(valid, pool(1 - p, theta0, valid) - (1 - p), 0)
    if not y_b.any():
        return None
    precision = (p_b * pool(y_b, theta, valid)).sum() / p_b.sum() if p_b.any() else 0
    recall = (y_b * pool(p_b, theta, valid)).sum() / y_b.sum()
    return 1 - 2 * precision * recall / (precision + recall) if precision + recall else 1.0


def reference(logits: np.ndarray, target: np.ndarray, theta0: int, theta: int) -> float:
    c = logits.shape[1]
    e = np.exp(logits)
    probability = e / (1 + e) if c == 1 else e / e.sum(axis=1, keepdims=True)
    by_class = []
    for k in range(c):
        pairs = zip(probability[:, k], target, strict=True)
        index = 1 if c == 1 else k
        found = [image_loss(p, (y == index).astype(float), y != 255, theta0, theta) for p, y in pairs]
        if known := [loss for loss in found if loss is not None]:
            by_class.append(sum(known) / len(known))
    return sum(by_class) / len(by_class)


@pytest.mark.parametrize(("theta0", "theta"), [(3, 5), (3, 1), (5, 7), (3, 3)])
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_equals_the_equations(classes: int, theta0: int, theta: int) -> None:
    """The last image is of one class, so that no class has a boundary there; class 3 has none anywhere."""
    rng = np.random.default_rng(classes)
    logits = rng.normal(0, 2, (3, classes, 9, 7))
    target = rng.integers(0, min(3, max(2, classes)), (3, 9, 7))
    target[rng.random(target.shape) < 0.2] = 255
    target[2][target[2] != 255] = 1
    loss = losses.create("boundary_f1", theta0=theta0, theta=theta)
    expected = reference(logits, target, theta0, theta)
    assert loss(torch.tensor(logits), torch.tensor(target)).item() == pytest.approx(expected, rel=1e-12)
    single = loss(torch.tensor(logits, dtype=torch.float32), torch.tensor(target)).item()
    assert single == pytest.approx(expected, abs=1e-6)


def boundary(mask: np.ndarray, valid: np.ndarray, reach: int) -> np.ndarray:
    """Pixels of a mask [pixels, 2] with a valid pixel of the other side at most `reach` px away (maximum norm)."""
    own, other = np.argwhere(mask & valid), np.argwhere(~mask & valid)
    near = [len(other) > 0 and np.abs(other - pixel).max(axis=1).min() <= reach for pixel in own]
    return own[np.array(near, bool)] if len(own) else own


def metric(predicted: np.ndarray, truth: np.ndarray, valid: np.ndarray, reach0: int, reach: int) -> float | None:
    """BF1 as section 3.1 defines it, by counting pixels, with the windows' distance; None without a true boundary."""
    line, true_line = boundary(predicted, valid, reach0), boundary(truth, valid, reach0)
    if not len(true_line):
        return None
    if not len(line):
        return 0.0
    apart = np.abs(line[:, None] - true_line[None]).max(axis=2)
    precision, recall = (apart.min(axis=1) <= reach).mean(), (apart.min(axis=0) <= reach).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@given(
    theta0=st.sampled_from([3, 5]),
    theta=st.sampled_from([1, 3, 5, 7]),
    share=st.floats(0, 1),
    wrong=st.floats(0, 1),
    ignored=st.sampled_from([0, 0.3]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_on_masks_it_is_the_metric(
    theta0: int, theta: int, share: float, wrong: float, ignored: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.random((4, 3)) < share, np.ones((3, 4))).astype(bool)
    predicted = np.roll(truth, rng.integers(-2, 3, 2), (0, 1)) ^ np.kron(
        rng.random((6, 6)) < wrong / 4, np.ones((2, 2))
    ).astype(bool)
    valid = rng.random(truth.shape) >= ignored
    bf1 = metric(predicted, truth, valid, theta0 // 2, theta // 2)
    target = torch.tensor(np.where(valid, truth, 255).astype(np.int64))
    logits = torch.tensor(np.where(predicted, 800.0, -800.0))
    got = losses.create("boundary_f1", theta0=theta0, theta=theta)(logits[None, None], target[None]).item()
    assert got == pytest.approx(0.0 if bf1 is None else 1 - bf1, abs=1e-12)


def test_a_segment_moved_within_the_window_costs_nothing() -> None:
    """θ = 5 reaches 2 px: moved by 2 px all is found, by 3 px not all."""
    target = torch.zeros(1, 20, 20, dtype=torch.int64)
    target[0, 6:14, 6:14] = 1
    loss = losses.create("boundary_f1")
    moved = [(torch.roll(target, step, 1) * 2.0 - 1).unsqueeze(1) * 800 for step in (0, 2, 3)]
    values = [loss(logits, target).item() for logits in moved]
    assert values[:2] == [0.0, 0.0] and values[2] > 0.1


def test_the_images_border_is_no_boundary() -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.int64)
    target[0, :4] = 1
    logits = (target * 2.0 - 1).unsqueeze(1) * 800
    line = losses.create("boundary_f1")._boundary(logits.sigmoid(), torch.ones(1, 1, 8, 8, dtype=torch.bool))
    assert line[0, 0].nonzero()[:, 0].unique().tolist() == [3]


@pytest.mark.parametrize("fill", [0, 1])
def test_without_a_true_boundary_an_image_is_left_out(fill: int) -> None:
    """Neither value nor gradient: no prediction has a BF1 there, and the others' mean is not diluted."""
    torch.manual_seed(0)
    logits, target = torch.randn(2, 1, 9, 9), torch.randint(0, 2, (2, 9, 9))
    target[1] = fill
    loss = losses.create("boundary_f1")
    logits.requires_grad_()
    both = loss(logits, target)
    both.backward()
    assert both.item() == pytest.approx(loss(logits[:1], target[:1]).item(), rel=1e-6)
    assert not logits.grad[1].any() and logits.grad[0].any()


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1e-4])
def test_a_prediction_that_is_almost_even_has_a_finite_slope(scale: float) -> None:
    """Its boundary is empty or next to nothing; both ratios stay below 1."""
    torch.manual_seed(0)
    logits, target = (torch.randn(1, 1, 9, 9) * scale).requires_grad_(), torch.randint(0, 2, (1, 9, 9))
    loss = losses.create("boundary_f1")(logits, target)
    loss.backward()
    assert 0 <= loss.item() <= 1 and torch.isfinite(logits.grad).all() and logits.grad.abs().max() < 10


def test_gradient_descent_finds_the_boundary() -> None:
    """From noise; alone it cannot tell which side of the boundary is the segment, so both are in order."""
    target = torch.zeros(1, 12, 12, dtype=torch.int64)
    target[0, 3:9, 3:9] = 1
    logits = torch.randn(1, 1, 12, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = losses.create("boundary_f1", theta=3)
    optimizer = torch.optim.Adam([logits], lr=0.5)
    values = []
    for _ in range(40):
        optimizer.zero_grad()
        value = loss(logits, target)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[0] > 0.4 and values[-1] < 0.1


@pytest.mark.parametrize("params", [{"theta0": 1}, {"theta0": 4}, {"theta": 6}, {"theta": -1}, {"theta": 2.5}])
def test_impossible_windows(params: dict) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(params))} ") as caught:
        losses.create("boundary_f1", **params)
    assert "\n" not in str(caught.value)
