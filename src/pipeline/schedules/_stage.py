"""What a schedule says of an epoch, and how schedules read the history."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Part = Literal["all", "decoder", "decoder_and_norms"]


@dataclass(frozen=True)
class Stage:
    """How one epoch trains.

    Attributes:
        lr: learning rate.
        part: which weights learn: ``all``; ``decoder``, all but the encoder; ``decoder_and_norms``, all but the
            encoder's convolutions. A batch norm that does not learn keeps its running statistics too.
        number: of the stage; where it changes, the count of epochs without improvement begins anew.
    """

    lr: float
    part: Part = "all"
    number: int = 0


def better(score: str, value: float, than: float) -> bool:
    """Whether `value` of the history's column `score` is better than `than`: a loss lower, all else higher.

    NaN is never better; anything is better than NaN.
    """
    if math.isnan(value):
        return False
    if math.isnan(than):
        return True
    return value < than if score.endswith("_loss") else value > than
