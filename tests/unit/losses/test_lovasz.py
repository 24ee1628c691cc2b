"""The Lovász loss against its definition in float64 NumPy, set function by set function, and against 1 − IoU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import losses


@pytest.mark.parametrize("per", ["batch", "sample"])
@pytest.mark.parametrize("classes", [1, 4])
def test_is_the_librarys_where_that_has_it(classes: int, per: str) -> None:
    """segmentation-models-pytorch: the softmax form for classes, the hinge for one logit; value and slope."""
    from segmentation_models_pytorch.losses import LovaszLoss

    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(2, classes, 9, 8, generator=generator)
    target = torch.randint(0, max(2, classes), (2, 9, 8), generator=generator)
    target[:, :2] = 255
    ours = losses.create("lovasz", form="hinge" if classes == 1 else "error", per=per)
    theirs = LovaszLoss("binary" if classes == 1 else "multiclass", per_image=per == "sample", ignore_index=255)
    found = []
    for loss in (ours, theirs):
        given_logits = logits.clone().requires_grad_()
        value = loss(given_logits, target)
        value.backward()
        found.append((value.detach(), given_logits.grad))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def extension(errors: np.ndarray, truth: np.ndarray) -> float:
    """Σ m_πi (F({π1 … πi}) − F({π1 … πi−1})), F of every set counted anew."""

    def jaccard_loss(wrong: np.ndarray) -> float:
        union = (wrong | truth).sum()
        return wrong.sum() / union if union else 0.0

    total, wrong = 0.0, np.zeros(len(errors), bool)
    for pixel in np.argsort(-errors, kind="stable"):
        before = jaccard_loss(wrong)
        wrong[pixel] = True
        total += errors[pixel] * (jaccard_loss(wrong) - before)
    return total


def set_loss(logits: np.ndarray, target: np.ndarray, form: str, classes: str) -> float:
    """The loss of one set of pixels, logits [pixels, C] and target [pixels] without ignored ones."""
    c = logits.shape[1]
    if c == 1:
        probability = 1 / (1 + np.exp(-logits))
    else:
        probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = []
    for k in range(c):
        truth = target == (1 if c == 1 else k)
        if form == "hinge":
            errors = np.maximum(0, 1 - logits[:, k] * np.where(truth, 1, -1))
        else:
            errors = np.abs(truth - probability[:, k])
        if truth.any() or classes == "all" or c == 1:
            scores.append(extension(errors, truth))
    return sum(scores) / len(scores)


def reference(logits: np.ndarray, target: np.ndarray, form: str, classes: str, per: str) -> float:
    flat = np.moveaxis(logits, 1, -1)
    groups = [(flat, target)] if per == "batch" else list(zip(flat, target, strict=True))
    known = [(z[y != 255], y[y != 255]) for z, y in groups if (y != 255).any()]
    return float(np.mean([set_loss(z, y, form, classes) for z, y in known]))


@pytest.mark.parametrize("form", ["error", "hinge"])
@pytest.mark.parametrize("over", ["present", "all"])
@pytest.mark.parametrize("per", ["batch", "sample"])
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_equals_the_definition(classes: int, per: str, over: str, form: str) -> None:
    """Class 0 is absent from one image, class 3 from all; one image is ignored as a whole."""
    rng = np.random.default_rng(classes)
    logits = rng.normal(0, 2, (3, classes, 5, 4))
    target = rng.integers(0, min(3, max(2, classes)), (3, 5, 4))
    target[rng.random(target.shape) < 0.2] = 255
    target[0][target[0] == 0] = 1
    target[1] = 255
    loss = losses.create("lovasz", form=form, classes=over, per=per)
    expected = reference(logits, target, form, over, per)
    assert loss(torch.tensor(logits), torch.tensor(target)).item() == pytest.approx(expected, rel=1e-12)
    single = loss(torch.tensor(logits, dtype=torch.float32), torch.tensor(target)).item()
    assert single == pytest.approx(expected, abs=1e-6)


@given(
    classes=st.integers(1, 4),
    per=st.sampled_from(["batch", "sample"]),
    ignored=st.sampled_from([0, 0.4]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
def test_hard_predictions_give_one_minus_iou(classes: int, per: str, ignored: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, max(2, classes), (2, 4, 3))
    predicted = rng.integers(0, max(2, classes), target.shape)
    target[rng.random(target.shape) < ignored] = 255
    target[:, 0, 0] = 0
    if classes == 1:
        logits = np.where(predicted == 1, 800.0, -800.0)[:, None]
    else:
        logits = np.moveaxis(np.eye(classes)[predicted], -1, 1) * 800.0
    by_set = []
    for y, p in [(target, predicted)] if per == "batch" else zip(target, predicted, strict=True):
        scores = []
        for k in range(classes) if classes > 1 else [1]:
            truth, guess = (y == k), (p == k) & (y != 255)
            union = (truth | guess).sum()
            if truth.any() or classes == 1:
                scores.append(1 - (truth & guess).sum() / union if union else 0.0)
        by_set.append(np.mean(scores))
    got = losses.create("lovasz", per=per)(torch.tensor(logits), torch.tensor(target)).item()
    assert got == pytest.approx(np.mean(by_set), abs=1e-12)


def test_slopes_keep_their_digits_in_large_sets() -> None:
    """F_J is near 1 after many errors, where differences of float32 values would be a few per cent off, or 0."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 300, 300, generator=generator, dtype=torch.float64)
    target = (torch.rand(1, 300, 300, generator=generator) < 0.01).long()
    slopes = []
    for dtype in (torch.float32, torch.float64):
        given_logits = logits.to(dtype).requires_grad_()
        losses.create("lovasz")(given_logits, target).backward()
        slopes.append(given_logits.grad.double())
    single, double = (slope[slopes[1] != 0] for slope in slopes)
    assert len(double) > 50_000 and ((single - double).abs() / double.abs()).quantile(0.999) < 1e-4


