"""U-Net (Ronneberger et al. 2015) with batch norm, as the Frankfurt report built it."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from pipeline.models._common import check_common, check_image, initialise

SMALL = {"width": 4}


def build(
    *,
    in_channels: int,
    classes: int,
    width: int = 64,
    depth: int = 5,
    dropout: float = 0.0,
    bn_momentum: float = 0.01,
    bn_eps: float = 1e-3,
) -> nn.Module:
    """U-Net: 31,045,636 trainable parameters with the defaults, 3 bands and 4 classes.

    Each level holds a block of two 3×3 conv-BN-ReLU. Down: 2×2 max pool, twice the channels. Up: 2×2 transposed
    conv-BN-ReLU with half the channels, then the skip, first in the concatenation. Every convolution has a bias.
    Convolutions start He-normal (std √(2 / fan in)), biases at zero, the last 1×1 convolution Glorot-normal.

    Args:
        in_channels: bands of the image.
        classes: logits per pixel.
        width: channels of the first level; level i has width · 2^i.
        depth: levels, 1 or more; height and width of the image must be multiples of 2^(depth − 1) px.
        dropout: share of values dropped at the end of every block, encoder and decoder; 0 to below 1.
        bn_momentum: share of the newest batch in the running statistics (1 − the momentum of Keras).
        bn_eps: ε of the batch norm.

    Raises:
        ConfigError: when a parameter is out of range.
        RunError: (when called) for an image whose size or bands do not fit.
    """
    check_common("unet", width=width, depth=depth, dropout=dropout, bn_momentum=bn_momentum, bn_eps=bn_eps)
    return UNet(in_channels, classes, width, depth, dropout, bn_momentum, bn_eps)


class UNet(nn.Module):
    """The module behind `build`: images [N, in_channels, H, W] to logits [N, classes, H, W]."""

    def __init__(
        self, in_channels: int, classes: int, width: int, depth: int, dropout: float, bn_momentum: float, bn_eps: float
    ) -> None:
        super().__init__()

        def norm_relu(channels: int) -> list[nn.Module]:
            return [nn.BatchNorm2d(channels, eps=bn_eps, momentum=bn_momentum), nn.ReLU(inplace=True)]

        def block(before: int, after: int) -> nn.Sequential:
            first = [nn.Conv2d(before, after, 3, padding=1), *norm_relu(after)]
            second = [nn.Conv2d(after, after, 3, padding=1), *norm_relu(after)]
            return nn.Sequential(*first, *second, *([nn.Dropout(dropout)] if dropout else []))

        channels = [width * 2**level for level in range(depth)]
        pairs = list(itertools.pairwise(channels))
        self.in_channels = in_channels
        self.stride_px = 2 ** (depth - 1)
        self.pool = nn.MaxPool2d(2)
        self.encoder = nn.ModuleList(block(a, b) for a, b in zip([in_channels, *channels], channels, strict=False))
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(b, a, 2, stride=2), *norm_relu(a)) for a, b in reversed(pairs)
        )
        self.decoder = nn.ModuleList(block(2 * a, a) for a, _ in reversed(pairs))
        self.head = nn.Conv2d(width, classes, 1)
        initialise(self, self.head)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits [N, classes, H, W] of images [N, in_channels, H, W]."""
        check_image("unet", image, self.in_channels, self.stride_px, "take a smaller depth")
        skips: list[torch.Tensor] = []
        x = self.encoder[0](image)
        for level in self.encoder[1:]:
            skips.append(x)
            x = level(self.pool(x))
        for up, level in zip(self.up, self.decoder, strict=True):
            x = level(torch.cat([skips.pop(), up(x)], dim=1))
        logits: torch.Tensor = self.head(x)
        return logits
