"""The extra targets of multi-task learning (ResUNet-a): boundaries, distances and colours of one chip.

Each is a function of the mask or the image alone and keeps its alignment: deriving commutes with flips and turns. What
lies between 0 and 1 is float16, for the size on disk: its steps there are below 0.0005.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipeline.errors import RunError
from pipeline.losses._distance import squared_distance
from pipeline.losses.target import IGNORE

Array = np.ndarray[Any, np.dtype[Any]]


def boundary(mask: Array, classes: int) -> Array:
    """Boundary of each class: its outline, dilated by a 3 × 3 cross.

    The outline is what Canny's detector leaves of a binary image, a line one pixel wide along each step. Canny puts it
    on one side of the step or the other as the direction of the scan has it; here it is always on the class's own
    side: its pixels with a pixel of another class left, right, above or below. The chip's edge is no boundary, nor is
    the rim of an ignored area. After the dilation the boundary is three pixels wide.

    Args:
        mask: [H, W] uint8, class of each pixel, 255 where it is ignored.
        classes: C, logits per pixel.

    Returns:
        [C, H, W] uint8, 0 or 1; one logit's only channel is of class 1.
    """
    own, other = _sides(mask, classes)
    beside = np.zeros_like(own)
    outline = own & _spread(other, beside)
    return (outline | _spread(outline, beside)).view(np.uint8)


def distance(mask: Array, classes: int) -> Array:
    """Distance of each class's pixels to the nearest pixel of another class, over its largest in the chip.

    Pixels of other classes and ignored ones have 0. A class that has the chip to itself is as far from its boundary as
    can be everywhere: 1.

    Args:
        mask: [H, W] uint8, class of each pixel, 255 where it is ignored.
        classes: C, logits per pixel.

    Returns:
        [C, H, W] float16 in 0 to 1; one logit's only channel is of class 1.
    """
    own, other = _sides(mask, classes)
    away = squared_distance(torch.from_numpy(other)).sqrt_().numpy()
    away = np.where(own, np.where(np.isinf(away), 1.0, away), 0.0)
    largest = away.max(axis=(1, 2), keepdims=True)
    scaled: Array = away / np.where(largest > 0, largest, 1.0)
    return scaled.astype(np.float16)


def colour(images: Array) -> Array:
    """Hue, saturation and value of the first three bands, taken as red, green and blue, each within 0 to 1.

    With V = max(R, G, B) and Δ = V − min(R, G, B): S = Δ / V, and H is a sixth of (G − B) / Δ (modulo 6), 2 +
    (B − R) / Δ or 4 + (R − G) / Δ, as V is R, G or B (the first that it equals); H = 0 for greys and S = 0 for black.

    Args:
        images: [..., bands, H, W]; whole numbers are divided by their dtype's largest, others clipped to 0 to 1.

    Returns:
        [..., 3, H, W] float16.

    Raises:
        RunError: with fewer than three bands.
    """
    bands = images.shape[-3]
    if bands < 3:
        raise RunError(f"the extra target 'colour' needs red, green and blue: the images have {bands} of three bands")
    rgb = images[..., :3, :, :]
    if rgb.dtype.kind in "ui":
        rgb = rgb.astype(np.float32) / np.float32(np.iinfo(rgb.dtype).max)
    rgb = np.clip(np.nan_to_num(rgb.astype(np.float32)), 0.0, 1.0)
    red, green, blue = np.moveaxis(rgb, -3, 0)
    value = rgb.max(axis=-3)
    delta = value - rgb.min(axis=-3)
    step = np.where(delta > 0, delta, 1.0)
    hue = np.where(value == green, 2.0 + (blue - red) / step, 4.0 + (red - green) / step)
    hue = np.where(value == red, ((green - blue) / step) % 6.0, hue) / 6.0
    saturation = delta / np.where(value > 0, value, 1.0)
    return np.stack([np.where(delta > 0, hue, 0.0), saturation, value], axis=-3).astype(np.float16)


def _sides(mask: Array, classes: int) -> tuple[Array, Array]:
    """Per class [C, H, W] bool: its own pixels, and those of other classes; ignored ones are neither."""
    index = np.arange(classes) if classes > 1 else np.array([1])
    own = mask == index[:, None, None]
    return own, ~own & (mask != IGNORE)


def _spread(there: Array, found: Array) -> Array:
    """Which pixels have one of `there` left, right, above or below them; written into `found` [C, H, W] bool."""
    found[:] = False
    found[:, 1:] |= there[:, :-1]
    found[:, :-1] |= there[:, 1:]
    found[:, :, 1:] |= there[:, :, :-1]
    found[:, :, :-1] |= there[:, :, 1:]
    return found
