"""The learning rate falls as a power of the epochs that are left, the "poly" policy of DeepLab (Chen et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.schedules import History
from pipeline.schedules._annealing import annealing
from pipeline.schedules._stage import Stage

SMALL = {"epochs": 8, "warmup": 2}


def build(
    *, epochs: int | None = None, power: float = 0.9, warmup: int = 0, min_lr: float = 0.0
) -> Callable[[int, float, History], Stage]:
    """Rate m + (lr − m) · (1 − p)^power, with p = (e − W) / (T − W) in epoch e, counted from 0.

    In the W epochs of warm-up it is lr · (e + 1) / (W + 1). Epochs after T keep the last rate.

    Args:
        epochs: T, more than `warmup`; null: as many as the run may have.
        power: above 0; 1 is a straight line.
        warmup: W, 0 or more.
        min_lr: m, 0 or more and below the run's `lr`.
    """
    return annealing("polynomial", epochs, warmup, min_lr, lambda share: float((1 - share) ** power))
