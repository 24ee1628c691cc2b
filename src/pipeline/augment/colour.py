"""Brightness, contrast, saturation and hue of each chip jittered."""

from __future__ import annotations

import math
from collections.abc import Sequence

import kornia.color
import kornia.enhance
import numpy as np
import torch

from pipeline.augment._pixels import check_values, chosen, draw
from pipeline.augment._transform import Batch, Source, Transform
from pipeline.errors import ConfigError

COLOURS = 3


def build(
    *,
    brightness: float = 0.2,
    contrast: float = 0.2,
    saturation: float = 0.2,
    hue_degrees: float = 10.0,
    probability: float = 1.0,
    bands: Sequence[int] | None = None,
    rgb: Sequence[int] = (1, 2, 3),
) -> Transform:
    """Change the colours of each chip by factors of its own; one after the other, in the order of the parameters.

    With f drawn from 1 ± the parameter: brightness gives f · x; contrast f · x + (1 − f) · m, where m is the mean of
    the chip's grey for red, green and blue, and its own mean for every other band; saturation f · x + (1 − f) · grey,
    grey = 0.299 R + 0.587 G + 0.114 B. Hue is turned by an angle. After each, values are cut to 0 to the largest of
    the images' dtype (1 for floating point). 0 leaves a property alone, and images of fewer than three bands have
    neither saturation nor hue.

    Masks and extra targets stay, but for ``colour`` (HSV of the first three bands), which is derived again from the new
    image.

    Args:
        brightness: 0 to 1.
        contrast: 0 to 1.
        saturation: 0 to 1.
        hue_degrees: the largest turn of the hue either way, in degrees, 0 to 180.
        probability: of a chip to be changed.
        bands: whose brightness and contrast change, counted from 1; null: all.
        rgb: red, green and blue among the bands, counted from 1.
    """
    return Colour(brightness, contrast, saturation, hue_degrees, probability, bands, rgb)


class Colour(Transform):
    """The transform behind `build`."""

    def __init__(
        self,
        brightness: float,
        contrast: float,
        saturation: float,
        hue_degrees: float,
        probability: float,
        bands: Sequence[int] | None,
        rgb: Sequence[int],
    ) -> None:
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation
        self.hue = math.radians(hue_degrees)
        self.probability = probability
        self.bands = None if bands is None else [band - 1 for band in bands]
        self.rgb = [band - 1 for band in rgb]
        self.top = 255.0

    def begin(self, source: Source) -> None:
        """Take the images' units; ConfigError for bands that they lack and for values outside 0 to their largest."""
        check_values("colour", source)
        self.top = source.top
        there = source.take(np.arange(1))["image"].shape[1]
        asked = [*(self.bands or []), *(self.rgb if there >= COLOURS else [])]
        if max(asked, default=0) >= there:
            raise ConfigError(f"train.augment: colour: no band {max(asked) + 1}; the images have {there}")

    def __call__(self, batch: Batch) -> Batch:
        """Change the colours of some chips of `batch`."""
        found = dict(batch)
        at = chosen(len(batch["image"]), self.probability).to(batch["image"].device, non_blocking=True)
        if not len(at):
            return found
        part = self._recoloured(self._lit(batch["image"][at]))
        found["image"] = batch["image"].index_copy(0, at, part)
        if "colour" in batch:
            target = hsv(part[:, :COLOURS] / self.top).to(batch["colour"].dtype)
            found["colour"] = batch["colour"].index_copy(0, at, target)
        return found

    def _lit(self, image: torch.Tensor) -> torch.Tensor:
        """[n, bands, H, W] with other brightness and contrast."""
        new = image
        if self.brightness:
            new = self._blend(new, torch.zeros_like(new), self.brightness)
        if self.contrast:
            mean = new.mean(dim=(2, 3), keepdim=True)
            if image.shape[1] >= COLOURS:
                mean[:, self.rgb] = grey(mean[:, self.rgb]).expand(-1, COLOURS, -1, -1)
            new = self._blend(new, mean, self.contrast)
        if self.bands is None:
            return new
        return image.index_copy(1, self._at(self.bands, image), new[:, self.bands])

    def _recoloured(self, image: torch.Tensor) -> torch.Tensor:
        """[n, bands, H, W] with other saturation and hue."""
        if image.shape[1] < COLOURS or not (self.saturation or self.hue):
            return image
        new = image[:, self.rgb]
        if self.saturation:
            new = self._blend(new, grey(new), self.saturation)
        if self.hue:
            turn = draw(len(image), -self.hue, self.hue, image.device).flatten()
            new = (kornia.enhance.adjust_hue(new / self.top, turn) * self.top).clamp(0, self.top)
        return image.index_copy(1, self._at(self.rgb, image), new)

    def _blend(self, image: torch.Tensor, other: torch.Tensor, amount: float) -> torch.Tensor:
        factor = draw(len(image), 1 - amount, 1 + amount, image.device)
        return (factor * image + (1 - factor) * other).clamp(0, self.top)

    def _at(self, bands: list[int], image: torch.Tensor) -> torch.Tensor:
        return torch.tensor(bands).to(image.device, non_blocking=True)


def grey(rgb: torch.Tensor) -> torch.Tensor:
    """Luma of [N, 3, H, W], [N, 1, H, W]."""
    found: torch.Tensor = kornia.color.rgb_to_grayscale(rgb)
    return found


def hsv(rgb: torch.Tensor) -> torch.Tensor:
    """Hue (in turns), saturation and value of [N, 3, H, W] within 0 to 1, each within 0 to 1: the target ``colour``."""
    found: torch.Tensor = kornia.color.rgb_to_hsv(rgb.clamp(0, 1))
    found[:, 0] /= 2 * math.pi
    return found
