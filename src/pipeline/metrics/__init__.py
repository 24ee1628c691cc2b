"""Scores from predictions: one file per metric, made by name with `create`, and what feeds them.

What a metric is given its file says in NEEDS:

- ``counts``: confusion counts [C, C] int64, rows truth, of a whole split (`pipeline.metrics.confusion`);
- ``histograms``: [C, 2, B] int64, pixels of other classes and of the class by the class's probability
  (`pipeline.metrics.histograms`);
- ``chip``: the class maps of one chip (`pipeline.metrics.chips` averages over chips).

Intervals and tests between runs are in `pipeline.metrics.statistics`, the Frankfurt report's batch-mean Jaccard
coefficient in `pipeline.metrics.jaccard_coefficient`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline import variants
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

NEEDS = ("counts", "histograms", "chip")


def create(name: str, **params: Any) -> Callable[..., dict[str, float]]:
    """Make metric `name`.

    Args:
        name: a file of src/pipeline/metrics/ with a `build`.
        params: the metric's parameters; the rest take their defaults.

    Returns:
        A callable without state that gives named scores: its own first, then ``<score>_<class>`` of each class; NaN
        where a score is undefined. With NEEDS = ``counts`` or ``histograms`` it takes that array and the names of the
        classes, with ``chip`` truth [H, W] uint8 (255 ignored), prediction [H, W] uint8, names of classes, and the
        metres per pixel or None.

    Raises:
        ConfigError: for an unknown metric or parameter, or a wrong value.
    """
    resolved = variants.check("metrics", name, params, "metrics.create")
    metric: Callable[..., dict[str, float]] = variants.load("metrics", name).build(**resolved)
    return metric


def needs(name: str) -> str:
    """What metric `name` is given, its file's NEEDS, read without importing it; ConfigError when it is none of ours."""
    declared = variants.declared("metrics", name, "NEEDS")
    if declared not in NEEDS:
        path = f"src/pipeline/metrics/{name}.py"
        raise ConfigError(f"{path}: NEEDS must be one of {', '.join(NEEDS)}, got {declared!r}")
    return str(declared)


def from_confusion(counts: np.ndarray[Any, Any]) -> dict[str, float]:
    """Named scores of confusion counts [C, C], rows truth; see `pipeline.metrics.confusion.from_confusion`."""
    from pipeline.metrics import confusion

    return confusion.from_confusion(counts)
