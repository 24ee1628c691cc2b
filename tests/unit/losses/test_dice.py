"""The Dice family (`dice`, `tanimoto`, `generalized_dice`) against its equations, written pixel by pixel."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import losses
from pipeline.errors import ConfigError
from pipeline.losses._overlap import dissimilarity, tanimoto
from tests.unit.losses.overlap_reference import Pixel, case, groups

FORMS = ("d1", "d2", "d3")
PLAIN = {"form": "d1", "complement": False, "weighting": "none", "per": "batch", "smooth": 1e-5}


def sums(form: str, group: list[Pixel], flip: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numerator, denominator and Σ l of equation 1, 2 or 3 for each class, of 1 − p and 1 − l where `flip`."""
    up, down, volume = (np.zeros(len(group[0][0])) for _ in range(3))
    for p, truth in group:
        p, truth = (1 - p, 1 - truth) if flip else (p, truth)
        product = p * truth
        up += product if form == "d3" else 2 * product
        down += {"d1": p + truth, "d2": p**2 + truth**2, "d3": p**2 + truth**2 - product}[form]
        volume += truth
    return up, down, volume


def volume_weights(volumes: list[np.ndarray]) -> np.ndarray:
    mean = np.mean(volumes, axis=0)
    weights = np.array([1 / v**2 if v else 0.0 for v in mean])
    weights[mean == 0] = weights.max() or 1.0
    return weights


def reference(logits: np.ndarray, target: np.ndarray, **params: Any) -> float:
    """1 − the mean of all D: over samples or the batch, with and without complement."""
    chosen = {**PLAIN, "class_weights": np.ones(logits.shape[1]), **params}
    form, s, given_weights = chosen["form"], chosen["smooth"], np.asarray(chosen["class_weights"])
    scores = []
    for flip in (False, True) if chosen["complement"] else (False,):
        weights = given_weights / given_weights.mean()
        if chosen["weighting"] == "volume":
            weights = weights * volume_weights([sums(form, g, flip)[2] for g in groups(logits, target, "sample")])
        for group in groups(logits, target, chosen["per"]):
            up, down, _ = sums(form, group, flip)
            if chosen["weighting"] == "none":
                scores.append(np.average((up + s) / (down + s), weights=weights))
            else:
                scores.append(((weights * up).sum() + s) / ((weights * down).sum() + s))
    return 1 - float(np.mean(scores))


def value(
    name: str, logits: np.ndarray, target: np.ndarray, dtype: torch.dtype = torch.float64, **params: Any
) -> float:
    return losses.create(name, **params)(torch.tensor(logits, dtype=dtype), torch.tensor(target)).item()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("complement", [False, True])
@pytest.mark.parametrize("weighting", ["none", "volume"])
@pytest.mark.parametrize("per", ["batch", "sample"])
def test_dice_equals_the_equations(form: str, complement: bool, weighting: str, per: str) -> None:
    params = {"form": form, "complement": complement, "weighting": weighting, "per": per}
    for classes, smooth in itertools.product([1, 2, 4], [1e-5, 0.3]):
        logits, target = case(classes)
        expected = reference(logits, target, **params, smooth=smooth)
        assert value("dice", logits, target, **params, smooth=smooth) == pytest.approx(expected, abs=1e-12)
        single = value("dice", logits, target, torch.float32, **params, smooth=smooth)
        assert single == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("weighting", ["none", "volume"])
