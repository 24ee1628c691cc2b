"""The boundary paper's protocol: first the decoder learns, then the encoder's batch norms too, then everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.schedules import History
from pipeline.schedules._stage import Stage
from pipeline.schedules._staged_unfreezing import begins


def build(
    *,
    stages: list[dict[str, Any]] = [  # noqa: B006 (a literal for the config, never changed)
        {"part": "decoder", "lr": 3e-3, "epochs": 3},
        {"part": "decoder_and_norms", "lr": 1e-3, "epochs": 3},
        {"part": "all", "lr": 1e-4, "epochs": 100},
        {"part": "all", "lr": 1e-5, "epochs": 60},
    ],
) -> Callable[[int, float, History], Stage]:
    """Stages one after the other, each with its part of the network, rate and epochs; the run's `lr` has no say.

    The paper's are the defaults, 166 epochs in all, for a network with weights from ImageNet; how long its second stage
    was is not given. Where a stage begins, the early stop's count of epochs without improvement begins anew.

    Args:
        stages: one or more mappings of ``part`` (``decoder``, ``decoder_and_norms`` or ``all``, see
            `pipeline.schedules._stage.Stage`), ``lr`` above 0 and ``epochs``, 1 or more. The last stage goes on to the
            run's end, and its ``epochs`` may be null.
    """
    starts = begins(stages)

    def stage(epoch: int, lr: float, history: History) -> Stage:
        number = sum(begin <= epoch for begin in starts) - 1
        return Stage(stages[number]["lr"], stages[number]["part"], number)

    return stage
