"""Schedules that warm up and then fall over all epochs of a run."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.errors import ConfigError
from pipeline.schedules import History
from pipeline.schedules._stage import Stage


def annealing(
    schedule: str, epochs: int | None, warmup: int, min_lr: float, fall: Callable[[float], float]
) -> Callable[[int, float, History], Stage]:
    """Rate lr · (e + 1) / (W + 1) in the W epochs of warm-up, then m + (lr − m) · fall(p), p = (e − W) / (T − W).

    e counts from 0, so that epoch W has the whole `lr` and the last of the T epochs more than m; epochs after those
    keep the last one's rate.

    Args:
        schedule: its name, for messages.
        epochs: T.
        warmup: W.
        min_lr: m.
        fall: from [0, 1] to [0, 1], 1 at 0.

    Raises:
        ConfigError: without `epochs`.
    """
    if epochs is None:
        raise ConfigError(f"schedule {schedule}: epochs is null, which means those of a run; outside of one name them")
    span = epochs

    def stage(epoch: int, lr: float, history: History) -> Stage:
        if epoch < warmup:
            return Stage(lr * (epoch + 1) / (warmup + 1))
        low = min(min_lr, lr)
        share = (min(epoch, span - 1) - warmup) / (span - warmup)
        return Stage(low + (lr - low) * fall(share))

    return stage
