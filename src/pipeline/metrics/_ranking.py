"""ROC AUC and average precision from histograms of probabilities, with what the bins leave open.

A histogram is [2, B] int64 over rising probability: [0] pixels of other classes (negatives), [1] pixels of the class
(positives). Pixels in one bin count as equally probable. Bins that hold one probability each give the exact score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import RunError
from pipeline.metrics._counts import by_class, mean_defined

Array = np.ndarray[Any, Any]


def check_histograms(histograms: Any, classes: Sequence[str]) -> tuple[Array, list[str]]:
    """The array and a name per histogram; one histogram of two classes is the second's (a network with one logit).

    Raises:
        RunError: unless they are [C, 2, B] integers of 0 or more and names fit.
    """
    table = np.asarray(histograms)
    if table.ndim != 3 or table.shape[1] != 2 or not np.issubdtype(table.dtype, np.integer):
        raise RunError(f"metrics: expected integer histograms [C, 2, B], got {table.dtype} {list(table.shape)}")
    if table.size and table.min() < 0:
        raise RunError(f"metrics: histograms must not be negative, got {table.min()}")
    names = list(classes)[-1:] if len(table) == 1 and len(classes) == 2 else list(classes)
    if len(names) != len(table):
        raise RunError(f"metrics: {len(classes)} names of classes for histograms {list(table.shape)}")
    return table.astype(np.int64, copy=False), names


def roc_auc(histogram: Array) -> float:
    """Σ_b p_b (N_b + n_b / 2) / (P N): the chance that a positive is more probable than a negative, ties half.

    p_b and n_b are positives and negatives of bin b, N_b the negatives of lower bins. NaN without positives or
    negatives.
    """
    negative, positive = histogram.astype(np.float64)
    pairs = negative.sum() * positive.sum()
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / pairs) if pairs else float("nan")


def roc_auc_error(histogram: Array) -> float:
    """Bound on |binned − exact| of `roc_auc`: ½ Σ_b p_b n_b / (P N), since only pairs within a bin are in doubt."""
    negative, positive = histogram.astype(np.float64)
    pairs = negative.sum() * positive.sum()
    return float((positive * negative).sum() / 2 / pairs) if pairs else float("nan")


def average_precision(histogram: Array) -> float:
    """Σ_b (p_b / P) · precision of all that is at least as probable as bin b. NaN without positives.

    The step-wise area under the curve of precision over recall, without interpolation.
    """
    negative, positive = histogram[:, ::-1].astype(np.float64)
    total = positive.sum()
    if not total:
        return float("nan")
    right = np.cumsum(positive)
    share = right / np.maximum(right + np.cumsum(negative), 1)
    return float((positive * share).sum() / total)


def average_precision_error(histogram: Array) -> float:
    """Bound on |binned − exact| of `average_precision`.

    With R positives and F negatives in higher bins, the k-th positive of a bin has a precision of at most
    (R + p_b) / (R + p_b + F), all negatives of the bin behind its positives, and of at least f(k) = (R + k) /
    (R + k + F + n_b), all before them. f is concave, so that its mean over the bin is at least (f(1) + f(p_b)) / 2;
    f(p_b) is what the binned score takes.
    """
    negative, positive = histogram[:, ::-1].astype(np.float64)
    total = positive.sum()
    if not total:
        return float("nan")
    right, wrong = np.cumsum(positive), np.cumsum(negative)
    first = right - positive + 1
    share = right / np.maximum(right + wrong, 1)
    above = right / np.maximum(right + wrong - negative, 1) - share
    below = (share - first / (first + wrong)) / 2
    return float((positive * np.maximum(above, below)).sum() / total)


@dataclass(frozen=True)
class OneVersusRest:
    """The metric that gives a score of each class's histogram and their mean, NaN left out."""

    name: str
    score: Callable[[Array], float]

    def __call__(self, histograms: Array, classes: Sequence[str]) -> dict[str, float]:
        """Scores of histograms [C, 2, B] int64 and C names of classes (C = 1: also two, the second is meant)."""
        table, names = check_histograms(histograms, classes)
        values = np.array([self.score(histogram) for histogram in table], dtype=np.float64)
        return {self.name: float(mean_defined(values)), **by_class(self.name, values, names)}
