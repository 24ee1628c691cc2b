"""U-Net with an encoder of inception modules (Szegedy et al. 2014), as the Frankfurt report built it."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from pipeline.models._blocks import Norm, conv
from pipeline.models._common import check_common, initialise
from pipeline.models._decoder import DecoderLevel, UShaped, dropout_if

ENCODER = ("encoder",)
SMALL = {"width": 4}

STEM, SECOND = 64, 192  # channels of levels 1 and 2 at width 64
# levels 3 to 5: per module the channels of 1×1 | 1×1 → 3×3 | 1×1 → 5×5 | max pool → 5×5
MODULES = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


def build(
    *,
    in_channels: int,
    classes: int,
    width: int = 64,
    dropout: float = 0.0,
    bn_momentum: float = 0.01,
    bn_eps: float = 1e-3,
) -> nn.Module:
    """Inception U-Net of five levels: 48,141,492 trainable parameters with the defaults, 3 bands and 4 classes.

    Level 1 is a 7×7 conv-BN-ReLU of stride 1, level 2 two 3×3 ones, levels 3 to 5 two, five and two inception modules,
    each the concatenation of 1×1 | 1×1 → 3×3 | 1×1 → 5×5 | 3×3 max pool → 5×5, with conv-BN-ReLU throughout (the
    original has a 1×1 convolution after the pool). A 3×3 max pool of stride 2 stands between levels; it looks at
    pixels 2i to 2i + 2, since Keras pads an even size at its end alone. Levels have 64, 192, 480, 832 and 1024
    channels. The decoder is `unet`'s: 2×2 transposed conv-BN-ReLU to the skip's channels, the skip first in the
    concatenation, two 3×3 conv-BN-ReLU. Every convolution has a bias; weights start as `unet`'s do.

    Args:
        in_channels: bands of the image.
        classes: logits per pixel.
        width: channels of the first level; every other count c of the report becomes c · width / 64, rounded to the
            nearest whole number (a half upwards), at least 1.
        dropout: share of values dropped after levels 1 and 2 and at the end of every inception module and decoder
            level; 0 to below 1.
        bn_momentum: share of the newest batch in the running statistics (1 − the momentum of Keras).
        bn_eps: ε of the batch norm.

    Raises:
        ConfigError: when a parameter is out of range.
        RunError: (when called) for an image with other bands, or whose sides are no multiples of 16 px.
    """
    check_common("inception_unet", width=width, dropout=dropout, bn_momentum=bn_momentum, bn_eps=bn_eps)
    norm = Norm(bn_momentum, bn_eps)
    second = scaled(SECOND, width)
    encoder = [
        nn.Sequential(*conv(in_channels, width, norm, size=7), *dropout_if(dropout)),
        nn.Sequential(
            halving_pool(),
            *conv(width, second, norm),
            *conv(second, second, norm),
            *dropout_if(dropout),
        ),
    ]
    channels = [width, second]
    for level in MODULES:
        parts: list[nn.Module] = [halving_pool()]
        before = channels[-1]
        for counts in level:
            module = InceptionModule(before, [scaled(count, width) for count in counts], norm)
            parts += [module, *dropout_if(dropout)]
            before = module.channels
        encoder.append(nn.Sequential(*parts))
        channels.append(before)
    decoder = [DecoderLevel(b, a, dropout, norm) for a, b in reversed(list(itertools.pairwise(channels)))]
    network = UShaped("inception_unet", in_channels, encoder, decoder, nn.Conv2d(width, classes, 1))
    initialise(network, network.head)
    return network


def scaled(channels: int, width: int) -> int:
    """The report's `channels` for a first level of `width` channels instead of 64."""
    return max(1, (channels * width + STEM // 2) // STEM)


def halving_pool() -> nn.MaxPool2d:
    """3×3 max pool of stride 2 that halves an even size, padded at the end as Keras does."""
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


class InceptionModule(nn.Module):
    """Four branches side by side; `counts` are channels of 1×1 | 1×1 → 3×3 | 1×1 → 5×5 | max pool → 5×5."""

    def __init__(self, before: int, counts: list[int], norm: Norm) -> None:
        super().__init__()
        plain, reduce3, conv3, reduce5, conv5, pooled = counts
        self.channels = plain + conv3 + conv5 + pooled
        self.branches = nn.ModuleList(
            [
                nn.Sequential(*conv(before, plain, norm, size=1)),
                nn.Sequential(*conv(before, reduce3, norm, size=1), *conv(reduce3, conv3, norm)),
                nn.Sequential(*conv(before, reduce5, norm, size=1), *conv(reduce5, conv5, norm, size=5)),
                nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *conv(before, pooled, norm, size=5)),
            ]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, channels, H, W] of [N, before, H, W]."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)
