"""The learning-rate range test: its arithmetic on functions that one can solve, and on the tiny region."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ConfigError, RunError
from pipeline.train import engine, lr_range
from pipeline.train.lr_range import Curve, findings, range_test, rates_of, sweep
from pipeline.train.options import Options
from tests.support.tiny import a_spec

STEPS = 400
RISE = math.log(1e8) / (STEPS - 1)  # of the log of the rate, per step


def quadratic(curvature: float) -> Any:
    """Gradient descent on a x² / 2 from x = 1: the loss before each step."""
    x = 1.0

    def step(lr: float) -> float:
        nonlocal x
        loss = curvature * x**2 / 2
        x -= lr * curvature * x
        return loss

    return step


def reference(curvature: float) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Rates, losses and smoothed losses over all steps, written anew: x_k = Π (1 − a lr_i), explicit weighted means."""
    lr = np.geomspace(1e-7, 10, STEPS)
    x = np.concatenate([[1.0], np.cumprod(1 - curvature * lr)[:-1]])
    with np.errstate(over="ignore"):  # beyond where the test ends
        loss = curvature * x**2 / 2
    beta = 1 - 1 / (0.05 * STEPS)
    weights = beta ** np.arange(STEPS)[::-1]
    smoothed = [float((weights[-k:] * loss[:k]).sum() / weights[-k:].sum()) for k in range(1, STEPS + 1)]
    return lr, loss, np.array(smoothed)


@pytest.mark.parametrize("curvature", [30.0, 300.0])
def test_a_quadratic_falls_most_steeply_where_its_equation_says(curvature: float) -> None:
    """With lr = l · e^(r k), d loss / dk = −2 a lr · loss is least where lr = r / (2 a); the mean trails behind."""
    curve = sweep(quadratic(curvature), rates_of(1e-7, 10, STEPS))
    found, steepest = findings(curve), RISE / (2 * curvature)
    trailing = math.exp(RISE * 0.05 * STEPS)  # how far the rate moves within the span of the mean
    assert steepest < found["suggested_lr"] < steepest * trailing
    lr, loss, smoothed = reference(curvature)
    taken = len(curve.lr)
    assert curve.lr == pytest.approx(lr[:taken], rel=1e-9) and curve.loss == pytest.approx(loss[:taken], rel=1e-9)
    assert curve.smoothed == pytest.approx(smoothed[:taken], rel=1e-9)
    central = np.gradient(smoothed[:taken], np.log10(lr[:taken]))
    assert found["suggested_lr"] == pytest.approx(lr[central.argmin()], rel=0.15)
    assert found["lr_at_minimum"] == curve.lr[smoothed[:taken].argmin()] == 10 * found["minimum_over_10"]
    assert found["lr_at_divergence"] == curve.lr[-1]
    assert curve.lr[-1] > 2 / curvature  # from where on descent on it diverges
    bound = 4 * np.minimum.accumulate(smoothed)
    assert smoothed[taken - 1] > bound[taken - 1] and (smoothed[: taken - 1] <= bound[: taken - 1]).all()


def test_a_loss_that_is_not_finite_ends_the_test_and_stands_in_no_curve() -> None:
    losses = iter([3.0] * 30 + [2.0, math.inf])
    curve = sweep(lambda lr: next(losses), rates_of(1e-3, 1, 60))
    assert len(curve.lr) == 31 and curve.diverged_at == pytest.approx(1e-3 * 1e3 ** (31 / 59))
    assert all(map(math.isfinite, curve.smoothed)) and findings(curve)["lr_at_divergence"] == curve.diverged_at


def test_a_test_that_reaches_the_highest_rate_says_no_divergence() -> None:
    curve = sweep(quadratic(1e-3), rates_of(1e-7, 10, STEPS))
    assert len(curve.lr) == STEPS and curve.lr[-1] == pytest.approx(10) and curve.diverged_at is None


@pytest.mark.parametrize("loss", [lambda lr: 1.0, lambda lr: 1 + lr])
def test_a_loss_that_never_falls_suggests_nothing(loss: Any) -> None:
    found = findings(sweep(loss, rates_of(1e-7, 1, 100)))
    assert found["suggested_lr"] is None and "never falls" in found["how"]