def test_convex_in_the_errors() -> None:
    """The property that the extension is made for: of a mean of hinges, no more than the mean of the losses."""
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(0, 2, (1, 6, 6), generator=generator)
    loss = losses.create("lovasz", form="hinge")
    for _ in range(20):
        one, other = torch.randn(2, 1, 1, 6, 6, generator=generator, dtype=torch.float64) * 3
        assert loss((one + other) / 2, target) <= (loss(one, target) + loss(other, target)) / 2 + 1e-12


def test_absent_class() -> None:
    """Present: no say; all, and one logit: the largest error."""
    logits = torch.tensor([[[[2.0, 3.0]], [[0.0, -1.0]], [[-1.0, 0.5]]]])
    target = torch.tensor([[[0, 1]]])
    error = logits.softmax(dim=1)[0, 2].max().item()
    present, everything = (losses.create("lovasz", classes=over)(logits, target).item() for over in ("present", "all"))
    assert everything == pytest.approx((2 * present + error) / 3, rel=1e-6)
    alone = losses.create("lovasz")(logits[:, 1:2], torch.zeros(1, 1, 2, dtype=torch.int64)).item()
    assert alone == pytest.approx(0.5)


def test_hinge_is_zero_beyond_the_margin_and_one_without_a_say() -> None:
    target = torch.tensor([[[0, 1, 1]]])
    loss = losses.create("lovasz", form="hinge")
    assert loss(torch.tensor([-1.0, 1.5, 9.0]).view(1, 1, 1, 3), target).item() == 0.0
    assert loss(torch.zeros(1, 1, 1, 3), target).item() == pytest.approx(1.0)


def test_weights_leave_out_classes_that_are_not_counted() -> None:
    logits, target = torch.randn(2, 3, 4, 4), torch.randint(0, 2, (2, 4, 4))
    weighted = losses.create("lovasz", class_weights=[1.0, 1.0, 7.0])(logits, target)
    assert weighted.item() == pytest.approx(losses.create("lovasz")(logits, target).item(), rel=1e-6)
    assert losses.create("lovasz", class_weights=[0.0, 0.0, 1.0])(logits, target).item() == 0.0
