"""Confusion counts, and the scores that follow from them. Loads torch only for tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import RunError
from pipeline.metrics import _counts
from pipeline.metrics._tally import tally

if TYPE_CHECKING:
    import torch

IGNORE = 255
PIECE_PX = 1 << 16  # at a time on the CPU: stays in a core's cache, and is enough for torch to share among threads
MEMORY_PX = 1 << 24  # bounds what a GPU holds besides

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
    tables = confusion_tables(truth, predicted, classes, ignore)
    if bool(_misplaced(tables) > 0):
        valid = truth != ignore
        for name, values in (("truth", truth[valid].long()), ("prediction", predicted[valid].long())):
            if not 0 <= int(values.min()) <= int(values.max()) < classes:
                raise _beyond(name, int(values.min()), int(values.max()), classes)
    return tables[:, :classes, :classes].contiguous()


def confusion_tables(truth: torch.Tensor, predicted: torch.Tensor, classes: int, ignore: int = IGNORE) -> torch.Tensor:
    """As `confusion_counts_torch`, but nothing waits for the tensors' device: what lies outside is counted beside.

    Returns:
        [N, C + 2, C + 1] int64: row and column C are any class outside 0 to C − 1, row C + 1 is of ignored pixels. Give
        those of all batches to `counts_of`.

    Raises:
        RunError: for different shapes.
    """
    import torch

    if truth.shape != predicted.shape or truth.ndim != 3:
        shapes = f"truth {list(truth.shape)} and prediction {list(predicted.shape)}"
        raise RunError(f"confusion: {shapes} are not both [N, H, W]")
    at_once = PIECE_PX if truth.device.type == "cpu" else MEMORY_PX
    pixels = max(1, truth.shape[1] * truth.shape[2])
    step, width = max(1, at_once // pixels), math.ceil(pixels / math.ceil(pixels / at_once))
    parts = []
    for first in range(0, max(1, len(truth)), step):
        rows, columns = (values[first : first + step].flatten(1) for values in (truth, predicted))
        pieces = [slice(start, start + width) for start in range(0, pixels, width)]
        tables = [_tables(rows[:, piece], columns[:, piece], classes, ignore) for piece in pieces]
        parts.append(torch.stack(tables).sum(dim=0))
    return torch.cat(parts)


def counts_of(tables: torch.Tensor) -> Counts:
    """Counts [N, C, C] in NumPy of `confusion_tables`; RunError where a pixel has a class outside 0 to C − 1."""
    classes = tables.shape[-1] - 1
    counts = tables.cpu()
    wrong = int(_misplaced(counts))
    if wrong:
        raise RunError(f"confusion: {wrong} pixels of truth or prediction have classes beyond 0 to {classes - 1}")
    found: Counts = counts[:, :classes, :classes].contiguous().numpy()
    return found


def _misplaced(tables: torch.Tensor) -> torch.Tensor:
    """How many pixels that count lie outside 0 to C − 1, []."""
    classes = tables.shape[-1] - 1
    return tables[:, : classes + 1].sum() - tables[:, :classes, :classes].sum()


def _tables(truth: torch.Tensor, predicted: torch.Tensor, classes: int, ignore: int) -> torch.Tensor:
    """Counts [N, C + 2, C + 1] of chips [N, pixels]: index C is any other class, row C + 1 the ignored pixels."""
    import torch

    chips, cells = len(truth), (classes + 2) * (classes + 1)
    dtype = torch.uint8 if cells <= 256 else torch.int32
    rows = _codes(truth, classes, dtype).masked_fill_(truth == ignore, classes + 1)
    cell = rows.mul_(classes + 1).add_(_codes(predicted, classes, dtype))
    if chips > 1:
        cell = cell + torch.arange(0, chips * cells, cells, device=cell.device).view(-1, 1)
    counts = tally(cell.flatten(), chips * cells)
    return counts.view(chips, classes + 2, classes + 1)


def _codes(values: torch.Tensor, classes: int, dtype: torch.dtype) -> torch.Tensor:
    """A copy in which everything outside 0 to C − 1 is C."""
    import torch

    if values.dtype == torch.uint8:
        return values.clamp(max=min(classes, 255)).to(dtype)
    if values.numel() and values.device.type == "cpu":
        low, high = torch.aminmax(values)
        if int(low) >= 0 and int(high) <= 255:  # looking costs less than a clamped copy in 64 bits
            return values.to(torch.uint8).clamp_(max=min(classes, 255)).to(dtype)
    return values.masked_fill((values < 0) | (values > classes), classes).to(dtype)


def _beyond(name: str, low: int, high: int, classes: int) -> RunError:
    return RunError(f"confusion: {name} has classes {low} to {high}, but there are only 0 to {classes - 1}")


def from_confusion(counts: Array) -> dict[str, float]:
    """Scores of confusion counts.

    With TP, FP and FN of class i: precision = TP / (TP + FP), recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN),
    IoU = TP / (TP + FP + FN); each is NaN where its denominator is 0. The files mcc.py and kappa.py have the others.

    Args:
        counts: [C, C] integers, rows truth.

    Returns:
        ``accuracy``, the share of right pixels; ``balanced_accuracy``, the mean recall over classes present in the
        truth; ``mean_iou`` and ``mean_f1`` over classes present in truth or prediction; ``absent``, the number of
        classes present in neither; ``pixels``, how many were counted; ``precision_<i>``, ``recall_<i>``, ``f1_<i>``
        and ``iou_<i>`` for each class index; ``mcc``, Matthews' coefficient over all classes, ``kappa``, and
        ``mcc_<i>`` of each class against the rest. Without a single pixel all scores are NaN.

    Raises:
        RunError: when `counts` is not a square matrix of counts.
    """
    table = _counts.check_counts(counts)
    _, in_truth, in_prediction = _counts.margins(table)
    order = ("accuracy", "balanced_accuracy", "mean_iou", "mean_f1")
    scores = {name: float(_counts.OVERALL[name](table)) for name in order}
    scores |= {"absent": int(((in_truth + in_prediction) == 0).sum()), "pixels": int(in_truth.sum())}
    classes = [str(index) for index in range(len(table))]
    for part in ("precision", "recall", "f1", "iou"):
        scores |= _counts.by_class(part, _counts.PER_CLASS[part](table), classes)
    scores |= {name: float(_counts.OVERALL[name](table)) for name in ("mcc", "kappa")}
    return scores | _counts.by_class("mcc", _counts.class_mcc(table), classes)
