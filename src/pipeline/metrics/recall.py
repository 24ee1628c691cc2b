"""Mean recall over classes."""

from __future__ import annotations

from pipeline.metrics._counts import MeanOverClasses
from pipeline.metrics._leave_out import checked

NEEDS = "counts"


def build(*, leave_out: list[str] | None = None) -> MeanOverClasses:
    """Mean of TP / (TP + FN) over the classes present in the truth (ResUNet-a, equation 9).

    Of the pixels that are a class, the share that is called so.

    Args:
        leave_out: names of classes that the mean leaves out; ``recall_without_<a>_<b>`` is then its name. Pixels of
            these classes stay in the counts, as false positives and negatives of the others.

    Returns:
        A callable from counts [C, C] int64 (rows truth) and C names to ``recall`` and ``recall_<class>``, NaN where
        undefined.

    Raises:
        ConfigError: when a name is no text or stands twice.
    """
    return MeanOverClasses("recall", "recall", checked("recall", leave_out))
