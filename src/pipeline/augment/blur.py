"""Gaussian blur."""

from __future__ import annotations

import kornia.filters

from pipeline.augment._pixels import chosen, draw
from pipeline.augment._transform import Batch, Transform

REACH = 4  # the kernel ends this many of the largest deviations from its centre


def build(*, sigma_min_px: float = 0.1, sigma_max_px: float = 2.0, probability: float = 0.5) -> Transform:
    """Blur the images of some chips with a Gaussian of standard deviation σ, mirrored about the chip's outer pixels.

    Masks and extra targets stay: ``colour`` is that of the sharp image.

    Args:
        sigma_min_px: smallest σ that a chip draws, in pixels; 0 is no blur.
        sigma_max_px: largest σ.
        probability: of a chip to be changed.
    """
    return Blur(sigma_min_px, sigma_max_px, probability)


class Blur(Transform):
    """The transform behind `build`."""

    def __init__(self, least: float, most: float, probability: float) -> None:
        self.least, self.most = least, most
        self.probability = probability

    def __call__(self, batch: Batch) -> Batch:
        """Blur some images of `batch`; the kernel reaches 4 of the largest deviations, or as far as the chip does."""
        image = batch["image"]
        at = chosen(len(image), self.probability)
        if not len(at):
            return dict(batch)
        height, width = (2 * min(int(REACH * self.most + 0.5), side - 1) + 1 for side in image.shape[-2:])
        sigma = draw(len(at), self.least, self.most, image.device).reshape(-1, 1)
        rows, columns = (kornia.filters.get_gaussian_kernel1d(side, sigma) for side in (width, height))
        at = at.to(image.device, non_blocking=True)
        part = kornia.filters.filter2d_separable(image[at], rows, columns, border_type="reflect")
        return batch | {"image": image.index_copy(0, at, part)}
