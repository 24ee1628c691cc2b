"""U-Net (Ronneberger et al. 2015) with batch norm, as the Frankfurt report built it, and the Mars report's options."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.models._blocks import Norm, check_batch
from pipeline.models._common import check_common, check_image, initialise
from pipeline.models._paths import Design, Paths, check_design, outputs

ENCODER = ("encoder",)
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
    dropout_at: Literal["all", "deep"] = "all",
    residual: bool = False,
    se_levels: int = 0,
    se_ratio: int = 16,
    bottleneck: Literal["block", "dilated", "pyramid", "aspp"] = "block",
    dilation: int = 2,
    aspp_rates: list[int] = [6, 12, 18],  # noqa: B006 (a literal for the config, never changed)
    attention: bool = False,
    deep_supervision: bool = False,
    up: Literal["transposed", "nearest"] = "transposed",
    init: Literal["he_normal", "torch"] = "he_normal",
) -> nn.Module:
    """U-Net: 31,045,636 trainable parameters with the defaults, 3 bands and 4 classes.

    Each level holds a block of two 3×3 conv-BN-ReLU. Down: 2×2 max pool, twice the channels. Up: 2×2 transposed
    conv-BN-ReLU with half the channels, then the skip, first in the concatenation. Every convolution has a bias.
    Convolutions start He-normal (std √(2 / fan in)), biases at zero, the last 1×1 convolution Glorot-normal.

    The Mars report's is ``{dropout: 0.5, dropout_at: deep, residual: true, se_levels: 2, bottleneck: dilated}``, the
    medical thesis's plain one ``{up: nearest, init: torch, bn_momentum: 0.1, bn_eps: 1e-5}``.

    Args:
        in_channels: bands of the image.
        classes: logits per pixel.
        width: channels of the first level; level i has width · 2^i.
        depth: levels, 1 or more; height and width of the image must be multiples of 2^(depth − 1) px.
        dropout: share of values dropped at the end of blocks; 0 to below 1.
        bn_momentum: share of the newest batch in the running statistics (1 − the momentum of Keras).
        bn_eps: ε of the batch norm.
        dropout_at: ``all`` blocks of encoder and decoder, or the ``deep`` ones: the bottleneck (the deepest level) and
            the encoder's two levels above it.
        residual: blocks are residual: ReLU(conv-BN-ReLU-conv-BN of x + shortcut), the shortcut x itself or a 1×1
            conv-BN where the channels change.
        se_levels: squeeze-and-excite in so many of the deepest levels of encoder and decoder, the bottleneck not
            counted; 0 to depth − 1.
        se_ratio: channels over those of the squeeze.
        bottleneck: the deepest level: ``block`` as everywhere; ``dilated``, the same with dilated convolutions;
            ``pyramid`` pooling (Zhao et al. 2017) or ``aspp``, an atrous spatial pyramid (Chen et al. 2017), in the
            block's place.
        dilation: of both convolutions of the dilated bottleneck.
        aspp_rates: dilations of the atrous pyramid's 3×3 convolutions, in pixels of its map.
        attention: additive attention gates (Oktay et al. 2018) on the skips, driven by the level below.
        deep_supervision: in training mode give a dict: "mask", then "aux_1", … from a 1×1 convolution of each decoder
            level below full size, finest first, resized to it bilinearly. In eval mode the mask's logits alone.
        up: ``transposed`` 2×2 convolutions, or ``nearest`` neighbours and a 3×3 convolution.
        init: initial weights: ``he_normal`` as above, or ``torch``'s own (the medical thesis's first experiment).

    Raises:
        ConfigError: when a parameter is out of range.
        RunError: (when called) for an image whose size or bands do not fit, or a batch of one whose coarsest map is
            one pixel, in training mode.
    """
    check_common("unet", width=width, depth=depth, dropout=dropout, bn_momentum=bn_momentum, bn_eps=bn_eps)
    check_design("unet", depth=depth, se_levels=se_levels, se_ratio=se_ratio, dilation=dilation, rates=aspp_rates)
    if deep_supervision and depth < 3:
        raise ConfigError(f"model unet: deep_supervision needs decoder levels below full size, depth 3, not {depth}")
    design = Design(
        width=width,
        depth=depth,
        norm=Norm(bn_momentum, bn_eps),
        dropout=dropout,
        dropout_at=dropout_at,
        residual=residual,
        se_levels=se_levels,
        se_ratio=se_ratio,
        bottleneck=bottleneck,
        dilation=dilation,
        aspp_rates=tuple(aspp_rates),
        attention=attention,
        up=up,
    )
    return UNet(in_channels, classes, design, deep_supervision, init)


class UNet(Paths):
    """The module behind `build`: images [N, in_channels, H, W] to logits [N, classes, H, W]."""

    def __init__(self, in_channels: int, classes: int, design: Design, deep_supervision: bool, init: str) -> None:
        super().__init__(in_channels, design)
        self.in_channels = in_channels
        self.stride_px = 2 ** (design.depth - 1)
        self.head = nn.Conv2d(design.width, classes, 1)
        coarse = range(1, design.depth - 1) if deep_supervision else ()
        self.aux = nn.ModuleList(nn.Conv2d(design.channels(level), classes, 1) for level in coarse)
        if init == "he_normal":
            initialise(self, self.head, *self.aux)

    def forward(self, image: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return logits [N, classes, H, W] of images [N, in_channels, H, W], in training a dict of them if so built."""
        check_image("unet", image, self.in_channels, self.stride_px, "take a smaller depth")
        check_batch("unet", image, self.stride_px, self.training)
        *_, last = decoded = self.features(image).decoded
        mask: torch.Tensor = self.head(last)
        if not (self.training and self.aux):
            return mask
        return outputs(mask, [aux(x) for aux, x in zip(self.aux, reversed(decoded[1:-1]), strict=True)])
