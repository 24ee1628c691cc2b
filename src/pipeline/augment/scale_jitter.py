"""Chips enlarged or reduced at unchanged size: cropped where they grow, mirrored where they shrink."""

from __future__ import annotations

from typing import Literal

import torch

from pipeline.augment._geometry import Centre, centres, picked, turned, uniform, warp
from pipeline.augment._transform import Batch, Transform


def build(
    *,
    scale_min: float = 0.5,
    scale_max: float = 2.0,
    centre: Literal["random", "middle"] = "random",
    probability: float = 1.0,
) -> Transform:
    """Scale each chip by a number uniform in its bounds; the size in px stays.

    At a scale s above 1 a window of 1 / s of the chip's side fills the chip; below 1 the chip shrinks to s of its side,
    and its mirror image fills the rest. Interpolation and extra targets are those of `rotation`. The bounds are those
    usual for semantic segmentation (DeepLab v3 and its successors).

    Args:
        scale_min: smallest scale, above 0.
        scale_max: largest scale.
        centre: ``random``: the window, or the shrunken chip, lies anywhere; or in the ``middle``.
        probability: of a chip to be scaled, 0 to 1.
    """
    return ScaleJitter((scale_min, scale_max), centre, probability)


class ScaleJitter(Transform):
    """The transform behind `build`."""

    def __init__(self, scale: tuple[float, float], centre: Centre, probability: float) -> None:
        self.scale = scale
        self.centre = centre
        self.probability = probability

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with chips scaled, each by its own number and about its own place."""
        chips, height, width = batch["mask"].shape
        pick, scale = picked(chips, self.probability), uniform(chips, *self.scale)
        centre = centres(chips, height, width, self.centre)
        return warp(batch, turned(centre, torch.zeros_like(scale), scale), pick)
