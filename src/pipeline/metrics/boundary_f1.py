"""Boundary F1 (BF1) of the boundary-loss paper: boundaries that lie within θ pixels of each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.metrics import _boundary_f1
from pipeline.metrics._counts import by_class, mean_defined
from pipeline.metrics._shapes import Array, boundary, class_masks, distances

NEEDS = "chip"


def build(
    *,
    theta: list[float] = [3.0, 5.0],  # noqa: B006 (a literal, as every parameter's default; never altered)
    neighbours: Literal[4, 8] = 8,
    empty: Literal["nan", "zero"] = "nan",
) -> BoundaryF1:
    """BF1 = 2 P R / (P + R) of each class on each chip, and its mean over classes.

    P is the share of the predicted boundary's pixels whose Euclidean distance to the true boundary is below θ pixels,
    R the share of the true boundary's that lie as near to the predicted one; BF1 is 0 where both are 0. A class's
    boundary are its pixels that touch another class. The image's edge and ignored pixels make no boundary: a class
    that fills the chip has none. (The loss's windows reach (θ − 1) / 2 px in the maximum norm: its θ is another one.)

    Args:
        theta: distances θ in pixels; 3 and 5 are the paper's.
        neighbours: pixels touch along edges (4) or at corners too (8, as in the paper's pooling by 3 × 3).
        empty: where one of the two boundaries is empty, precision or recall has no pixel: ``nan`` leaves the class out
            of the chip's mean, ``zero`` counts its BF1 as 0, so that a class missed altogether costs. Where both are
            empty BF1 is undefined always.

    Returns:
        A callable from truth [H, W], prediction [H, W], names of classes and metres per pixel (not used) to
        ``boundary_f1_<θ>``, ``boundary_precision_<θ>``, ``boundary_recall_<θ>`` and each ``…_<class>``.

    Raises:
        ConfigError: when a θ is not above 0 or stands twice.
    """
    _boundary_f1.check(theta=theta, neighbours=neighbours, empty=empty)
    return BoundaryF1(tuple(theta), neighbours, empty == "zero")


@dataclass(frozen=True)
class BoundaryF1:
    """The callable behind `build`."""

    theta: tuple[float, ...]
    neighbours: int
    empty_is_zero: bool

    def __call__(
        self, truth: Array, predicted: Array, classes: Sequence[str], gsd_m: float | None = None
    ) -> dict[str, float]:
        """Scores of one chip: truth [H, W] uint8 with 255 ignored, prediction [H, W] uint8, C names."""
        table = np.full((len(classes), len(self.theta), 3), np.nan)
        for index, (true, guessed, known) in enumerate(class_masks(truth, predicted, len(classes))):
            edges = boundary(guessed, known, self.neighbours), boundary(true, known, self.neighbours)
            table[index] = self._of_class(*edges)
        means: dict[str, float] = {}
        each: dict[str, float] = {}
        for at, theta in enumerate(self.theta):
            for part, name in enumerate(("f1", "precision", "recall")):
                key, values = f"boundary_{name}_{theta:g}", table[:, at, part]
                means[key] = float(mean_defined(values))
                each |= by_class(key, values, classes)
        return means | each

    def _of_class(self, guessed: Array, true: Array) -> Array:
        """BF1, precision and recall at each θ, [θ, 3], of boundaries [n, 2]."""
        reach = max(self.theta)
        shares = []
        for points, others in ((guessed, true), (true, guessed)):
            apart = distances(points, others, within=reach)
            shares.append([(apart < theta).mean() if len(apart) else np.nan for theta in self.theta])
        precision, recall = np.array(shares)
        total = precision + recall
        score = np.where(total == 0, 0.0, 2 * precision * recall / np.where(total == 0, 1.0, total))
        if self.empty_is_zero and (len(guessed) > 0) != (len(true) > 0):
            score = np.zeros_like(score)
        return np.stack([score, precision, recall], axis=-1)
