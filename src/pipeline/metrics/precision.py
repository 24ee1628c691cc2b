"""Mean precision over classes."""

from __future__ import annotations

from pipeline.metrics._counts import MeanOverClasses
from pipeline.metrics._leave_out import checked

NEEDS = "counts"


def build(*, leave_out: list[str] | None = None) -> MeanOverClasses:
    """Mean of TP / (TP + FP) over the classes that are predicted (ResUNet-a, equation 8).

    Of the pixels that are called a class, the share that is.

    Args:
        leave_out: names of classes that the mean leaves out; ``precision_without_<a>_<b>`` is then its name. Pixels of
            these classes stay in the counts, as false positives and negatives of the others.

    Returns:
        A callable from counts [C, C] int64 (rows truth) and C names to ``precision`` and ``precision_<class>``, NaN
        where undefined.

    Raises:
        ConfigError: when a name is no text or stands twice.
    """
    return MeanOverClasses("precision", "precision", checked("precision", leave_out))
