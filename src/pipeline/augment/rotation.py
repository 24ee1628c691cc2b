"""Rotation of chips about a random place of theirs, with a random zoom; what is missing is mirrored."""

from __future__ import annotations

from typing import Literal

from pipeline.augment._geometry import Centre, centres, picked, turned, uniform, warp
from pipeline.augment._transform import Batch, Transform


def build(
    *,
    max_degrees: float = 85.0,
    zoom_min: float = 0.25,
    zoom_max: float = 1.25,
    centre: Literal["random", "middle"] = "random",
    probability: float = 1.0,
) -> Transform:
    """Turn and zoom chips as ResUNet-a does: angle uniform in ±`max_degrees`, zoom uniform in its bounds.

    The place c that stays where it is lies anywhere on the chip, and a pixel at p shows c + R(−θ) (p − c) / z. Parts
    that were outside of the chip are its mirror image about the centres of its outermost pixels. The image is
    interpolated bilinearly, without a filter against aliasing at low zooms (nor has the paper's code one); mask and
    extra targets take the nearest pixel. Distance maps and colours are moved as they are, as in the paper's code;
    signed distances, which count pixels, are multiplied by the zoom before the loss clamps them.

    Args:
        max_degrees: largest angle, 0 to 180; the medical thesis turns by up to 180.
        zoom_min: smallest zoom, above 0: at 0.25 things have a quarter of their size, and most is mirror image.
        zoom_max: largest zoom: above 1 things become larger and less is seen.
        centre: ``random`` or the chip's ``middle``.
        probability: of a chip to be turned and zoomed, 0 to 1.
    """
    return Rotation(max_degrees, (zoom_min, zoom_max), centre, probability)


class Rotation(Transform):
    """The transform behind `build`."""

    def __init__(self, max_degrees: float, zoom: tuple[float, float], centre: Centre, probability: float) -> None:
        self.max_degrees = max_degrees
        self.zoom = zoom
        self.centre = centre
        self.probability = probability

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with chips turned and zoomed, each by its own angle, zoom and place."""
        chips, height, width = batch["mask"].shape
        pick = picked(chips, self.probability)
        degrees = uniform(chips, -self.max_degrees, self.max_degrees)
        zoom = uniform(chips, *self.zoom)
        return warp(batch, turned(centres(chips, height, width, self.centre), degrees, zoom), pick)
