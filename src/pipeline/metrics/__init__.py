"""Scores from predictions: confusion counts and what follows from them, and the batch-mean Jaccard coefficient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def from_confusion(counts: np.ndarray[Any, Any]) -> dict[str, float]:
    """Named scores of confusion counts [C, C], rows truth; see `pipeline.metrics.confusion.from_confusion`."""
    from pipeline.metrics import confusion

    return confusion.from_confusion(counts)
