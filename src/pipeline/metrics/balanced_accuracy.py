"""Balanced accuracy: every class present in the truth counts alike."""

from __future__ import annotations

from pipeline.metrics._counts import MeanOverClasses

NEEDS = "counts"


def build() -> MeanOverClasses:
    """Mean of recall_c = TP / (TP + FN) over the classes present in the truth (Brodersen et al. 2010).

    Returns:
        A callable from counts [C, C] int64 (rows truth) and C names to ``balanced_accuracy`` and ``recall_<class>``,
        NaN where undefined.
    """
    return MeanOverClasses("balanced_accuracy", "recall")
