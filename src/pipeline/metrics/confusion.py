"""Confusion counts, and the scores that follow from them. Loads torch only for tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import RunError

if TYPE_CHECKING:
    import torch

IGNORE = 255

Counts = np.ndarray[Any, np.dtype[np.int64]]
Array = np.ndarray[Any, Any]


def confusion_counts(truth: Array, predicted: Array, classes: int, ignore: int = IGNORE) -> Counts:
    """Count pixels by class.

    Args:
        truth: class indices of any shape and integer dtype; `ignore` marks pixels that do not count.
        predicted: class indices of the same shape; any value where the truth is ignored.
        classes: C, the number of classes.
        ignore: value of ignored pixels in `truth`.

    Returns:
        [C, C] int64, rows truth, columns prediction.

    Raises:
        RunError: for different shapes, or a class outside 0 to C − 1.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise RunError(f"confusion: truth {list(truth.shape)} and prediction {list(predicted.shape)} differ in shape")
    valid = truth != ignore
    rows, columns = truth[valid].astype(np.int64), predicted[valid].astype(np.int64)
    for name, values in (("truth", rows), ("prediction", columns)):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            raise _beyond(name, int(values.min()), int(values.max()), classes)
    return np.bincount(rows * classes + columns, minlength=classes**2).astype(np.int64).reshape(classes, classes)


def confusion_counts_torch(
    truth: torch.Tensor, predicted: torch.Tensor, classes: int, ignore: int = IGNORE
) -> torch.Tensor:
    """Count pixels by class, chip by chip, on the tensors' own device.

    Args:
        truth: class indices [N, H, W], integer dtype; `ignore` marks pixels that do not count.
        predicted: class indices [N, H, W], integer dtype, same device.
        classes: C, the number of classes.
        ignore: value of ignored pixels in `truth`.

    Returns:
        [N, C, C] int64, rows truth, columns prediction.

    Raises:
        RunError: for different shapes, or a class outside 0 to C − 1.
    """
    import torch

    if truth.shape != predicted.shape or truth.ndim != 3:
        shapes = f"truth {list(truth.shape)} and prediction {list(predicted.shape)}"
        raise RunError(f"confusion: {shapes} are not both [N, H, W]")
    chips = truth.shape[0]
    rows, columns = truth.long(), predicted.long()
    valid = rows != ignore
    for name, values in (("truth", rows), ("prediction", columns)):
        if bool((valid & ((values < 0) | (values >= classes))).any()):
            inside = values[valid]
            raise _beyond(name, int(inside.min()), int(inside.max()), classes)
    chip = torch.arange(chips, device=truth.device).view(-1, 1, 1)
    cell = (chip * classes + rows) * classes + columns
    cells = chips * classes**2
    counts = torch.bincount(cell.masked_fill(~valid, cells).flatten(), minlength=cells + 1)
    return counts[:cells].view(chips, classes, classes)


def _beyond(name: str, low: int, high: int, classes: int) -> RunError:
    return RunError(f"confusion: {name} has classes {low} to {high}, but there are only 0 to {classes - 1}")


def from_confusion(counts: Array) -> dict[str, float]:
    """Scores of confusion counts.

    With TP, FP and FN of class i: precision = TP / (TP + FP), recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN),
    IoU = TP / (TP + FP + FN); each is NaN where its denominator is 0.

    Args:
        counts: [C, C] integers, rows truth.

    Returns:
        ``accuracy``, the share of right pixels; ``balanced_accuracy``, the mean recall over classes present in the
        truth; ``mean_iou`` and ``mean_f1`` over classes present in truth or prediction; ``absent``, the number of
        classes present in neither; ``pixels``, how many were counted; ``precision_<i>``, ``recall_<i>``, ``f1_<i>``
        and ``iou_<i>`` for each class index. Without a single pixel all scores are NaN.

    Raises:
        RunError: when `counts` is not a square matrix of counts.
    """
    table = np.asarray(counts)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not np.issubdtype(table.dtype, np.integer):
        raise RunError(f"confusion: expected integer counts [C, C], got {table.dtype} {list(table.shape)}")
    if table.size and table.min() < 0:
        raise RunError(f"confusion: counts must not be negative, got {table.min()}")
    right = np.diag(table).astype(np.int64)
    in_truth, in_prediction = table.sum(1, dtype=np.int64), table.sum(0, dtype=np.int64)
    per_class = {
        "precision": _ratio(right, in_prediction),
        "recall": _ratio(right, in_truth),
        "f1": _ratio(2 * right, in_truth + in_prediction),
        "iou": _ratio(right, in_truth + in_prediction - right),
    }
    pixels = int(in_truth.sum())
    scores: dict[str, float] = {
        "accuracy": float(right.sum()) / pixels if pixels else float("nan"),
        "balanced_accuracy": _mean_defined(per_class["recall"]),
        "mean_iou": _mean_defined(per_class["iou"]),
        "mean_f1": _mean_defined(per_class["f1"]),
        "absent": int(((in_truth + in_prediction) == 0).sum()),
        "pixels": pixels,
    }
    for name, values in per_class.items():
        scores |= {f"{name}_{index}": float(value) for index, value in enumerate(values)}
    return scores


def _ratio(part: Array, whole: Array) -> Array:
    ratio = np.full(part.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _mean_defined(values: Array) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
