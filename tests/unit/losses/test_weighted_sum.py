"""Weighted sums: their values, the schedules' equations, nested parameters, and what a term is fed with."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline import losses, variants
from pipeline.errors import ConfigError
from pipeline.losses._weighted_sum import factors

PAIR = {"terms": ["jaccard", "focal"]}


def pair(classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(0, classes, (2, 6, 5), generator=generator)
    target[0, :2] = 255
    return torch.randn(2, classes, 6, 5, generator=generator, dtype=torch.float64), target


def weights(epoch: int, share: float | None = None, **params: Any) -> tuple[float, ...]:
    loss = losses.create("weighted_sum", **params)
    loss.on_epoch(epoch, share)
    return loss.weights


def test_default_is_half_generalized_dice_and_half_focal() -> None:
    logits, target = pair()
    parts = [losses.create(name)(logits, target).item() for name in ("generalized_dice", "focal")]
    value = losses.create("weighted_sum")(logits, target).item()
    assert value == pytest.approx(0.5 * parts[0] + 0.5 * parts[1], rel=1e-12)
    assert abs(parts[0] - parts[1]) > 1e-3


def test_is_the_weighted_sum_of_its_terms_with_their_parameters() -> None:
    logits, target = pair()
    terms = ["cross_entropy", {"focal": {"gamma": 0.5}}, {"jaccard": {"eps": 1.0}}]
    parts = [
        losses.create("cross_entropy")(logits, target),
        losses.create("focal", gamma=0.5)(logits, target),
        losses.create("jaccard", eps=1.0)(logits, target),
    ]
    value = losses.create("weighted_sum", terms=terms, weights=[2, 0, 0.25])(logits, target)
    assert value.item() == pytest.approx((2 * parts[0] + 0.25 * parts[2]).item(), rel=1e-12)
    even = losses.create("weighted_sum", terms=terms)(logits, target)
    assert even.item() == pytest.approx(sum(part.item() for part in parts) / 3, rel=1e-12)


def test_linear_is_l1_plus_k_alpha0_l2() -> None:
    for epoch in (0, 1, 9, 99):
        assert weights(epoch, schedule="linear", **PAIR) == pytest.approx((1, 0.01 * (epoch + 1)))
    assert weights(3, schedule="linear", alpha0=0.5, weights=[2, 3], **PAIR) == pytest.approx((2, 3 * 4 * 0.5))


def test_exponential_is_one_minus_e_to_the_minus_beta_k() -> None:
    for epoch, beta in ((0, 0.05), (19, 0.05), (4, 1.0), (7, 0.0)):
        alpha = 1 - 1 / math.exp(beta * (epoch + 1))
        assert weights(epoch, schedule="exponential", beta=beta, **PAIR) == pytest.approx((1 - alpha, alpha), abs=1e-15)


def test_rebalance_moves_a_fifth_to_the_last_term_every_twenty_epochs_and_stops_at_one() -> None:
    """The thesis's run of 100 epochs, from 0.5 each."""
    loss, seen = losses.create("weighted_sum", schedule="rebalance", **PAIR), []
    for epoch in range(100):
        loss.on_epoch(epoch)
        seen.append(loss.weights[1])
    assert seen == pytest.approx([0.5] * 20 + [0.7] * 20 + [0.9] * 20 + [1.0] * 40)
    back = [weights(epoch, schedule="rebalance", change=-0.3, every=2, **PAIR) for epoch in (0, 1, 2, 4, 90)]
    expected = [(0.5, 0.5), (0.5, 0.5), (0.8, 0.2), (1, 0), (1, 0)]
    assert [value for row in back for value in row] == pytest.approx([value for row in expected for value in row])


def test_search_gives_w_to_the_last_term_and_a_common_term_keeps_its_weight() -> None:
    """BCE + (1 − w) L_IoU + w L_BF1, here with losses at hand."""
    three = {"terms": ["cross_entropy", "jaccard", "focal"], "schedule": "search"}
    assert weights(0, **three) == (1, 0.5, 0.5)
    assert weights(50, 0.9, **three) == pytest.approx((1, 0.1, 0.9))
    assert weights(50, None, start=0.2, **three) == pytest.approx((1, 0.8, 0.2))
    logits, target = pair()
    loss = losses.create("weighted_sum", **three)
    loss.on_epoch(8, 0.3)
    parts = [losses.create(name)(logits, target).item() for name in three["terms"]]
    assert loss(logits, target).item() == pytest.approx(parts[0] + 0.7 * parts[1] + 0.3 * parts[2], rel=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "linear", "exponential", "rebalance", "search"])
