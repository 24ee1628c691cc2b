"""Reflections of chips, and quarter turns: pixels move, none is interpolated."""

from __future__ import annotations

import torch

from pipeline.augment._geometry import picked
from pipeline.augment._transform import Batch, Transform
from pipeline.errors import RunError


def build(*, quarter_turns: bool = False, probability: float = 0.75) -> Transform:
    """Reflect chips in x, in y or in both (ResUNet-a), each as likely as the others.

    Args:
        quarter_turns: all seven symmetries of the square besides itself instead of the three reflections: reflections
            about the diagonals and turns by 90° and 270°, too.
        probability: of a chip to be changed, 0 to 1. At 0.75 the chip and its three reflections are equally likely;
            with quarter turns all eight are at 0.875.
    """
    return Flips(8 if quarter_turns else 4, probability)


class Flips(Transform):
    """The transform behind `build`."""

    def __init__(self, symmetries: int, probability: float) -> None:
        self.symmetries = symmetries
        self.probability = probability

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with chips moved by bit 0 (in x), bit 1 (in y) and bit 2 (transposed) of a number each."""
        height, width = batch["mask"].shape[-2:]
        if self.symmetries > 4 and height != width:
            raise RunError(f"augmentation flips: quarter_turns need square chips, got {height} x {width} px")
        chips, device = len(batch["mask"]), batch["mask"].device
        which = torch.randint(1, self.symmetries, (chips,)) * picked(chips, self.probability)
        found = {name: tensor.clone() for name, tensor in batch.items()}
        for symmetry in range(1, self.symmetries):
            rows = torch.nonzero(which == symmetry)[:, 0]
            if len(rows):
                at = rows.to(device, non_blocking=True)
                for name, tensor in batch.items():
                    found[name].index_copy_(0, at, _moved(tensor.index_select(0, at), symmetry))
        return found


def _moved(tensor: torch.Tensor, symmetry: int) -> torch.Tensor:
    """A tensor [..., H, W] transposed (4), then mirrored in x (1) and y (2), by the bits of `symmetry`."""
    if symmetry & 4:
        tensor = tensor.transpose(-2, -1)
    return tensor.flip([axis for bit, axis in ((1, -1), (2, -2)) if symmetry & bit])
