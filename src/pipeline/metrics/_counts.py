"""Scores of confusion counts, vectorised over any leading axes. What all metrics of counts share.

Counts are [..., C, C], rows truth, columns prediction. Of class i, TP is its diagonal cell, T its row sum, P its column
sum, and s the sum of all cells; TN = s − T − P + TP, FP = P − TP, FN = T − TP. Where a denominator is 0 the score is
NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import ConfigError, RunError, choices

Array = np.ndarray[Any, Any]
Score = Callable[[Array], Array]


def check_counts(counts: Any, classes: Sequence[str] | None = None) -> Array:
    """`counts` as an array; RunError unless they are [C, C] integers of 0 or more (and C names, where given)."""
    table = np.asarray(counts)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not np.issubdtype(table.dtype, np.integer):
        raise RunError(f"confusion: expected integer counts [C, C], got {table.dtype} {list(table.shape)}")
    if table.size and table.min() < 0:
        raise RunError(f"confusion: counts must not be negative, got {table.min()}")
    if classes is not None and len(classes) != len(table):
        raise RunError(f"confusion: {len(classes)} names of classes for counts {list(table.shape)}")
    return table


def margins(counts: Array) -> tuple[Array, Array, Array]:
    """TP, T and P of each class, [..., C]; integers stay integers of 64 bits."""
    dtype = np.int64 if np.issubdtype(counts.dtype, np.integer) else np.float64
    right = np.diagonal(counts, axis1=-2, axis2=-1).astype(dtype)
    return right, counts.sum(axis=-1, dtype=dtype), counts.sum(axis=-2, dtype=dtype)


def ratio(part: Array, whole: Array) -> Array:
    """``part / whole`` in float64, NaN where `whole` is not above 0."""
    quotient = np.full(np.broadcast_shapes(np.shape(part), np.shape(whole)), np.nan)
    np.divide(part, whole, out=quotient, where=np.asarray(whole) > 0)
    return quotient


def mean_defined(values: Array) -> Array:
    """Mean over the last axis without NaN; NaN where nothing else is left."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))


# --- per class, [..., C] -----------------------------------------------------------------------------------------


def precision(counts: Array) -> Array:
    """TP / P."""
    right, _, predicted = margins(counts)
    return ratio(right, predicted)


def recall(counts: Array) -> Array:
    """TP / T."""
    right, truth, _ = margins(counts)
    return ratio(right, truth)


def f1(counts: Array) -> Array:
    """2 TP / (T + P), the Dice coefficient."""
    right, truth, predicted = margins(counts)
    return ratio(2 * right, truth + predicted)


def iou(counts: Array) -> Array:
    """TP / (T + P − TP), the Jaccard index."""
    right, truth, predicted = margins(counts)
    return ratio(right, truth + predicted - right)


def class_mcc(counts: Array) -> Array:
    """Matthews' coefficient of each class against the rest: (TP TN − FP FN) / √(P T (s − P) (s − T))."""
    covariance, of_truth, of_prediction = _covariances(counts)
    return np.clip(ratio(covariance, np.sqrt(of_truth * of_prediction)), -1, 1)


# --- over all classes, [...] -------------------------------------------------------------------------------------


def accuracy(counts: Array) -> Array:
    """Σ TP / s, the share of right pixels."""
    right, truth, _ = margins(counts)
    return ratio(right.sum(axis=-1), truth.sum(axis=-1))


def mcc(counts: Array) -> Array:
    """Multi-class R_K (Gorodkin 2004): Σ (TP TN − FP FN) / √(Σ P (s − P) · Σ T (s − T)), the sums over classes.

    This is (s Σ TP − Σ P T) / √((s² − Σ P²) (s² − Σ T²)) without its differences of large numbers: by Cauchy and
    Schwarz no term of the numerator exceeds the denominator, so that float64 holds for any counts.
    """
    covariance, of_truth, of_prediction = _covariances(counts)
    spread = np.sqrt(of_truth.sum(axis=-1) * of_prediction.sum(axis=-1))
    return np.clip(ratio(covariance.sum(axis=-1), spread), -1, 1)


