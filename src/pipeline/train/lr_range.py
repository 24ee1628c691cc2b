"""The learning-rate range test: which rates a run's training can bear, before it is trained (Smith 2017, 2018).

The rate grows exponentially from step to step over about one epoch of the run's own batches, with its network, loss,
sampler and augmentation. The loss first stays, then falls, then rises until training diverges; ResUNet-a took the rate
of the steepest descent. Nothing of the run itself is read or written.
"""

from __future__ import annotations

import csv
import itertools
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import variants
from pipeline.dataset.joined import data_hashes
from pipeline.defaults import train_settings
from pipeline.errors import ConfigError, RunError
from pipeline.files import atomic_folder, write_json
from pipeline.train.engine import prepare
from pipeline.train.freezing import encoder_of, freeze
from pipeline.train.lock import run_lock
from pipeline.train.loop import Trainer, steps_of
from pipeline.train.options import Options

LEAST_STEPS = 100  # of a test, also where an epoch is shorter
SMOOTHED = 0.05  # of the steps: the span of the mean of losses
SLOPED = 0.1  # of the steps: the length of the line whose slope counts
LEAST_SLOPE = 1e-9  # per decade, of the largest loss: less is rounding
DIVERGED = 4.0  # times its minimum, where the smoothed loss ends the test
SKIPPED = 0.1  # of the steps, at the begin, where the mean is of too few losses for a slope


@dataclass(frozen=True)
class Curve:
    """What a range test saw, a value per step.

    Attributes:
        lr: the rate.
        loss: of the step's batch, before its update.
        smoothed: mean of the losses up to here with weights β^(k − i), β = 1 − 1 / (`SMOOTHED` · steps): the moving
            average with its bias corrected.
        steps: planned; fewer were taken where training diverged.
        diverged_at: the rate of the step that ended the test; None where the highest was reached.
    """

    lr: list[float]
    loss: list[float]
    smoothed: list[float]
    steps: int
    diverged_at: float | None = None


Draw = Callable[[Curve, dict[str, Any], str, Path], None]


def rates_of(low: float, high: float, steps: int) -> list[float]:
    """Rates low · (high / low)^(k / (steps − 1)) of steps k = 0, 1, …; ConfigError unless 0 < low < high."""
    if not 0 < low < high < math.inf or steps < 2:
        raise ConfigError(f"a learning-rate range test needs rates 0 < low < high, got {low:g} and {high:g}")
    return [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]


def sweep(losses: Callable[[float], float], rates: Sequence[float], signed: bool = False) -> Curve:
    """Take a step at each of `rates` until the smoothed loss is not finite or, past the first `SKIPPED`, diverges.

    It diverges above `DIVERGED` times its minimum; a signed loss as far above its minimum as that is for the largest
    absolute loss of a batch up to there, or in the first `SKIPPED`.

    Args:
        losses: takes one step at a rate; returns the loss of its batch.
        rates: one per step.
        signed: whether losses below 0 are in order.

    Raises:
        RunError: when already the first loss is not finite.
    """
    curve = Curve([], [], [], len(rates))
    keep = 1 - 1 / max(SMOOTHED * len(rates), 1)
    mean = 0.0
    for step, lr in enumerate(rates, 1):
        loss = losses(lr)
        mean = keep * mean + (1 - keep) * loss
        smoothed = mean / (1 - keep**step)
        if not math.isfinite(smoothed):
            if step == 1:
                raise RunError(f"the loss is {loss} before the first step: the network diverges whatever the rate")
            return Curve(curve.lr, curve.loss, curve.smoothed, len(rates), lr)
        for values, value in ((curve.lr, lr), (curve.loss, loss), (curve.smoothed, smoothed)):
            values.append(value)
        if step > SKIPPED * len(rates) and smoothed > _bound(curve, signed):
            return Curve(curve.lr, curve.loss, curve.smoothed, len(rates), lr)
    return curve


def _bound(curve: Curve, signed: bool) -> float:
    least = min(curve.smoothed)
    if not signed:
        return DIVERGED * least
    falling = max(curve.smoothed.index(least) + 1, round(SKIPPED * curve.steps))
    return least + (DIVERGED - 1) * max(map(abs, curve.loss[:falling]))


