"""Label smoothing of the losses that have it, against their equations in float64 NumPy, pixel by pixel."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline import losses, variants
from pipeline.errors import ConfigError
from pipeline.losses.target import smoothed
from tests.unit.losses.overlap_reference import Pixel, case, groups, pixels

NAMES = [name for name in variants.names("losses") if "label_smoothing" in variants.parameters("losses", name)]
SHARES = [0.1, 0.6]


def soft(truth: np.ndarray, share: float) -> np.ndarray:
    return (1 - share) * truth + share / max(2, len(truth))


def of(name: str, logits: np.ndarray, target: np.ndarray, **params: Any) -> float:
    loss = losses.create(name, **params)
    value: float = loss(torch.tensor(logits), torch.tensor(target)).item()
    single = loss(torch.tensor(logits, dtype=torch.float32), torch.tensor(target)).item()
    assert single == pytest.approx(value, abs=1e-6)
    return value


def test_the_losses_that_have_it() -> None:
    overlap = {"dice", "jaccard", "tanimoto", "generalized_dice", "tversky", "focal_tversky"}
    assert set(NAMES) == {"cross_entropy", "focal"} | overlap


# --- cross entropy and focal -------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 0.0]])
@pytest.mark.parametrize("classes", [2, 4])
def test_cross_entropy_equals_torch(classes: int, weights: list[float] | None, share: float) -> None:
    logits, target = (torch.tensor(one) for one in case(classes))
    own = None if weights is None else weights[:classes]
    given = None if own is None else torch.tensor(own, dtype=torch.float64)
    one, other = (logits.clone().requires_grad_() for _ in range(2))
    expected = functional.cross_entropy(one, target, given, ignore_index=255, label_smoothing=share)
    got = losses.create("cross_entropy", class_weights=own, label_smoothing=share)(other, target)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    got.backward()
    expected.backward()
    torch.testing.assert_close(other.grad, one.grad, rtol=1e-12, atol=1e-12)


def focal_reference(logits: np.ndarray, target: np.ndarray, share: float, weights: list[float], **params: Any) -> float:
    """Σ_i Σ_c w_c α_c q_c (1 − p_c)^γ (−log p_c) / Σ_i w_y; alpha None is the cross entropy's 1."""
    total = below = 0.0
    for _, (p, y) in pixels(logits, target):
        if len(p) == 1:
            p, y = np.array([1 - p[0], p[0]]), np.array([1 - y[0], y[0]])
            alphas = [1.0, 1.0] if params["alpha"] is None else [1 - params["alpha"], params["alpha"]]
        else:
            alphas = [1.0 if params["alpha"] is None else params["alpha"]] * len(p)
        for c, q in enumerate(soft(y, share)):
            total -= weights[c] * alphas[c] * q * (1 - p[c]) ** params["gamma"] * np.log(p[c])
        below += float((np.array(weights[: len(y)]) * y).sum())
    return total / below


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("weights", [None, [0.3, 0.7, 0.0, 2.5]])
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_cross_entropy_equals_the_equation(classes: int, weights: list[float] | None, share: float) -> None:
    logits, target = case(classes)
    own = None if weights is None else weights[: max(2, classes)]
    expected = focal_reference(logits, target, share, own or [1.0] * 4, alpha=None, gamma=0.0)
    got = of("cross_entropy", logits, target, class_weights=own, label_smoothing=share)
    assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", [None, [0.3, 0.7, 0.0, 2.5]])
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_focal_equals_the_equation(classes: int, weights: list[float] | None, gamma: float, share: float) -> None:
    logits, target = case(classes)
    own = None if weights is None else weights[: max(2, classes)]
    params = {"alpha": 0.2, "gamma": gamma}
    expected = focal_reference(logits, target, share, own or [1.0] * 4, **params)
    got = of("focal", logits, target, class_weights=own, label_smoothing=share, **params)
    assert got == pytest.approx(expected / classes, rel=1e-12)
    per_pixel = of("focal", logits, target, class_weights=own, label_smoothing=share, reduction="pixels", **params)
    assert per_pixel == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_pixels_of_weightless_classes_alone_give_zero(name: str) -> None:
    logits = torch.randn(1, 2, 2, 2, requires_grad=True)
    loss = losses.create(name, class_weights=[0, 1], label_smoothing=0.1)
    value = loss(logits, torch.zeros(1, 2, 2, dtype=torch.int64))
    value.backward()
    assert value.item() == 0 and logits.grad is not None and not logits.grad.any()


