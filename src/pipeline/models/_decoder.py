"""The U shape: an encoder of levels, a decoder of levels that take skips; and the Frankfurt report's decoder level."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from pipeline.models._blocks import Norm, check_batch, double_conv, upsample
from pipeline.models._common import check_image


def dropout_if(share: float) -> list[nn.Module]:
    """One dropout layer, or nothing where nothing is dropped."""
    return [nn.Dropout(share)] if share else []


class DecoderLevel(nn.Module):
    """2×2 transposed conv-BN-ReLU, the skip put before it, two 3×3 conv-BN-ReLU, dropout."""

    def __init__(self, below: int, skip: int, dropout: float, norm: Norm) -> None:
        super().__init__()
        self.up = upsample("transposed", below, skip, norm)
        self.block = double_conv(2 * skip, skip, norm, dropout=dropout)

    def forward(self, below: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Return [N, skip, H, W] of the level below [N, below, H/2, W/2] and the skip [N, skip, H, W]."""
        joined: torch.Tensor = self.block(torch.cat([skip, self.up(below)], dim=1))
        return joined


class UShaped(nn.Module):
    """An encoder whose every level but the first halves the size, a decoder level for each but the last, a 1×1 head.

    Images [N, in_channels, H, W] become logits [N, classes, H, W].

    Args:
        model: the network's name in configs.
        in_channels: bands of the image.
        encoder: modules from one level to the next, the finest first.
        decoder: modules of (level below, skip), the coarsest first.
        head: the last convolution.
        way_out: what else to change where an image's size does not fit, such as ``take a smaller depth``.
    """

    def __init__(
        self,
        model: str,
        in_channels: int,
        encoder: Iterable[nn.Module],
        decoder: Iterable[nn.Module],
        head: nn.Conv2d,
        way_out: str = "",
    ) -> None:
        super().__init__()
        self.model = model
        self.in_channels = in_channels
        self.way_out = way_out
        self.encoder = nn.ModuleList(encoder)
        self.decoder = nn.ModuleList(decoder)
        self.head = head

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits [N, classes, H, W] of images [N, in_channels, H, W]."""
        stride_px = 2 ** (len(self.encoder) - 1)
        check_image(self.model, image, self.in_channels, stride_px, self.way_out)
        check_batch(self.model, image, stride_px, self.training)
        levels: list[torch.Tensor] = []
        x = image
        for level in self.encoder:
            x = level(x)
            levels.append(x)
        levels.pop()
        for level in self.decoder:
            x = level(x, levels.pop())
        logits: torch.Tensor = self.head(x)
        return logits
