"""Overall accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.metrics import _counts

NEEDS = "counts"


def build() -> Callable[[_counts.Array, Sequence[str]], dict[str, float]]:
    """Share of right pixels, Σ_c TP_c / s over all s pixels.

    Equation 7 of ResUNet-a prints (TP + TN) / (FP + FN), which no accuracy of the paper obeys; see docs/fidelity.md.

    Returns:
        A callable from counts [C, C] int64 (rows truth) and C names to ``accuracy``, NaN without pixels.
    """
    return score


def score(counts: _counts.Array, classes: Sequence[str]) -> dict[str, float]:
    """``accuracy`` of counts [C, C] and C names."""
    return {"accuracy": float(_counts.accuracy(_counts.check_counts(counts, classes)))}