@pytest.mark.parametrize("complement", [False, True])
def test_class_weights_and_absent_classes(weighting: str, complement: bool) -> None:
    logits, target = case(4)
    target[target == 2] = 3
    params = {"weighting": weighting, "complement": complement, "class_weights": [0.5, 2.0, 3.0, 0.0]}
    assert value("dice", logits, target, **params) == pytest.approx(reference(logits, target, **params), abs=1e-12)


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_defaults_are_the_papers(classes: int) -> None:
    """Dice: D1 over the batch; Tanimoto: D3, complement, volume weights, per sample; Mars: one unweighted ratio."""
    logits, target = case(classes, seed=1)
    assert value("dice", logits, target) == pytest.approx(reference(logits, target), abs=1e-12)
    paper = {"form": "d3", "complement": True, "weighting": "volume", "per": "sample"}
    for complement in (True, False):
        expected = reference(logits, target, **{**paper, "complement": complement})
        assert value("tanimoto", logits, target, complement=complement) == pytest.approx(expected, abs=1e-12)
    assert value("tanimoto", logits, target) == value("dice", logits, target, **paper)
    printed = reference(logits, target, weighting="uniform")
    assert value("generalized_dice", logits, target) == pytest.approx(printed, abs=1e-12)


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_generalized_dice_is_one_ratio_for_all_classes(per: str) -> None:
    logits, target = case(4)
    for weighting, class_weights in itertools.product(["none", "volume"], [None, [1.0, 0.0, 2.0, 5.0]]):
        params = {"per": per, "weighting": "uniform" if weighting == "none" else weighting}
        params |= {"class_weights": class_weights} if class_weights else {}
        got = value("generalized_dice", logits, target, per=per, weighting=weighting, class_weights=class_weights)
        assert got == pytest.approx(reference(logits, target, **params), abs=1e-12)
    assert abs(value("generalized_dice", logits, target) - value("dice", logits, target)) > 1e-3


def test_volume_weights_are_the_mean_over_samples_not_the_sum() -> None:
    """Twice the same sample leaves the loss as it is, smoothing and all, for sums per sample."""
    logits, target = (array[:1] for array in case(3))
    twice = value("tanimoto", np.repeat(logits, 2, 0), np.repeat(target, 2, 0), smooth=0.1)
    assert value("tanimoto", logits, target, smooth=0.1) == pytest.approx(twice, abs=1e-12)
    with_ignored = value("tanimoto", np.repeat(logits, 2, 0), np.stack([target[0], target[0] * 0 + 255]), smooth=0.1)
    assert with_ignored == pytest.approx(twice, abs=1e-12)


# --- identities --------------------------------------------------------------------------------------------------