def findings(curve: Curve) -> dict[str, Any]:
    """What a curve says of rates.

    Returns:
        ``suggested_lr``, where the smoothed loss falls most steeply per decade of the rate, by a straight line through
        `SLOPED` of the steps, before its minimum; null where it never falls. ``how`` says so in words.
        ``lr_at_minimum`` of the smoothed loss, ``minimum_over_10``, a common and more careful choice, and
        ``lr_at_divergence``, null where the test reached the highest rate.
    """
    lowest = int(np.argmin(curve.smoothed))
    half = max(1, round(SLOPED * curve.steps / 2))
    first = max(half, round(SKIPPED * curve.steps))
    smoothed, decades = np.asarray(curve.smoothed), np.log10(curve.lr)
    middles = range(first, min(lowest, len(smoothed) - 1 - half) + 1)
    slopes = [_slope(decades[at - half : at + half + 1], smoothed[at - half : at + half + 1]) for at in middles]
    steepest = int(np.argmin(slopes)) if slopes else 0
    found = bool(slopes) and slopes[steepest] < -LEAST_SLOPE * float(np.abs(smoothed).max())
    how = f"the smoothed loss falls most steeply per decade of lr (a line through {2 * half + 1} steps)"
    return {
        "suggested_lr": curve.lr[middles[steepest]] if found else None,
        "how": how if found else "the smoothed loss never falls: no rate of this range is suggested",
        "lr_at_minimum": curve.lr[lowest],
        "minimum_over_10": curve.lr[lowest] / 10,
        "lr_at_divergence": curve.diverged_at,
    }


def _slope(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    """Of the straight line with the least squares."""
    away = x - x.mean()
    return float((away * (y - y.mean())).sum() / (away**2).sum())


def range_test(
    spec: dict[str, Any],
    *,
    low: float,
    high: float,
    data: Path,
    work: Path,
    log: Callable[[str], None],
    options: Options,
) -> Curve:
    """The range test of a run on this machine's device, in one process.

    Args:
        spec: the resolved run.
        low: rate of the first step.
        high: rate of the last one.
        data: folder of the regions' data.
        work: a folder of its own for the loss's extra targets; it is gone at the end.
        log: takes one line of text.
        options: how the machine is used.

    Raises:
        ConfigError: unless 0 < low < high.
        DataError: for broken chip stores.
        RunError: when already the first loss is not finite.
    """
    rates_of(low, high, 2)
    with run_lock(work, log):
        try:
            trainer = prepare(_alone(spec), data_hashes(data, spec["data"]), data, work, log, options)
            steps = max(LEAST_STEPS, len(steps_of(trainer, 0)))
            return sweep(_stepping(trainer), rates_of(low, high, steps), _signed(spec["loss"]))
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _alone(spec: dict[str, Any]) -> dict[str, Any]:
    """The run in one process, its batches in the parts that several devices would see."""
    train = train_settings(spec)
    parts = train["devices"] if train["micro_batch"] is None and not train["sync_batch_norm"] else 1
    micro = -(-train["batch_size"] // parts) if parts > 1 else train["micro_batch"]
    return {**spec, "train": {**train, "devices": 1, "micro_batch": micro}}


def _signed(loss: dict[str, Any]) -> bool:
    used = variants.used("losses", loss["name"], loss["params"])
    return any(variants.declared(family, name, "SIGNED", False) for family, name in used)


def _stepping(trainer: Trainer) -> Callable[[float], float]:
    """A function that takes the run's next step at a rate and gives the loss of its batch, epoch after epoch."""
    learner, stepper = trainer.learner, trainer.stepper
    stage = trainer.schedule(0, trainer.settings["lr"], [])
    stepper.objective.on_epoch(0, learner.progress.loss_weight)
    learner.model.train()
    freeze(learner.model, stage.part, encoder_of(trainer.facts["model"]["name"]))
    losses = itertools.chain.from_iterable(
        stepper.epoch(epoch, steps_of(trainer, epoch)) for epoch in itertools.count()
    )

    def step(lr: float) -> float:
        for group in learner.optimizer.param_groups:
            group["lr"] = lr
        return float(next(losses))

    return step


def publish(run: str, spec: dict[str, Any], curve: Curve, out: Path, draw: Draw) -> dict[str, Any]:
    """Write ``curve.csv``, ``lr_range.png`` and ``summary.json`` as the folder `out`, whole or not at all.

    Args:
        run: the run's id.
        spec: the resolved run.
        curve: of its range test.
        out: the folder.
        draw: draws a curve and what stands in the summary, with a title, into a file.

    Returns:
        What stands in the summary.
    """
    facts = {"run": run, "run_lr": spec["train"]["lr"], **findings(curve)}
    facts |= {"steps": len(curve.lr), "lowest_lr": curve.lr[0], "highest_lr": curve.lr[-1]}
    with atomic_folder(out) as folder:
        with open(folder / "curve.csv", "w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(["step", "lr", "loss", "smoothed_loss"])
            writer.writerows(zip(itertools.count(1), curve.lr, curve.loss, curve.smoothed, strict=False))
        draw(curve, facts, f"Learning-rate range test\n{run}", folder / "lr_range.png")
        write_json(folder / "summary.json", facts)
    return facts
