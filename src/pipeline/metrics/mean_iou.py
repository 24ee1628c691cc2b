"""Mean IoU (Jaccard index) over classes."""

from __future__ import annotations

from pipeline.metrics._counts import MeanOverClasses
from pipeline.metrics._leave_out import checked

NEEDS = "counts"


def build(*, leave_out: list[str] | None = None) -> MeanOverClasses:
    """Mean of IoU_c = TP / (TP + FP + FN) over the classes present in truth or prediction.

    The Mars report's mean leaves out the background: ``leave_out: [background]``.

    Args:
        leave_out: names of classes that the mean leaves out; ``mean_iou_without_<a>_<b>`` is then its name. Pixels of
            these classes stay in the counts, as false positives and negatives of the others.

    Returns:
        A callable from counts [C, C] int64 (rows truth) and C names to ``mean_iou`` and ``iou_<class>``, NaN where
        undefined.

    Raises:
        ConfigError: when a name is no text or stands twice.
    """
    return MeanOverClasses("mean_iou", "iou", checked("mean_iou", leave_out))
