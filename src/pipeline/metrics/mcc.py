"""Matthews' correlation coefficient, multi-class and of each class against the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.metrics import _counts

NEEDS = "counts"


def build() -> Callable[[_counts.Array, Sequence[str]], dict[str, float]]:
    """Matthews' correlation coefficient, −1 to 1; 0 is no better than chance.

    Over all classes it is R_K (Gorodkin 2004) = (s Σ TP − Σ P T) / √((s² − Σ P²) (s² − Σ T²)) with P and T a class's
    predicted and true pixels and s all of them; for two classes this is equation 11 of ResUNet-a, and so is each
    class's own against the rest: (TP TN − FP FN) / √((TP + FP) (TP + FN) (TN + FP) (TN + FN)).

    Returns:
        A callable from counts [C, C] int64 (rows truth) and C names to ``mcc`` and ``mcc_<class>``; NaN where truth or
        prediction hold one class alone (scikit-learn says 0).
    """
    return score


def score(counts: _counts.Array, classes: Sequence[str]) -> dict[str, float]:
    """``mcc`` and ``mcc_<class>`` of counts [C, C] and C names."""
    table = _counts.check_counts(counts, classes)
    return {"mcc": float(_counts.mcc(table)), **_counts.by_class("mcc", _counts.class_mcc(table), classes)}
