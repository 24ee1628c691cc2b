"""Each schedule against its equation, against torch where it has the same, and at the edges of its parameters."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import schedules, variants
from pipeline.errors import ConfigError, RunError


def rates(name: str, count: int, /, lr: float = 1.0, **params: Any) -> list[float]:
    schedule = schedules.create(name, **params)
    return [schedule(epoch, lr, []).lr for epoch in range(count)]


# --- delayed exponential -----------------------------------------------------------------------------------------


def report(start: int, every: int, gamma: float, notebook: bool, epochs: int) -> list[float]:
    """The report's recursion, step by step: lr of epochs 1, 2, …, e counted from 1."""
    found = [1.0]
    for e in range(1, epochs):
        due = (e - start if notebook else e) % every == 0
        found.append(found[-1] * gamma if e >= start and due else found[-1])
    return found


@pytest.mark.parametrize("start", [1, 12, 17])
@pytest.mark.parametrize("every", [1, 3, 6])
@pytest.mark.parametrize("gamma", [0.99, 0.75, 0.5])
@pytest.mark.parametrize("counted_from", ["zero", "start"])
def test_delayed_exponential_is_the_recursion(start: int, every: int, gamma: float, counted_from: str) -> None:
    params = {"start": start, "every": every, "gamma": gamma, "counted_from": counted_from}
    expected = report(start, every, gamma, counted_from == "start", 60)
    assert rates("delayed_exponential", 60, **params) == pytest.approx(expected, rel=1e-12)


def test_report_and_notebook_agree_but_for_a_start_that_is_no_multiple() -> None:
    """Seventeen epochs at the run's rate; the report's first decay is then after epoch 18, the notebook's after 17."""
    for start, same in ((12, True), (17, False)):
        both = [rates("delayed_exponential", 40, start=start, every=3, counted_from=one) for one in ("zero", "start")]
        assert (both[0] == both[1]) == same
    assert both[0].index(0.75) == 18 and both[1].index(0.75) == 17
    assert rates("delayed_exponential", 14)[:13] == [1.0] * 12 + [0.75]


# --- cosine and polynomial ---------------------------------------------------------------------------------------


def test_cosine_and_polynomial_follow_their_equations_and_hold_the_last_rate() -> None:
    expected = [2e-3 + (0.5 - 2e-3) * (1 + math.cos(math.pi * k / 17)) / 2 for k in range(17)]
    found = rates("cosine", 25, lr=0.5, epochs=20, warmup=3, min_lr=2e-3)
    assert found[:3] == pytest.approx([0.125, 0.25, 0.375])
    assert found[3:20] == pytest.approx(expected, rel=1e-12) and found[20:] == [found[19]] * 5
    poly = rates("polynomial", 12, epochs=10, power=0.9, min_lr=0.1)
    assert poly[:10] == pytest.approx([0.1 + 0.9 * (1 - k / 10) ** 0.9 for k in range(10)])
    assert poly[10:] == [poly[9]] * 2


@pytest.mark.parametrize(("name", "theirs"), [("cosine", "CosineAnnealingLR"), ("polynomial", "PolynomialLR")])
def test_cosine_and_polynomial_are_torchs_without_warm_up(name: str, theirs: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    params = {"T_max": 30} if name == "cosine" else {"total_iters": 30, "power": 0.9}
    scheduler = getattr(torch.optim.lr_scheduler, theirs)(optimizer, **params)
    expected = []
    for _ in range(30):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates(name, 30, lr=0.3, epochs=30) == pytest.approx(expected, rel=1e-9)


# --- reduce on plateau -------------------------------------------------------------------------------------------


def torchs(values: list[float], mode: str, lr: float, **params: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode=mode, threshold_mode="abs", eps=0, **params)
    found = [lr]
    for value in values:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler.step(value)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.one_of(st.integers(0, 6).map(lambda n: n / 4), st.just(math.nan)), max_size=40),
    monitor=st.sampled_from(["train_loss", "val_loss", "val_mean_iou"]),
    patience=st.integers(1, 4),
    threshold=st.sampled_from([0.0, 0.25, 0.3]),
    cooldown=st.integers(0, 3),
    min_lr=st.sampled_from([0.0, 3e-4]),
)
def test_reduce_on_plateau_is_torchs(
    values: list[float], monitor: str, patience: int, threshold: float, cooldown: int, min_lr: float
) -> None:
    """Rates after each epoch of a random history; our patience of p epochs is torch's of p − 1."""
    shared = {"threshold": threshold, "cooldown": cooldown, "min_lr": min_lr, "factor": 0.5}
    mode = "min" if monitor.endswith("_loss") else "max"
    expected = torchs(values, mode, 0.01, patience=patience - 1, **shared)
    schedule = schedules.create("reduce_on_plateau", monitor=monitor, patience=patience, **shared)
    history = [{"epoch": number, monitor: value} for number, value in enumerate(values, 1)]
    found = [schedule(epoch, 0.01, history[:epoch]).lr for epoch in range(len(values) + 1)]
    assert found == pytest.approx(expected, rel=1e-12)


