"""The learning rate is divided where a score or a loss has not improved for some epochs."""

from __future__ import annotations

import math
from collections.abc import Callable

from pipeline.errors import RunError
from pipeline.schedules import History
from pipeline.schedules._stage import Stage, better, decayed


def build(
    *,
    monitor: str = "val_loss",
    factor: float = 0.1,
    patience: int = 10,
    reductions: int | None = None,
    threshold: float = 0.0,
    cooldown: int = 0,
    min_lr: float = 0.0,
) -> Callable[[int, float, History], Stage]:
    """Rate max(lr · factor^n, m), n the times that `patience` epochs on end were not better than the best before.

    The defaults are the boundary paper's for Potsdam. ResUNet-a's is ``{reductions: 3}``, its patience is not given;
    the Mars report's, with what Keras takes for granted, ``{threshold: 1.0e-4}``. The counts are those of
    torch.optim.lr_scheduler.ReduceLROnPlateau with `threshold_mode` ``abs``, `eps` 0 and a patience lower by one: there
    the rate falls when epochs without improvement are more than the patience.

    Args:
        monitor: a column of the history: ``train_loss``, ``val_loss`` or a score such as ``val_mean_iou``.
        factor: above 0 and below 1.
        patience: epochs without improvement after which the rate falls, 1 or more.
        reductions: at most so many, 1 or more; null: no limit.
        threshold: only what is better by more than this improves, 0 or more.
        cooldown: epochs after a reduction that are not counted as without improvement, 0 or more.
        min_lr: m, 0 or more and below the run's `lr`.
    """

    def stage(epoch: int, lr: float, history: History) -> Stage:
        values = [_value(row, monitor) for row in history]
        times = _reductions(monitor, values, patience, threshold, cooldown)
        times = times if reductions is None else min(times, reductions)
        return Stage(decayed(lr, factor, times, min_lr))

    return stage


def _value(row: dict[str, float], monitor: str) -> float:
    if monitor not in row:
        raise RunError(f"schedule reduce_on_plateau: the history has no column {monitor!r}")
    return row[monitor]


def _reductions(monitor: str, values: list[float], patience: int, threshold: float, cooldown: int) -> int:
    """How often the rate has fallen after epochs with these values, without a limit."""
    best, bad, cooling, times = math.nan, 0, 0, 0
    for value in values:
        if better(monitor, value, best, threshold):
            best, bad = value, 0
        else:
            bad += 1
        if cooling:
            cooling, bad = cooling - 1, 0
        if bad >= patience:
            times, bad, cooling = times + 1, 0, cooldown
    return times