def test_weights_are_a_pure_function_of_the_epoch(schedule: str) -> None:
    one, other = (losses.create("weighted_sum", schedule=schedule, **PAIR) for _ in range(2))
    assert (one.changing_weight is None) == (schedule == "constant")
    for epoch in (0, 70, 3, 500, 3):
        one.on_epoch(epoch)
        before = one.weights
        other.on_epoch(epoch + 1, 0.9)
        other.on_epoch(epoch)
        assert other.weights == before and one.changing_weight in (None, before[-1])


@given(
    schedule=st.sampled_from(["constant", "linear", "exponential", "rebalance", "search"]),
    epoch=st.integers(0, 10_000),
    start=st.floats(0, 1),
    change=st.floats(-1, 1),
    beta=st.floats(0, 1),
    every=st.integers(1, 50),
)
def test_factors_are_shares_that_are_never_negative(schedule: str, epoch: int, **numbers: Any) -> None:
    pair = factors(schedule, epoch, alpha0=0.01, **numbers)
    assert min(pair) >= 0 and all(map(math.isfinite, pair))
    if schedule in ("exponential", "rebalance", "search"):
        assert sum(pair) == pytest.approx(1)


def test_a_search_tells_the_engine_what_to_do_with_the_papers_numbers() -> None:
    wish = losses.create("weighted_sum", schedule="search", **PAIR).search
    assert (wish["first"], wish["every"], wish["length"], wish["score"]) == (8, 30, 30, "val_mean_iou")
    assert wish["candidates"] == [0.1, 0.3, 0.5, 0.7, 0.9]
    assert losses.create("weighted_sum", schedule="search", every=5, try_epochs=1, **PAIR).search["length"] == 1
    assert losses.create("weighted_sum", **PAIR).search is None


def test_another_schedule_leaves_the_share_of_a_search_aside() -> None:
    assert weights(3, 0.9, schedule="rebalance", **PAIR) == weights(3, schedule="rebalance", **PAIR)


def test_class_weights_and_ignored_index_reach_the_terms_that_have_none() -> None:
    logits, target = pair()
    own = {"class_weights": [1.0, 5.0, 2.0], "ignore_index": 2}
    terms = ["jaccard", {"focal": {"class_weights": [9.0, 1.0, 1.0], "ignore_index": 1}}]
    value = losses.create("weighted_sum", terms=terms, **own)(logits, target).item()
    parts = (
        losses.create("jaccard", **own)(logits, target).item(),
        losses.create("focal", class_weights=[9.0, 1.0, 1.0], ignore_index=1)(logits, target).item(),
    )
    assert value == pytest.approx(sum(parts) / 2, rel=1e-12)


def test_only_a_term_that_declares_it_gets_more_than_the_mask() -> None:
    """The distances are taken as given: a sum with the boundary loss sees that they are doubled."""
    logits, target = pair()
    maps = torch.randn(logits.shape, dtype=torch.float64)
    loss = losses.create("weighted_sum", terms=["focal", {"boundary_distance": {"clamp_px": 50.0}}])
    focal = losses.create("focal")(logits, target).item()
    boundary = losses.create("boundary_distance", clamp_px=50.0)
    for scale in (1, 2):
        given = {"mask": target, "signed_distance": maps * scale}
        expected = (focal + boundary(logits, given).item()) / 2
        assert loss({"mask": logits, "other": logits}, given).item() == pytest.approx(expected, rel=1e-9)


def test_needs_are_those_of_the_terms() -> None:
    assert losses.needs("weighted_sum") == ((), ()) == losses.needs("focal")
    whole = losses.needs("weighted_sum", terms=["focal", "boundary_distance", "multi_task"])
    assert whole.outputs == ("boundary", "distance", "colour")
    assert whole.targets == ("signed_distance", "boundary", "distance", "colour")
    assert set(losses.derivations("weighted_sum", terms=["boundary_distance", "multi_task"])) == set(whole.targets)