def plateau(losses: list[float], **params: Any) -> list[float]:
    schedule = schedules.create("reduce_on_plateau", **params)
    return [schedule(k, 1.0, [{"val_loss": loss} for loss in losses[:k]]).lr for k in range(len(losses) + 1)]


def test_resunet_a_divides_by_ten_three_times_at_most() -> None:
    found = plateau([1.0] * 60, reductions=3)
    assert [found.index(rate) for rate in sorted(set(found), reverse=True)] == [0, 11, 21, 31]
    assert found[-1] == pytest.approx(1e-3)
    assert plateau([1.0] * 60)[-1] == pytest.approx(1e-5)


def test_the_boundary_paper_divides_after_ten_epochs_without_improvement() -> None:
    assert plateau([2.0, 1.0] + [1.5] * 9) == [1.0] * 12
    assert plateau([2.0, 1.0] + [1.5] * 10)[-1] == pytest.approx(0.1)
    assert plateau([2.0, 1.0] + [1.5] * 9 + [0.9] + [1.0] * 9) == [1.0] * 22  # one better epoch, and anew


def test_a_column_that_the_history_lacks_is_named() -> None:
    with pytest.raises(RunError, match="no column 'val_mcc'"):
        schedules.create("reduce_on_plateau", monitor="val_mcc")(1, 0.1, [{"val_loss": 1.0}])


# --- staged unfreezing -------------------------------------------------------------------------------------------


def test_staged_unfreezing_is_the_papers() -> None:
    schedule = schedules.create("staged_unfreezing")
    stages = [schedule(epoch, 0.5, []) for epoch in range(200)]
    assert [(stage.part, stage.lr) for stage in stages] == (
        [("decoder", 3e-3)] * 3 + [("decoder_and_norms", 1e-3)] * 3 + [("all", 1e-4)] * 100 + [("all", 1e-5)] * 94
    )
    assert [stages[epoch].number for epoch in (0, 3, 6, 106)] == [0, 1, 2, 3]


def test_stages_of_ones_own_may_be_short_and_open() -> None:
    stages = [{"part": "decoder", "lr": 1, "epochs": 2}, {"lr": 0.5}]
    assert rates("staged_unfreezing", 5, stages=stages) == [1.0, 1.0, 0.5, 0.5, 0.5]
    resolved = variants.check("schedules", "staged_unfreezing", {"stages": stages}, "here")
    assert resolved["stages"][1] == {"part": "all", "lr": 0.5, "epochs": None}
    paper = variants.parameters("schedules", "staged_unfreezing")["stages"]
    assert variants.check("schedules", "staged_unfreezing", {}, "here") == {"stages": paper}  # ids: in that form


# --- what is refused ---------------------------------------------------------------------------------------------

STAGE = {"part": "all", "lr": 1e-3, "epochs": 2}


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("delayed_exponential", {"start": 0}, "start 0 is below 1"),
        ("delayed_exponential", {"every": 0}, "every 0"),
        ("delayed_exponential", {"gamma": 1.5}, "gamma 1.5"),
        ("delayed_exponential", {"counted_from": "one"}, "must be one of zero, start"),
        ("cosine", {"epochs": 5, "warmup": 5}, "epochs 5 must be more than the 5 epochs of warmup"),
        ("cosine", {"warmup": -1}, "warmup -1"),
        ("cosine", {"min_lr": -1.0}, "min_lr -1"),
        ("polynomial", {"power": 0}, "power 0"),
        ("reduce_on_plateau", {"factor": 1}, "factor 1"),
        ("reduce_on_plateau", {"patience": 0}, "patience 0"),
        ("reduce_on_plateau", {"reductions": 0}, "null sets no limit"),
        ("reduce_on_plateau", {"threshold": -0.1}, "threshold -0.1"),
        ("reduce_on_plateau", {"monitor": 3}, "monitor must be text"),
        ("staged_unfreezing", {"stages": []}, "stages is empty"),
        ("staged_unfreezing", {"stages": ["decoder"]}, "stage 1 must be a mapping of part, lr, epochs, got 'decoder'"),
        ("staged_unfreezing", {"stages": [{**STAGE, "rate": 1}]}, "stage 1 has no key 'rate'"),
        ("staged_unfreezing", {"stages": [{**STAGE, "part": "decodr"}]}, "did you mean 'decoder'"),
        ("staged_unfreezing", {"stages": [{"part": "all", "epochs": 2}]}, "lr must be a number above 0, got None"),
        ("staged_unfreezing", {"stages": [{**STAGE, "lr": "fast"}]}, "got 'fast'"),
        ("staged_unfreezing", {"stages": [{**STAGE, "epochs": 0}]}, "whole number of 1 or more, got 0"),
        ("staged_unfreezing", {"stages": [{**STAGE, "epochs": True}]}, "got True"),
        ("staged_unfreezing", {"stages": [{**STAGE, "epochs": None}, STAGE]}, "stage 1 needs epochs"),
    ],
)
def test_parameters_out_of_range_are_one_line(name: str, params: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        schedules.create(name, **params)
    assert words in str(caught.value) and name in str(caught.value) and "\n" not in str(caught.value)


def test_a_length_left_to_the_run_must_come_from_one() -> None:
    with pytest.raises(ConfigError, match="outside of one name them"):
        schedules.create("cosine")