def test_noise_around_zero_does_not_end_the_test_of_a_signed_loss() -> None:
    noise = np.random.default_rng(0).normal(0, 1e-3, 100)
    values = noise - np.linspace(0, 1, 100) ** 4
    steps = iter(values)
    assert sweep(lambda lr: next(steps), rates_of(1e-7, 10, 100), signed=True).diverged_at is None
    steps = iter([*values[:80], *[5.0] * 20])
    assert sweep(lambda lr: next(steps), rates_of(1e-7, 10, 100), signed=True).diverged_at is not None


def test_rates_that_make_no_range_and_a_first_loss_that_is_no_number() -> None:
    for low, high in ((0, 1), (1, 1), (2, 1), (-1, 1), (1e-3, math.inf), (math.nan, 1)):
        with pytest.raises(ConfigError, match="needs rates 0 < low < high"):
            rates_of(low, high, 10)
    with pytest.raises(RunError, match="before the first step"):
        sweep(lambda lr: math.nan, rates_of(1e-7, 1, 100))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lr_range, "LEAST_STEPS", 14)


def test_batches_are_the_runs_own_and_nothing_is_left(region: Path, tmp_path: Path, short: None) -> None:
    """Signed distances are derived and gone again; with rates too small to matter, losses are those of an epoch."""
    loss = {"name": "boundary_distance", "params": {}}
    options = {"data": region, "work": tmp_path / "work", "log": lambda _: None, "options": Options()}
    curve = range_test(a_spec() | {"loss": loss}, low=1e-30, high=1e-29, **options)
    assert not list(tmp_path.iterdir()) and len(curve.lr) == 14
    assert range_test(a_spec() | {"loss": loss}, low=1e-30, high=1e-29, **options) == curve
    still = a_spec(epochs=2, lr=1e-30, batch_size=8) | {"loss": loss}
    engine.train("tiny", still, "", data=region, out=tmp_path / "out", work=tmp_path / "run", log=lambda _: None)
    with open(tmp_path / "out" / "history.csv") as handle:
        means = [float(row["train_loss"]) for row in csv.DictReader(handle)]
    assert [np.mean(curve.loss[:6]), np.mean(curve.loss[6:12])] == pytest.approx(means, rel=1e-6)


def test_a_run_of_two_devices_is_tested_with_their_halves() -> None:
    train = lr_range._alone(a_spec(devices=2, batch_size=8))["train"]
    assert (train["devices"], train["micro_batch"]) == (1, 4)
    whole = lr_range._alone(a_spec(devices=2, batch_size=8, sync_batch_norm=True))["train"]
    assert (whole["devices"], whole["micro_batch"]) == (1, None)
    assert lr_range._alone(a_spec(devices=2, batch_size=8, micro_batch=2))["train"]["micro_batch"] == 2


def test_of_a_staged_run_the_first_stage_is_tested(region: Path, tmp_path: Path, short: None) -> None:
    """While the encoder stands still the same rates lead elsewhere."""
    stages = [{"part": "decoder", "lr": 1e-3, "epochs": None}]
    staged = a_spec(schedule={"name": "staged_unfreezing", "params": {"stages": stages}})
    options = {"data": region, "work": tmp_path / "work", "log": lambda _: None, "options": Options()}
    curves = [range_test(spec, low=1e-3, high=1e-1, **options) for spec in (a_spec(), staged)]
    assert curves[0].loss != curves[1].loss


def test_summary_and_curve_of_a_curve(tmp_path: Path) -> None:
    drawn = []
    curve = Curve([1.0, 2.0], [3.0, 4.0], [3.0, 3.5], 2)
    lr_range.publish("mine", a_spec(), curve, tmp_path / "out", lambda *what: drawn.append(what))
    assert (tmp_path / "out" / "curve.csv").read_text() == "step,lr,loss,smoothed_loss\n1,1.0,3.0,3.0\n2,2.0,4.0,3.5\n"
    assert drawn[0][0] is curve and drawn[0][2].endswith("mine")
