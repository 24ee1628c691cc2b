"""Gaussian noise, and salt and pepper."""

from __future__ import annotations

import torch

from pipeline.augment._pixels import check_values, chosen, draw
from pipeline.augment._transform import Batch, Source, Transform


def build(
    *, std_min: float = 0.0, std_max: float = 0.05, salt_and_pepper: float = 0.0, probability: float = 0.5
) -> Transform:
    """Add noise to the images of some chips.

    x + σ · top · n, with n standard normal, drawn apart for every pixel and band; then a share of the pixels become 0
    or `top` in all bands. `top` is the largest value of the images' dtype (1 for floating point), and values are cut to
    0 to `top`. Imagery that fills a part of its dtype, such as 12 bits in 16, needs shares as much smaller. Masks and
    extra targets stay: ``colour`` is that of the clean image.

    Args:
        std_min: smallest σ that a chip draws, as a share of `top`.
        std_max: largest σ.
        salt_and_pepper: share of the pixels, one half of them 0, the other `top`.
        probability: of a chip to be changed.
    """
    return Noise(std_min, std_max, salt_and_pepper, probability)


class Noise(Transform):
    """The transform behind `build`."""

    def __init__(self, least: float, most: float, salt_and_pepper: float, probability: float) -> None:
        self.least, self.most = least, most
        self.salt_and_pepper = salt_and_pepper
        self.probability = probability
        self.top = 255.0

    def begin(self, source: Source) -> None:
        """Take the images' units; ConfigError for values outside 0 to their largest."""
        check_values("noise", source)
        self.top = source.top

    def __call__(self, batch: Batch) -> Batch:
        """Add noise to some images of `batch`."""
        image = batch["image"]
        at = chosen(len(image), self.probability).to(image.device, non_blocking=True)
        part = image[at]
        if self.most:
            part = part + draw(len(part), self.least, self.most, part.device) * self.top * torch.randn_like(part)
        if self.salt_and_pepper:
            where = torch.rand_like(part[:, :1])
            part = part.masked_fill(where < self.salt_and_pepper / 2, 0.0)
            part = part.masked_fill(where >= 1 - self.salt_and_pepper / 2, self.top)
        return batch | {"image": image.index_copy(0, at, part.clamp(0, self.top))}