def kappa(counts: Array) -> Array:
    """Cohen's kappa (s Σ TP − Σ P T) / (s² − Σ P T), as Σ (TP TN − FP FN) / Σ P (s − T)."""
    _, truth, predicted = margins(counts)
    rest = truth.sum(axis=-1, keepdims=True) - truth
    chance = (predicted.astype(np.float64) * rest.astype(np.float64)).sum(axis=-1)
    return np.clip(ratio(_covariances(counts)[0].sum(axis=-1), chance), -1, 1)


def _covariances(counts: Array) -> tuple[Array, Array, Array]:
    """TP TN − FP FN, T (s − T) and P (s − P) of each class, [..., C] float64."""
    right, truth, predicted = margins(counts)
    total = truth.sum(axis=-1, keepdims=True)
    tp, tn, fp, fn, t, not_t, p, not_p = (
        part.astype(np.float64)
        for part in (
            right,
            total - truth - predicted + right,
            predicted - right,
            truth - right,
            truth,
            total - truth,
            predicted,
            total - predicted,
        )
    )
    return tp * tn - fp * fn, t * not_t, p * not_p


PER_CLASS: dict[str, Score] = {"precision": precision, "recall": recall, "f1": f1, "iou": iou, "mcc": class_mcc}
OVERALL: dict[str, Score] = {
    "accuracy": accuracy,
    "balanced_accuracy": lambda counts: mean_defined(recall(counts)),
    "mean_iou": lambda counts: mean_defined(iou(counts)),
    "mean_f1": lambda counts: mean_defined(f1(counts)),
    "mcc": mcc,
    "kappa": kappa,
}


def named(name: str) -> Score:
    """The score that `from_confusion` calls `name`, such as ``mean_iou`` or ``iou_2``, over counts [..., C, C].

    Raises:
        ConfigError: with the choices, for an unknown name.
    """
    if name in OVERALL:
        return OVERALL[name]
    part, _, index = name.rpartition("_")
    if part not in PER_CLASS or not index.isdecimal():
        known = [*OVERALL, *(f"{key}_<class index>" for key in PER_CLASS)]
        raise ConfigError(f"no score {name!r} of confusion counts; {choices(name, known)}")
    return lambda counts: _one_class(PER_CLASS[part](counts), int(index), name)


def _one_class(values: Array, index: int, name: str) -> Array:
    if index >= values.shape[-1]:
        raise ConfigError(f"no score {name!r}: there are only the classes 0 to {values.shape[-1] - 1}")
    chosen: Array = values[..., index]
    return chosen


# --- metrics -----------------------------------------------------------------------------------------------------


def by_class(name: str, values: Array, classes: Sequence[str]) -> dict[str, float]:
    """``<name>_<class>`` of values [C]."""
    return {f"{name}_{label}": float(value) for label, value in zip(classes, values, strict=True)}


@dataclass(frozen=True)
class MeanOverClasses:
    """The metric that averages a score of classes, NaN left out, and gives each class's besides.

    Args:
        name: of the mean; ``_without_<a>_<b>`` is added for the classes left out.
        part: of the score per class, a key of `PER_CLASS`.
        leave_out: names of classes that the mean leaves out. Their pixels stay in the counts: they still are false
            positives and negatives of the others.
    """

    name: str
    part: str
    leave_out: tuple[str, ...] = ()

    def __call__(self, counts: Array, classes: Sequence[str]) -> dict[str, float]:
        """Scores of counts [C, C] int64 and C names; RunError for a class left out that there is not."""
        values = PER_CLASS[self.part](check_counts(counts, classes))
        for label in self.leave_out:
            if label not in classes:
                raise RunError(f"metric {self.name}: leave_out: no class {label!r}; {choices(label, classes)}")
        kept = np.array([label not in self.leave_out for label in classes], dtype=bool)
        if not kept.any():
            raise RunError(f"metric {self.name}: leave_out names all classes; leave one at least")
        name = "_".join([self.name, *(["without", *self.leave_out] if self.leave_out else [])])
        return {name: float(mean_defined(values[kept])), **by_class(self.part, values, classes)}
