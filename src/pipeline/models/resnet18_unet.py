"""U-Net with a residual encoder after ResNet18 (He et al. 2015), as the Frankfurt report built it."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from pipeline.models._blocks import Norm, conv
from pipeline.models._common import check_common, initialise
from pipeline.models._decoder import DecoderLevel, UShaped, dropout_if

ENCODER = ("encoder",)
SMALL = {"width": 4}


def build(
    *,
    in_channels: int,
    classes: int,
    width: int = 64,
    dropout: float = 0.0,
    bn_momentum: float = 0.01,
    bn_eps: float = 1e-3,
) -> nn.Module:
    """Residual U-Net of five levels: 56,945,604 trainable parameters with the defaults, 3 bands and 4 classes.

    A 7×7 conv-BN-ReLU of stride 1, then two residual blocks y = F(x) + S(x) a level, F two 3×3 conv-BN-ReLU. S is x
    itself, but in the first block of levels 2 to 5, where F's first convolution has stride 2, a 1×1 conv-BN-ReLU of
    stride 2. Nothing follows the addition. The strided 3×3 convolution looks at pixels 2i to 2i + 2, since Keras pads
    an even size at its end alone. The decoder is `unet`'s: 2×2 transposed conv-BN-ReLU, the skip first in the
    concatenation, two 3×3 conv-BN-ReLU. Every convolution has a bias; weights start as `unet`'s do.

    The report's notebook leaves the stem's batch norm and ReLU unused (56,945,476 parameters); here they are used.

    Args:
        in_channels: bands of the image.
        classes: logits per pixel.
        width: channels of the first level; level i has width · 2^i.
        dropout: share of values dropped after the stem and at the end of every residual block and decoder level; 0 to
            below 1.
        bn_momentum: share of the newest batch in the running statistics (1 − the momentum of Keras).
        bn_eps: ε of the batch norm.

    Raises:
        ConfigError: when a parameter is out of range.
        RunError: (when called) for an image with other bands, or whose sides are no multiples of 16 px.
    """
    check_common("resnet18_unet", width=width, dropout=dropout, bn_momentum=bn_momentum, bn_eps=bn_eps)
    norm = Norm(bn_momentum, bn_eps)
    channels = [width * 2**level for level in range(5)]
    pairs = list(itertools.pairwise(channels))

    def level(before: int, after: int, stride: int) -> list[nn.Module]:
        blocks = [ResidualBlock(before, after, stride, norm), ResidualBlock(after, after, 1, norm)]
        return [module for block in blocks for module in (block, *dropout_if(dropout))]

    stem = [*conv(in_channels, width, norm, size=7), *dropout_if(dropout)]
    encoder = [nn.Sequential(*stem, *level(width, width, 1)), *(nn.Sequential(*level(a, b, 2)) for a, b in pairs)]
    decoder = [DecoderLevel(b, a, dropout, norm) for a, b in reversed(pairs)]
    network = UShaped("resnet18_unet", in_channels, encoder, decoder, nn.Conv2d(width, classes, 1))
    initialise(network, network.head)
    return network


class ResidualBlock(nn.Module):
    """Two 3×3 conv-BN-ReLU and the identity, or a 1×1 conv-BN-ReLU of stride 2, added to them.

    The stride picks pixels before the 1×1 convolution, which gives the same: on the CPU, the weight gradient of a 1×1
    convolution of stride 2 writes past its memory for few channels in channels-last (torch 2.14 with oneDNN).
    """

    def __init__(self, before: int, after: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        first: list[nn.Module] = [nn.Conv2d(before, after, 3, padding=1)]
        if stride == 2:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1), norm(after), nn.ReLU(inplace=True))
            first = [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(before, after, 3, stride=2)]
        self.body = nn.Sequential(*first, norm(after), nn.ReLU(inplace=True), *conv(after, after, norm))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, after, H / stride, W / stride] of [N, before, H, W]."""
        added: torch.Tensor = self.body(x) + self.shortcut(x[..., :: self.stride, :: self.stride])
        return added