# --- the overlap family ------------------------------------------------------------------------------------------


def sums(group: list[Pixel], share: float) -> dict[str, np.ndarray]:
    p = np.array([pixel[0] for pixel in group])
    y = np.array([soft(pixel[1], share) for pixel in group])
    return {
        "p": p.sum(0),
        "y": y.sum(0),
        "py": (p * y).sum(0),
        "pp": (p * p).sum(0),
        "yy": (y * y).sum(0),
        "fn": ((1 - p) * y).sum(0),
        "fp": (p * (1 - y)).sum(0),
    }


def dice(s: dict[str, np.ndarray]) -> float:
    return float(1 - ((2 * s["py"] + 1e-5) / (s["p"] + s["y"] + 1e-5)).mean())


def dice_d3(s: dict[str, np.ndarray]) -> float:
    return float(1 - ((s["py"] + 1e-5) / (s["pp"] + s["yy"] - s["py"] + 1e-5)).mean())


def jaccard(s: dict[str, np.ndarray]) -> float:
    return float(1 - ((s["py"] + 1e-5) / (s["p"] + s["y"] - s["py"] + 1e-5)).mean())


def generalized(s: dict[str, np.ndarray]) -> float:
    return float(1 - (2 * s["py"].sum() + 1e-5) / ((s["p"] + s["y"]).sum() + 1e-5))


def generalized_by_volume(s: dict[str, np.ndarray]) -> float:
    w = s["y"] ** -2.0
    return float(1 - (2 * (w * s["py"]).sum() + 1e-5) / ((w * (s["p"] + s["y"])).sum() + 1e-5))


def tversky(s: dict[str, np.ndarray], gamma: float = 1.0, alpha: float = 0.7, beta: float = 0.3) -> float:
    index = (s["py"] + 1e-5) / (s["py"] + alpha * s["fn"] + beta * s["fp"] + 1e-5)
    return float(((1 - index) ** gamma).mean())


OVERLAP: list[tuple[str, dict[str, Any], Callable[[dict[str, np.ndarray]], float]]] = [
    ("dice", {}, dice),
    ("dice", {"form": "d3"}, dice_d3),
    ("jaccard", {}, jaccard),
    ("generalized_dice", {}, generalized),
    ("tversky", {}, tversky),
    ("focal_tversky", {}, lambda s: tversky(s, 2.0, 0.5, 0.5)),
]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize(("name", "params", "reference"), OVERLAP)
def test_overlap_losses_equal_their_equations(
    name: str, params: dict[str, Any], reference: Callable[..., float], classes: int, share: float
) -> None:
    logits, target = case(classes)
    expected = reference(sums(groups(logits, target, "batch")[0], share))
    assert of(name, logits, target, label_smoothing=share, **params) == pytest.approx(expected, rel=1e-12)
    if name != "jaccard":
        per_sample = [reference(sums(group, share)) for group in groups(logits, target, "sample")]
        got = of(name, logits, target, label_smoothing=share, per="sample", **params)
        assert got == pytest.approx(np.mean(per_sample), rel=1e-12)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_volumes_are_those_of_the_smoothed_truth(classes: int, share: float) -> None:
    """Of one sample, so that V is its sum; `tanimoto` with complement by hand, class by class."""
    logits, target = case(classes)
    logits, target = logits[:1], target[:1]
    found = sums(groups(logits, target, "batch")[0], share)
    got = of("generalized_dice", logits, target, label_smoothing=share, weighting="volume", smooth=1e-5)
    assert got == pytest.approx(generalized_by_volume(found), rel=1e-9)
    group = groups(logits, target, "batch")[0]
    p, y = (np.array([pixel[0] for pixel in group]), np.array([soft(pixel[1], share) for pixel in group]))
    halves = []
    for a, b in ((p, y), (1 - p, 1 - y)):
        w, both = b.sum(0) ** -2.0, (a * b).sum(0)
        halves.append(((w * both).sum() + 1e-5) / ((w * ((a * a + b * b).sum(0) - both)).sum() + 1e-5))
    got = of("tanimoto", logits, target, label_smoothing=share)
    assert got == pytest.approx(1 - sum(halves) / 2, rel=1e-9)


