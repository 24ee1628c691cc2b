"""What a schedule says of an epoch, and how schedules read the history."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Literal

Part = Literal["all", "decoder", "decoder_and_norms"]


@dataclass(frozen=True)
class Stage:
    """How one epoch trains.

    Attributes:
        lr: learning rate.
        part: which weights learn: ``all``; ``decoder``, all but the encoder; ``decoder_and_norms``, all but what in the
            encoder is no normalisation layer. A batch norm that does not learn keeps its running statistics too.
        number: of the stage; where it changes, the count of epochs without improvement begins anew.
    """

    lr: float
    part: Part = "all"
    number: int = 0


def better(score: str, value: float, than: float, by: float = 0.0) -> bool:
    """Whether `value` of the history's column `score` is better than `than` by more than `by`.

    A loss is better where it is lower, all else where it is higher. NaN is never better; anything is better than NaN.
    """
    if math.isnan(value):
        return False
    if math.isnan(than):
        return True
    return value < than - by if score.endswith("_loss") else value > than + by


def decayed(lr: float, factor: float, times: int, low: float = 0.0) -> float:
    """lr · factor^times, but not below `low`, nor below `lr` where that is lower; never 0."""
    return max(lr * factor**times, min(low, lr), sys.float_info.min)
