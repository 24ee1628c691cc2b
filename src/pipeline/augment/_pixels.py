"""What augmentations of pixel values share: which chips, how much, and in which units."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.augment._transform import Source
from pipeline.errors import ConfigError

UNSIGNED = {float(np.iinfo(dtype).max) for dtype in (np.uint8, np.uint16, np.uint32)}
LOOK = 64  # chips whose values are looked at
AT_ONCE = 8


def chosen(chips: int, probability: float) -> torch.Tensor:
    """Indices of the chips of a batch that are changed, each with the same probability, [n] int64 on the CPU."""
    return torch.nonzero(torch.rand(chips) < probability).squeeze(1)


def draw(count: int, low: float, high: float, device: torch.device) -> torch.Tensor:
    """`count` numbers between `low` and `high`, [count, 1, 1, 1] float32: drawn on the CPU, moved to the device."""
    return (low + (high - low) * torch.rand(count)).reshape(-1, 1, 1, 1).to(device, non_blocking=True)


def check_values(augmentation: str, source: Source) -> None:
    """ConfigError when pixel values lie outside 0 to ``source.top``, which is where the augmentation keeps them.

    Unsigned integers cannot. Of other images 64 chips are looked at, spread over the training chips.
    """
    if source.top in UNSIGNED:
        return
    at = np.unique(np.linspace(0, len(source.counts) - 1, LOOK).astype(np.int64))
    for start in range(0, len(at), AT_ONCE):
        image = source.take(at[start : start + AT_ONCE])["image"]
        least, most = float(image.min()), float(image.max())
        if not (least >= 0 and most <= source.top):
            raise ConfigError(
                f"train.augment: {augmentation} needs pixel values of 0 to {source.top:g}, and training chips have "
                f"{least:g} to {most:g}; leave it out, or take imagery of unsigned integers or scaled to 0 to 1"
            )
