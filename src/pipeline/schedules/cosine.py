"""The learning rate falls along half a cosine (Loshchilov and Hutter 2017), after a warm-up if asked for."""

from __future__ import annotations

import math
from collections.abc import Callable

from pipeline.schedules import History
from pipeline.schedules._annealing import annealing
from pipeline.schedules._stage import Stage

SMALL = {"epochs": 8, "warmup": 2}


def build(*, epochs: int | None = None, warmup: int = 0, min_lr: float = 0.0) -> Callable[[int, float, History], Stage]:
    """Rate m + (lr − m) · (1 + cos πp) / 2, with p = (e − W) / (T − W) in epoch e, counted from 0.

    In the W epochs of warm-up it is lr · (e + 1) / (W + 1). There are no restarts: epochs after T keep the last rate.

    Args:
        epochs: T, more than `warmup`; null: as many as the run may have.
        warmup: W, 0 or more.
        min_lr: m, 0 or more and below the run's `lr`.
    """
    return annealing("cosine", epochs, warmup, min_lr, lambda share: (1 + math.cos(math.pi * share)) / 2)
