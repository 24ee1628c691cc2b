"""Area under the ROC curve, one class against the rest."""

from __future__ import annotations

from pipeline.metrics import _ranking

NEEDS = "histograms"


def build() -> _ranking.OneVersusRest:
    """Area under the curve of true-positive rate TP / (TP + FN) over false-positive rate FP / (FP + TN).

    Per class: the chance that a pixel of the class gets a higher probability of it than another pixel, ties half; the
    mean over classes leaves out those without pixels, or with nothing but pixels. All pixels of a split count
    together. With binned probabilities the error is at most ½ Σ_b p_b n_b / (P N) (`_ranking.roc_auc_error`).

    Returns:
        A callable from histograms [C, 2, B] int64 and names of classes to ``roc_auc`` and ``roc_auc_<class>``.
    """
    return _ranking.OneVersusRest("roc_auc", _ranking.roc_auc)
