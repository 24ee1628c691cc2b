"""Hausdorff distances of the medical thesis: how far the predicted and the true shape lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.metrics import _hausdorff
from pipeline.metrics._counts import by_class, mean_defined
from pipeline.metrics._shapes import Array, boundary, class_masks, distances, percentile_distances

NEEDS = "chip"
BEST = 0.0
NEAREST_SHARE = 0.05  # of the modified form: the 95th percentile in decreasing order


def build(
    *,
    forms: list[str] = [  # noqa: B006 (a literal, as every parameter's default; never altered)
        "hausdorff",
        "hausdorff_95",
        "average_hausdorff",
        "balanced_average_hausdorff",
    ],
    on: Literal["boundary", "mask"] = "boundary",
    neighbours: Literal[4, 8] = 8,
) -> Hausdorff:
    """Distances between the predicted set X and the true set Y of a class's pixels; 0 is best.

    With d(x, Y) = min_y |x − y|, Euclidean:

    - ``hausdorff``: max(max_x d(x, Y), max_y d(y, X));
    - ``hausdorff_95``: the same of the 95th percentiles of both directions, linear between pixels;
    - ``average_hausdorff``: ½ (Σ_x d(x, Y) / |X| + Σ_y d(y, X) / |Y|);
    - ``balanced_average_hausdorff``: ½ (Σ_x d(x, Y) + Σ_y d(y, X)) / |Y|, both over the true set (Aydin et al. 2021);
    - ``modified_average_hausdorff``: ``average_hausdorff`` with the 5th percentile of |x − y| over all of Y in place of
      the minimum (the thesis's MAHD). It takes |X| |Y| steps and is not 0 for equal sets; not among the defaults.

    A class is undefined on a chip where X or Y is empty.

    Args:
        forms: which of them.
        on: X and Y are the ``boundary`` pixels of the masks, or all of the ``mask`` as in the thesis's equations. The
            image's edge and ignored pixels make no boundary: a class that fills the chip has none.
        neighbours: pixels touch along edges (4) or at corners too (8), which decides what is boundary.

    Returns:
        A callable from truth [H, W], prediction [H, W], names of classes and metres per pixel to ``<form>_px``, the
        mean over classes, and ``<form>_px_<class>``; with metres per pixel also ``<form>_m`` and ``<form>_m_<class>``.

    Raises:
        ConfigError: for an unknown form, or one that stands twice.
    """
    _hausdorff.check(forms=forms, on=on, neighbours=neighbours)
    return Hausdorff(tuple(forms), on == "mask", neighbours)


@dataclass(frozen=True)
class Hausdorff:
    """The callable behind `build`."""

    forms: tuple[str, ...]
    whole: bool
    neighbours: int

    def __call__(
        self, truth: Array, predicted: Array, classes: Sequence[str], gsd_m: float | None = None
    ) -> dict[str, float]:
        """Distances on one chip: truth [H, W] uint8 with 255 ignored, prediction [H, W] uint8, C names, m per px."""
        table = np.full((len(self.forms), len(classes)), np.nan)
        for index, (true, guessed, known) in enumerate(class_masks(truth, predicted, len(classes))):
            if true.any() and guessed.any():
                sets = [np.argwhere(m) if self.whole else boundary(m, known, self.neighbours) for m in (guessed, true)]
                table[:, index] = self._of_class(*sets)
        units = {"px": 1.0} if gsd_m is None else {"px": 1.0, "m": float(gsd_m)}
        means: dict[str, float] = {}
        each: dict[str, float] = {}
        for form, values in zip(self.forms, table, strict=True):
            for unit, size in units.items():
                means[f"{form}_{unit}"] = float(mean_defined(values)) * size
                each |= by_class(f"{form}_{unit}", values * size, classes)
        return means | each

    def _of_class(self, guessed: Array, true: Array) -> list[float]:
        """Each form's distance in pixels between sets [n, 2] and [m, 2]; NaN where one is empty."""
        if not len(guessed) or not len(true):
            return [float("nan")] * len(self.forms)
        there, back = distances(guessed, true), distances(true, guessed)
        found = {
            "hausdorff": max(there.max(), back.max()),
            "hausdorff_95": max(np.percentile(there, 95), np.percentile(back, 95)),
            "average_hausdorff": (there.mean() + back.mean()) / 2,
            "balanced_average_hausdorff": (there.sum() + back.sum()) / (2 * len(true)),
        }
        if "modified_average_hausdorff" in self.forms:
            near = (percentile_distances(*pair, NEAREST_SHARE).mean() for pair in ((guessed, true), (true, guessed)))
            found["modified_average_hausdorff"] = sum(near) / 2
        return [float(found[form]) for form in self.forms]
