"""Scores of single chips, averaged over the chips where they are defined."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.errors import RunError

Array = np.ndarray[Any, Any]
ChipMetric = Callable[..., dict[str, float]]


class ChipMean:
    """Mean of each score over chips, NaN left out, and how many chips were left out."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}
        self._chips = 0

    def update(self, scores: Mapping[str, float]) -> None:
        """Add a chip's scores; RunError unless they have the names of the first chip's."""
        if self._chips and scores.keys() != self._sums.keys():
            other = sorted(scores.keys() ^ self._sums.keys())
            raise RunError(f"metrics: chips differ in their scores: {', '.join(other)}")
        self._chips += 1
        for name, value in scores.items():
            defined = self._sums.setdefault(name, [])
            if not math.isnan(value):
                defined.append(float(value))

    def compute(self) -> dict[str, float]:
        """``<name>``, NaN where no chip has it, and ``<name>_undefined``, the chips where it is NaN, for each name."""
        scores: dict[str, float] = {}
        for name, defined in self._sums.items():
            scores[name] = math.fsum(defined) / len(defined) if defined else math.nan
            scores[f"{name}_undefined"] = self._chips - len(defined)
        return scores


def score_chips(
    metric: ChipMetric, chips: Iterable[tuple[Array, Array]], classes: Sequence[str], gsd_m: float | None = None
) -> dict[str, float]:
    """`ChipMean` of a metric of chips.

    Args:
        metric: made by `pipeline.metrics.create`, with NEEDS = ``chip``.
        chips: truth and prediction of each in turn, [H, W] uint8, 255 ignored in the truth.
        classes: C names.
        gsd_m: metres on the ground per pixel; None where it is not known.

    Raises:
        RunError: when a chip's values do not fit.
    """
    mean = ChipMean()
    for truth, predicted in chips:
        mean.update(metric(truth, predicted, classes, gsd_m))
    return mean.compute()
