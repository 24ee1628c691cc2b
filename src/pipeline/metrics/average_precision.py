"""Average precision, one class against the rest."""

from __future__ import annotations

from pipeline.metrics import _ranking

NEEDS = "histograms"


def build() -> _ranking.OneVersusRest:
    """Average precision AP = Σ_n (R_n − R_{n−1}) P_n over falling thresholds, P precision and R recall.

    The area under the precision-recall curve in steps, without interpolation. The mean over classes leaves out those
    without pixels. All pixels of a split count together. `_ranking.average_precision_error` bounds what binned
    probabilities leave open.

    Returns:
        A callable from histograms [C, 2, B] int64 and names of classes to ``average_precision`` and
        ``average_precision_<class>``.
    """
    return _ranking.OneVersusRest("average_precision", _ranking.average_precision)