def test_a_target_without_a_function_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(variants.load("losses", "boundary_distance"), "DERIVE")
    with pytest.raises(ConfigError, match="loss boundary_distance: TARGETS has 'signed_distance', and DERIVE no"):
        losses.derivations("boundary_distance")


def test_two_losses_share_a_target_only_by_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one of them would be fed, without a word, with what the other derives."""
    terms = ["boundary_distance", "hausdorff"]
    assert list(losses.derivations("weighted_sum", terms=terms)) == ["signed_distance"]
    monkeypatch.setattr(variants.load("losses", "hausdorff"), "DERIVE", {"signed_distance": lambda *_: None})
    with pytest.raises(ConfigError, match="loss hausdorff: another loss of the sum derives its own 'signed_distance'"):
        losses.derivations("weighted_sum", terms=terms)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"terms": ["focl"]}, "study: loss weighted_sum: terms: no loss 'focl'; did you mean 'focal'?"),
        ({"terms": [{"focal": {"gama": 1}}]}, "terms: loss 'focal' has no parameter 'gama'; did you mean 'gamma'?"),
        ({"terms": [{"focal": {"gamma": "x"}}]}, "terms: loss 'focal': gamma must be a number, got 'x'"),
        ({"terms": [{"focal": 3}]}, "terms: {'focal': 3} is neither a name nor"),
        ({"terms": []}, "terms is empty"),
        ({"terms": ["weighted_sum"]}, "a term must not be a weighted sum itself"),
        ({"terms": ["focal"], "schedule": "linear"}, "schedule linear moves weight between the last two terms"),
        ({"weights": [1.0]}, "1 weights for 2 terms"),
        ({"weights": [-1.0, 1.0]}, "weights must be finite numbers of 0 or more, one of them above 0, got [-1.0, 1.0]"),
        ({"weights": [0, 0]}, "weights must be finite"),
        ({"weights": ["a", 1]}, "weights must be finite"),
        ({"weights": [True, 1]}, "weights must be finite"),
        ({"schedule": "expo"}, "schedule must be one of constant, linear, exponential, rebalance, search"),
        ({"start": 1.5}, "start 1.5 is not between 0 and 1"),
        ({"beta": -0.1}, "beta -0.1 is not between 0 and 1"),
        ({"change": 2}, "change 2.0 is not between -1 and 1"),
        ({"alpha0": -1}, "alpha0 -1.0 is below 0"),
        ({"every": 0}, "every 0 is below 1"),
        ({"first": 0}, "first 0 is below 1"),
        ({"candidates": []}, "candidates must be different numbers from 0 to 1"),
        ({"candidates": [0.1, 1.1]}, "candidates must be different numbers from 0 to 1"),
        ({"candidates": [0.1, 0.1]}, "candidates must be different numbers from 0 to 1"),
        ({"schedule": "search", "try_epochs": 31}, "try_epochs 31 is not between 1 and the 30 epochs between"),
    ],
)
def test_mistakes_are_found_while_the_snakefile_is_parsed(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        variants.check("losses", "weighted_sum", params, "study")
    assert message in str(caught.value) and str(caught.value).startswith("study: ") and "\n" not in str(caught.value)


def test_one_sum_written_in_two_ways_is_one() -> None:
    short = variants.check("losses", "weighted_sum", {}, "x")
    long = {"terms": [{"generalized_dice": None}, {"focal": {"gamma": 2, "alpha": 0.25}}], "every": None}
    assert variants.check("losses", "weighted_sum", long, "x") == short
    assert variants.shortest("losses", "weighted_sum", short) == {}
    other = variants.check(
        "losses", "weighted_sum", {"terms": [{"focal": {"gamma": 3, "alpha": 0.25}}, "jaccard"]}, "x"
    )
    assert variants.shortest("losses", "weighted_sum", other) == {"terms": [{"focal": {"gamma": 3.0}}, "jaccard"]}
    assert variants.check("losses", "weighted_sum", other, "x") == other