def soft_pair(seed: int, shape: tuple[int, ...] = (2, 3, 4, 4)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    p, truth = (torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return p, truth


@pytest.mark.parametrize("weighting", ["none", "uniform", "volume"])
@pytest.mark.parametrize("form", FORMS)
def test_the_complement_is_symmetric(form: Any, weighting: Any) -> None:
    p, truth = soft_pair(1)
    mask = torch.rand(2, 1, 4, 4) < 0.7
    there, back = (
        dissimilarity(*pair, mask, form=form, complement=True, weighting=weighting, per="sample")
        for pair in ((p, truth), (1 - p, 1 - truth))
    )
    torch.testing.assert_close(there, back, rtol=1e-12, atol=1e-12)
    plain = dissimilarity(p, truth, mask, form=form, weighting=weighting, per="sample")
    assert not torch.allclose(there, plain, rtol=1e-3)


def test_d3_is_d2_over_two_minus_d2() -> None:
    p, truth = soft_pair(2)
    d2, d3 = (1 - dissimilarity(p, truth, form=form, smooth=1e-14) for form in ("d2", "d3"))
    scores2, scores3 = (
        torch.stack([1 - dissimilarity(p[:, c, None], truth[:, c, None], form=form, smooth=1e-14) for c in range(3)])
        for form in ("d2", "d3")
    )
    torch.testing.assert_close(scores3, scores2 / (2 - scores2), rtol=1e-12, atol=0)
    assert (d3 < d2).all()  # equation 2 and 3 are not numerically equivalent, whatever the paper's text says


def test_all_forms_agree_on_hard_masks_where_they_should() -> None:
    """On hard masks D1 = D2 = F1 and D3 = IoU."""
    truth = torch.tensor([1.0, 1, 1, 0, 0, 0]).reshape(1, 1, 2, 3)
    guess = torch.tensor([1.0, 0, 1, 1, 0, 0]).reshape(1, 1, 2, 3)
    got = [1 - dissimilarity(guess, truth, form=form, smooth=1e-9).item() for form in ("d1", "d2", "d3")]
    assert got == pytest.approx([2 / 3, 2 / 3, 1 / 2], abs=1e-6)


def test_tanimoto_is_least_where_a_soft_truth_is_met_and_d1_is_not() -> None:
    _, truth = soft_pair(3)
    assert tanimoto(truth, truth).item() == 0
    p = truth.clone().requires_grad_()
    (slope,) = torch.autograd.grad(tanimoto(p, truth), p)
    assert slope.abs().max() < 1e-15
    (slope,) = torch.autograd.grad(dissimilarity(p, truth, form="d1").sum(), p)
    assert slope.abs().max() > 1e-3


@pytest.mark.parametrize("weighting", ["none", "volume"])
@pytest.mark.parametrize("form", FORMS)
def test_gradcheck_of_every_form(form: str, weighting: str) -> None:
    logits, target = map(torch.tensor, case(3))
    loss = losses.create("dice", form=form, weighting=weighting, complement=True, per="sample")
    assert torch.autograd.gradcheck(lambda x: loss(x, target[:2]), (logits[:2].requires_grad_(),))


# --- ignored pixels, absent classes, limits ------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["none", "volume"])
@pytest.mark.parametrize("per", ["batch", "sample"])
def test_ignored_pixels_count_in_no_sum(weighting: str, per: str) -> None:
    """Neither as p l nor as (1 − p)(1 − l): cutting them off changes nothing, nor does what the network says there."""
    logits, target = case(3, ignored=0)
    target[:, 3:] = 255
    loss = losses.create("dice", complement=True, weighting=weighting, per=per)
    whole = torch.tensor(logits, requires_grad=True)
    got = loss(whole, torch.tensor(target))
    cut = loss(torch.tensor(logits[:2, :, :3]), torch.tensor(target[:2, :3]))
    torch.testing.assert_close(got, cut, rtol=1e-12, atol=1e-12)
    got.backward()
    assert not whole.grad[:, :, 3:].any() and whole.grad[:2, :, :3].all()


def test_tanimoto_takes_soft_truths_and_a_mask_of_pixels() -> None:
    p, truth = soft_pair(4)
    mask = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    mask[0, 0, 0], mask[1] = False, False
    expected = tanimoto(p[:1, :, 1:], truth[:1, :, 1:])
    torch.testing.assert_close(tanimoto(p, truth, mask), expected, rtol=1e-12, atol=1e-12)
    assert tanimoto(p, truth, torch.zeros_like(mask)).item() == 0


def test_a_false_alarm_over_an_empty_mask_costs() -> None:
    """No class is present, so that no weight is finite: the loss must still fall with p."""
    target = torch.zeros(1, 4, 4, dtype=torch.int64)
    slopes = []
    for name in ("dice", "tanimoto", "generalized_dice"):
        logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
        losses.create(name)(logits, target).backward()
        assert (logits.grad > 0).all(), name
        slopes.append(logits.grad.sum().item())
    full = torch.ones(1, 4, 4, dtype=torch.int64)
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    losses.create("tanimoto")(logits, full).backward()
    assert logits.grad.sum().item() == pytest.approx(-slopes[1], rel=1e-5)  # symmetric in mask and background


def test_classes_of_next_to_no_volume_do_not_overflow() -> None:
    p, truth = (tensor.float() for tensor in soft_pair(5))
    truth[:, 1] = 1e-22
    p.requires_grad_()
    loss = tanimoto(p, truth)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(p.grad).all()


@given(
    seed=st.integers(0, 2**16),
    form=st.sampled_from(FORMS),
    complement=st.booleans(),
    weighting=st.sampled_from(["none", "uniform", "volume"]),
    hard=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_between_zero_and_one(seed: int, form: Any, complement: bool, weighting: Any, hard: bool) -> None:
    p, truth = (tensor.float() for tensor in soft_pair(seed))
    truth = truth.round() if hard else truth
    kept = {"form": form, "complement": complement, "weighting": weighting}
    for guess in (p, truth, 1 - truth, torch.nextafter(truth, torch.full_like(truth, 0.5))):
        loss = dissimilarity(guess, truth, per="sample", **kept)
        assert loss.shape == (2,) and (loss >= 0).all() and (loss <= 1).all()


@pytest.mark.parametrize("name", ["dice", "tanimoto", "generalized_dice"])
def test_impossible_parameters(name: str) -> None:
    for smooth in (0, -1, "x"):
        with pytest.raises(ConfigError, match="smooth"):
            losses.create(name, smooth=smooth)
    if name != "tanimoto":
        for key, wrong in (("weighting", "uniform"), ("per", "chip")):
            with pytest.raises(ConfigError, match=f"{key} must be one of"):
                losses.create(name, **{key: wrong})
    with pytest.raises(ConfigError, match="form must be one of d1, d2, d3"):
        losses.create("dice", form="d4")
