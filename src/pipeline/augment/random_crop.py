"""A window of larger chips, at a random place of each."""

from __future__ import annotations

import torch

from pipeline.augment._transform import Batch, Transform
from pipeline.errors import ConfigError

SMALL = {"px": 9}


def build(*, px: int = 256) -> Transform:
    """Take `px` × `px` windows, each anywhere in its chip (the medical thesis's random pick: 256 px of 512).

    Training alone is cropped: validation and test see whole chips, so the network must take both sizes. Extra targets
    are cut as they are: distances still tell of boundaries that lie outside of the window.

    Args:
        px: the window's side, at most that of the chips.
    """
    return RandomCrop(px)


class RandomCrop(Transform):
    """The transform behind `build`."""

    def __init__(self, px: int) -> None:
        self.px = px

    def __call__(self, batch: Batch) -> Batch:
        """Return windows [N, ..., px, px] of all tensors, the same of image, mask and extra targets."""
        chips, height, width = batch["mask"].shape
        if self.px > min(height, width):
            raise ConfigError(
                f"augmentation random_crop: px {self.px} is more than the chips' {min(height, width)} px; "
                "take a smaller px, or cut larger chips (chips: {px: …} of the region)"
            )
        rows, columns = (torch.randint(0, size - self.px + 1, (chips,)).tolist() for size in (height, width))
        return {name: self._windows(tensor, rows, columns) for name, tensor in batch.items()}

    def _windows(self, tensor: torch.Tensor, rows: list[int], columns: list[int]) -> torch.Tensor:
        chips = zip(tensor, rows, columns, strict=True)
        return torch.stack([chip[..., row : row + self.px, column : column + self.px] for chip, row, column in chips])
