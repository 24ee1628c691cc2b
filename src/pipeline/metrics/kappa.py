"""Cohen's kappa."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.metrics import _counts

NEEDS = "counts"


def build() -> Callable[[_counts.Array, Sequence[str]], dict[str, float]]:
    """Cohen's kappa (a − e) / (1 − e): accuracy a beyond e, that of chance with the same margins (Cohen 1960).

    e = Σ_c P_c T_c / s² with P and T a class's predicted and true pixels and s all of them.

    Returns:
        A callable from counts [C, C] int64 (rows truth) and C names to ``kappa``; NaN where truth and prediction hold
        one and the same class alone.
    """
    return score


def score(counts: _counts.Array, classes: Sequence[str]) -> dict[str, float]:
    """``kappa`` of counts [C, C] and C names."""
    return {"kappa": float(_counts.kappa(_counts.check_counts(counts, classes)))}
