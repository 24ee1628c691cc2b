"""What an augmentation is: a function of a batch on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, np.dtype[Any]]
Batch = dict[str, torch.Tensor]
"""``image`` [N, bands, H, W] float32 in the source's units (0 to 255 for 8 bits), ``mask`` [N, H, W] int64 (255:
ignored), and the extra targets of the loss by kind, [N, K, H, W] float32; all on one device."""


@dataclass(frozen=True)
class Source:
    """The training chips, for augmentations that need more than the batch.

    Attributes:
        counts: pixels per class of each chip's label, [N, C] int64.
        classes: names of the C classes.
        top: the largest value of the images' integer dtype, such as 255; 1.0 for floating point.
        take: positions within the training split [n] → their `Batch`, without any augmentation.
    """

    counts: Array
    classes: list[str]
    top: float
    take: Callable[[Array], Batch]


class Transform:
    """An augmentation of training batches.

    Randomness comes from torch's global generator on the CPU, which is seeded by (seed, epoch, step): draw parameters
    there and move them to the batch's device, so that a GPU makes the pictures that a CPU makes. Noise per pixel may be
    drawn on the device. What moves pixels moves all tensors of the batch by the same map: the image may be
    interpolated, masks and extra targets take the nearest pixel.
    """

    def begin(self, source: Source) -> None:
        """Take what is known of the training chips, once, before the first batch; ConfigError where it does not fit."""

    def __call__(self, batch: Batch) -> Batch:
        """Return the augmented batch; the given one is left as it is."""
        raise NotImplementedError
