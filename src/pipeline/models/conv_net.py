"""The small convolutional network that boundary-loss-bf1 (Bokhovkin and Burnaev 2019) trains on synthetic images."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from pipeline.models._blocks import Norm, conv, upsample
from pipeline.models._common import check_common, check_image, initialise

ENCODER = ("encoder",)
SMALL = {"width": 4}


def build(
    *,
    in_channels: int,
    classes: int,
    width: int = 32,
    layers: int = 4,
    bn_momentum: float = 0.1,
    bn_eps: float = 1e-5,
) -> nn.Module:
    """Four convolutions down and four up, no skips: 778,276 trainable parameters with the defaults, 3 bands, 4 classes.

    Down, `layers` times: 3×3 conv-BN-ReLU, 2×2 max pool; layer i has width · 2^i channels. Up, `layers` times: nearest
    neighbours ×2 and a 3×3 convolution to the channels of the layer above, with BN-ReLU but in the last one, which
    gives the logits. So there are 2 · `layers` convolutions in all, each with a bias.

    The paper says "four conv layers in the encoder and four conv layers in the decoder" and, in Table 1, five blocks;
    kernel sizes, channels, pools and norms are not given, and are chosen plain here.

    Args:
        in_channels: bands of the image.
        classes: logits per pixel.
        width: channels of the first layer.
        layers: convolutions of the encoder, and of the decoder, 1 or more; height and width of the image must be
            multiples of 2^layers px.
        bn_momentum: share of the newest batch in the running statistics.
        bn_eps: ε of the batch norm.

    Raises:
        ConfigError: when a parameter is out of range.
        RunError: (when called) for an image whose size or bands do not fit.
    """
    check_common("conv_net", width=width, depth=layers, bn_momentum=bn_momentum, bn_eps=bn_eps)
    return ConvNet(in_channels, classes, width, layers, Norm(bn_momentum, bn_eps))


class ConvNet(nn.Module):
    """The module behind `build`: images [N, in_channels, H, W] to logits [N, classes, H, W]."""

    def __init__(self, in_channels: int, classes: int, width: int, layers: int, norm: Norm) -> None:
        super().__init__()
        channels = [width * 2**layer for layer in range(layers)]
        downwards = itertools.pairwise([in_channels, *channels])
        upwards = itertools.pairwise(reversed(channels))
        self.in_channels = in_channels
        self.stride_px = 2**layers
        self.encoder = nn.ModuleList(nn.Sequential(*conv(a, b, norm), nn.MaxPool2d(2)) for a, b in downwards)
        self.decoder = nn.ModuleList(upsample("nearest", a, b, norm) for a, b in upwards)
        self.enlarge = nn.Upsample(scale_factor=2, mode="nearest")
        self.head = nn.Conv2d(width, classes, 3, padding=1)
        initialise(self, self.head)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits [N, classes, H, W] of images [N, in_channels, H, W]."""
        check_image("conv_net", image, self.in_channels, self.stride_px, "take fewer layers")
        x = image
        for layer in (*self.encoder, *self.decoder):
            x = layer(x)
        logits: torch.Tensor = self.head(self.enlarge(x))
        return logits
