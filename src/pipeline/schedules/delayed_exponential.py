"""The Frankfurt report's schedule: the learning rate stays for some epochs, then decays every few."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pipeline.schedules import History
from pipeline.schedules._stage import Stage, decayed


def build(
    *, start: int = 12, every: int = 1, gamma: float = 0.75, counted_from: Literal["zero", "start"] = "zero"
) -> Callable[[int, float, History], Stage]:
    """lr_{e+1} = lr_e if e < e* or e mod δ ≠ 0, else γ · lr_e, with epochs e counted from 1 as in ``history.csv``.

    So the first e* epochs have the run's `lr`, and an epoch after which the rate falls is a multiple of δ. With epochs
    counted from 0, as the notebook's framework does, that is the rate of epoch e itself, lr_e = γ · lr_{e−1}: the same.
    The defaults are the report's best for the focal loss.

    Args:
        start: e*, complete epochs before the first decay, 1 or more; the report's are 12 (focal) and 17 (Jaccard).
        every: δ, epochs between decays, 1 or more; the report's are 1, 3 and 6.
        gamma: γ, above 0 and at most 1; the report's are 0.99, 0.95, 0.9, 0.75 and 0.5.
        counted_from: ``zero``, the rate decays where e mod δ = 0 (the report's formula); ``start``, where
            (e − e*) mod δ = 0 (its notebook). They differ where e* is no multiple of δ.
    """
    origin = 0 if counted_from == "zero" else start

    def stage(epoch: int, lr: float, history: History) -> Stage:
        """Decays after epochs e* to `epoch`: multiples of δ up to the latter, less those before e*."""
        decays = (epoch - origin) // every - (start - 1 - origin) // every if epoch >= start else 0
        return Stage(decayed(lr, gamma, decays))

    return stage