# --- the helper --------------------------------------------------------------------------------------------------


def test_without_smoothing_the_truth_is_not_even_copied() -> None:
    truth, mask = torch.rand(1, 3, 2, 2), torch.ones(1, 1, 2, 2, dtype=torch.bool)
    assert smoothed(truth, mask, 0.0) is truth and smoothed(truth, mask, 0.1) is not truth


def test_one_logit_is_smoothed_as_two_classes_are() -> None:
    mask = torch.tensor([[[[True, True, False]]]])
    pair = smoothed(torch.tensor([[[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]]]), mask, 0.3)
    single = smoothed(torch.tensor([[[[0.0, 1.0, 0.0]]]]), mask, 0.3)
    torch.testing.assert_close(pair[0, :, 0], torch.tensor([[0.85, 0.15, 0.0], [0.15, 0.85, 0.0]]))
    torch.testing.assert_close(single[:, 0], pair[:, 1])


# --- all of them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
class TestEveryLossThatHasIt:
    def test_none_is_bit_equal_to_the_loss_without(self, name: str) -> None:
        logits, target = case(4)
        results = []
        for params in ({}, {"label_smoothing": 0.0}):
            values = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
            loss = losses.create(name, **params)(values, torch.tensor(target))
            loss.backward()
            results.append((loss, values.grad))
        assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])

    @pytest.mark.parametrize("classes", [1, 2, 4])
    def test_gradcheck(self, name: str, classes: int) -> None:
        logits, target = case(classes)
        values = torch.tensor(logits, requires_grad=True)
        loss = losses.create(name, label_smoothing=0.2)
        assert torch.autograd.gradcheck(lambda z: loss(z, torch.tensor(target)), (values,))

    @pytest.mark.parametrize("classes", [1, 2, 4])
    def test_ignored_pixels_have_no_say(self, name: str, classes: int) -> None:
        logits, target = case(classes)
        values = torch.tensor(logits, requires_grad=True)
        loss = losses.create(name, label_smoothing=0.2)
        value = loss(values, torch.tensor(target))
        value.backward()
        ignored = np.repeat((target == 255)[:, None], classes, axis=1)
        assert values.grad is not None and not values.grad[torch.tensor(ignored)].any()
        other = torch.tensor(np.where(ignored, 40.0, logits))
        assert torch.equal(loss(other, torch.tensor(target)), value)
        empty = torch.tensor(logits, requires_grad=True)
        nothing = loss(empty, torch.full((3, 5, 4), 255))
        nothing.backward()
        assert nothing.item() == 0 and empty.grad is not None and not empty.grad.any()

    @pytest.mark.parametrize("classes", [1, 4])
    def test_extreme_logits_stay_finite(self, name: str, classes: int) -> None:
        logits = torch.full((1, classes, 4, 4), -60.0)
        logits[:, 0, :, :2] = 60.0
        logits.requires_grad_()
        loss = losses.create(name, label_smoothing=0.1)(logits, torch.zeros(1, 4, 4, dtype=torch.int64))
        loss.backward()
        assert torch.isfinite(loss) and loss > 0 and torch.isfinite(logits.grad).all()

    @pytest.mark.parametrize("share", [-0.1, 1.0, 3])
    def test_a_share_out_of_range_is_one_line(self, name: str, share: float) -> None:
        words = f"loss {name}: label_smoothing {float(share)} must be 0 or more and below 1"
        with pytest.raises(ConfigError, match=re.escape(words)):
            losses.create(name, label_smoothing=share)


def test_a_smoothed_loss_is_least_at_the_smoothed_probabilities() -> None:
    """What smoothing is for: the logits need not grow."""
    target = torch.zeros(1, 1, 1, dtype=torch.int64)
    logits = torch.zeros(1, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    loss = losses.create("cross_entropy", label_smoothing=0.3)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value: torch.Tensor = loss(logits, target)
        value.backward()
        return value

    optimizer.step(closure)
    torch.testing.assert_close(
        logits.detach().softmax(dim=1).flatten(), torch.tensor([0.8, 0.1, 0.1], dtype=torch.float64), rtol=0, atol=1e-5
    )
