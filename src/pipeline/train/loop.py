"""The epochs of a run: train, validate, keep the best weights, follow the schedule, stop early.

Every step is a function of (seed, epoch, step), and every decision one of the history, so that a killed run resumes bit
by bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline import metrics
from pipeline.errors import RunError
from pipeline.metrics import from_confusion
from pipeline.protocol import LAST, MONITOR, PER_CLASS, checkpoint_name, followed, monitored
from pipeline.samplers._chips import Chips
from pipeline.schedules import History
from pipeline.schedules._stage import Stage, better
from pipeline.train.display import Display
from pipeline.train.freezing import encoder_of, freeze
from pipeline.train.inference import score_chips
from pipeline.train.loggers import Loggers
from pipeline.train.state import Learner, Saver
from pipeline.train.step import Part, Stepper, parts_of
from pipeline.train.weight_search import WeightSearch

if TYPE_CHECKING:
    from pipeline.samplers import Sampler

Array = np.ndarray[Any, np.dtype[Any]]
Row = dict[str, float]


@dataclass
class Trainer:
    """The pieces of one run in training."""

    learner: Learner
    stepper: Stepper
    settings: dict[str, Any]
    schedule: Callable[[int, float, History], Stage]
    sampler: Sampler
    counts: Array
    search: WeightSearch | None
    facts: dict[str, Any]
    display: Display


def fit(trainer: Trainer, saver: Saver, loggers: Loggers | None = None) -> None:
    """Train until the last epoch or the early stop; the state is saved on the way, and loggers have the epochs then."""
    learner, search = trainer.learner, trainer.search
    if loggers is not None:
        loggers.saved(_settled(trainer))  # what a killed process has not come to hand over
    while not _over(trainer):
        row = trainer.stepper.world.agreed(_epoch(trainer))
        _take_in(trainer, row)
        trial = search.trial if search is not None else None
        found = search.advance(learner) if search is not None else []
        if loggers is not None:
            loggers.take(row, trial)
        if trainer.stepper.world.first:
            saved = saver.save(learner, search.state() if search is not None else None, last=_over(trainer))
            if saved and loggers is not None:
                loggers.saved(_settled(trainer))
        trainer.display.epoch(row)
        for line in found:
            trainer.display.log(line)


def _settled(trainer: Trainer) -> list[Row]:
    """The epochs that no search will take back."""
    history = trainer.learner.progress.history
    return history if trainer.search is None else trainer.search.settled(history)


def _over(trainer: Trainer) -> bool:
    progress, settings = trainer.learner.progress, trainer.settings
    return bool(progress.epoch >= settings["epochs"] or progress.bad_epochs >= settings["patience"])


def _take_in(trainer: Trainer, row: Row) -> None:
    """After a complete epoch: the history, the checkpoints, the count of epochs without improvement."""
    learner, progress = trainer.learner, trainer.learner.progress
    progress.epoch += 1
    progress.history.append(row)
    watched = monitored(trainer.settings)
    for kept in trainer.settings["checkpoints"]:
        score = watched if kept == MONITOR else kept
        name = checkpoint_name(kept)
        if kept != LAST and better(score, row[score], progress.best.get(name, math.nan)):
            progress.best[name] = row[score]
            learner.keep(name, {**trainer.facts, "checkpoint": name, "epoch": progress.epoch, score: row[score]})
    improved = better(watched, row[watched], progress.watched)
    progress.watched = row[watched] if improved else progress.watched
    progress.bad_epochs = 0 if improved else progress.bad_epochs + 1


def _epoch(trainer: Trainer) -> Row:
    """Train and validate one epoch; returns its row of the history."""
    begin, learner, objective = time.monotonic(), trainer.learner, trainer.stepper.objective
    progress, settings = learner.progress, trainer.settings
    stage = trainer.schedule(progress.epoch, settings["lr"], progress.history)
    if stage.number != progress.stage:
        progress.stage, progress.bad_epochs = stage.number, 0
    for group in learner.optimizer.param_groups:
        group["lr"] = stage.lr
    objective.on_epoch(progress.epoch, progress.loss_weight)
    row: Row = {"epoch": progress.epoch + 1, "lr": stage.lr}
    if objective.changing_weight is not None:
        row["loss_weight"] = objective.changing_weight
    row["train_loss"] = _train(trainer, progress.epoch, stage)
    row |= _validate(trainer)
    row["seconds"] = round(time.monotonic() - begin, 3)
    return row


def steps_of(trainer: Trainer, epoch: int) -> list[list[Part]]:
    """The steps of an epoch, counted from 0: the chips that the sampler chooses now."""
    stepper, settings = trainer.stepper, trainer.settings
    chips = Chips(trainer.counts, trainer.facts["classes"], trainer.learner.errors.cpu().numpy())
    order = trainer.sampler(chips, np.random.default_rng([stepper.seed, epoch]))
    return parts_of(order, settings["batch_size"], settings["micro_batch"], stepper.world.size)


def _train(trainer: Trainer, epoch: int, stage: Stage) -> float:
    """One pass over the chips that the sampler chose; returns the mean loss."""
    stepper, learner = trainer.stepper, trainer.learner
    steps = steps_of(trainer, epoch)
    learner.model.train()
    freeze(learner.model, stage.part, encoder_of(trainer.facts["model"]["name"]))
    losses = torch.zeros(len(steps), device=stepper.world.device)
    checked, cheap = 0, stepper.world.device.type == "cpu"
    trainer.display.begin(epoch, len(steps), sum(len(part.at) for parts in steps for part in parts))
    last = time.monotonic()
    for step, loss in enumerate(stepper.epoch(epoch, steps)):
        losses[step] = loss
        look = cheap or time.monotonic() - last > trainer.display.look_s
        if look and stepper.world.size == 1:
            _check_finite(trainer, epoch, steps, losses[checked : step + 1], checked)
            checked, last = step + 1, time.monotonic()
        trainer.display.step(step + 1, losses, look)
    losses = stepper.world.summed(losses) / stepper.world.size
    _check_finite(trainer, epoch, steps, losses[checked:], checked)
    return float(losses.double().mean())


def _check_finite(trainer: Trainer, epoch: int, steps: list[list[Part]], losses: torch.Tensor, first: int) -> None:
    """RunError for the first loss that is not finite; `losses` are those of the steps from `first` on."""
    broken = torch.nonzero(~torch.isfinite(losses))
    if not len(broken):
        return
    step = first + int(broken[0])
    ids = trainer.stepper.feed.joined.rows["train"].chip_ids[np.concatenate([part.at for part in steps[step]])]
    value = float(losses[step - first])
    raise RunError(
        f"the loss is {value} at epoch {epoch + 1}, batch {step + 1} (chips {', '.join(map(str, ids[:8]))}"
        f"{f' and {len(ids) - 8} more' if len(ids) > 8 else ''}); try a lower lr"
    )


def _validate(trainer: Trainer) -> Row:
    stepper, settings = trainer.stepper, trainer.settings
    stepper.objective.for_validation()
    outcome = score_chips(
        trainer.learner.scored(), stepper.feed, "val", stepper.scaler, stepper.objective, world=stepper.world
    )
    counts = outcome.counts.sum(axis=0)
    classes = trainer.facts["classes"]
    scores = from_confusion(counts)
    row = {
        "val_loss": outcome.loss,
        "val_accuracy": scores["accuracy"],
        "val_jaccard_coefficient": outcome.jaccard_coefficient,
        "val_mean_iou": scores["mean_iou"],
    }
    named = {f"val_{name}": value for name, value in _by_class_name(scores, classes).items()}
    monitor = settings["monitor"]
    if not isinstance(monitor, str):
        found = metrics.create(monitor["name"], **monitor["params"])(counts, classes)
        named[monitored(settings)] = next(iter(found.values()))
    asked = [monitored(settings), followed(settings), *settings["checkpoints"]]
    return row | {name: named[name] for name in asked if name in named and name not in row}


def _by_class_name(scores: dict[str, float], classes: list[str]) -> dict[str, float]:
    """Scores with ``iou_<class>`` for ``iou_<index>``."""
    names = {f"{part}_{index}": f"{part}_{name}" for part in PER_CLASS for index, name in enumerate(classes)}
    return {names.get(key, key): value for key, value in scores.items()}
