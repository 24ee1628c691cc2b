"""ResUNet-a (Diakogiannis et al. 2020): residual U-Net with atrous branches, pyramid pooling and four tasks."""

from __future__ import annotations

import functools
import itertools
from typing import Literal

import torch
from torch import nn

from pipeline.models import _resunet_a
from pipeline.models._blocks import check_batch
from pipeline.models._common import check_common, check_image, initialise
from pipeline.models._resunet_a_parts import (
    Down,
    MaskHead,
    MultiTaskHead,
    PooledMiddle,
    PyramidPooling,
    ResBlockA,
    UpCombine,
    normed,
)

ENCODER = ("stem", "encoder", "down")
SMALL = {"width": 4, "psp": "end", "head": "cmtsk"}


def build(
    *,
    in_channels: int,
    classes: int,
    depth: Literal["d6", "d7v1", "d7v2"] = "d6",
    head: Literal["single", "mtsk", "cmtsk"] = "single",
    width: int = 32,
    down_kernel: Literal[1, 3] = 1,
    atrous: bool = True,
    psp: Literal["both", "middle", "end", "none"] = "both",
    decoder: Literal["released", "printed"] = "released",
    bn_momentum: float = 0.1,
    bn_eps: float = 1e-5,
) -> nn.Module:
    """ResUNet-a with six or seven levels.

    Stem: 1×1 conv-BN-ReLU to `width`. Level i is a ResBlock-a with width · 2^i channels, x + Σ_d branch_d(x), where a
    branch is BN-ReLU-conv3×3(d)-BN-ReLU-conv3×3(d) and the dilations d are {1, 3, 15, 31} on the first two levels,
    {1, 3, 15} on the next two, {1} below. Down: convolution of stride 2. Middle: pyramid pooling (d6: 1, 4, 16 and 64
    partitions; d7v2: 1, 4 and 16) or a 2×2 max pool beside its input (d7v1), then ReLU. Up: nearest ×2, 1×1 conv-BN to
    half the level's channels, ReLU, beside the skip, 1×1 conv-BN, ResBlock-a. The stem beside the last block goes
    through pyramid pooling (1, 4, 16 and 64 partitions) and ReLU to the head.

    Trainable parameters with 5 bands and 6 classes: d6 52,389,446, d7v1 157,920,070, d7v2 162,112,322. The paper tells
    nothing of initial weights: convolutions start He-normal, the sum of a block's branches counting as one convolution,
    the last 1×1 convolutions Glorot-normal.

    Args:
        in_channels: bands of the image.
        classes: logits per pixel of mask, boundary and distance; 1 is binary.
        depth: six levels, or seven with (d7v2) or without (d7v1) pyramid pooling in the middle.
        head: the mask alone; or mask, boundary, distance and colour (HSV), independent (`mtsk`) or with the boundary
            conditioned on the distance and the mask on both (`cmtsk`). Multi-task losses train the latter two.
        width: channels of the first level, 4 or more.
        down_kernel: side of the convolutions of stride 2; 1 in the paper, 3 in its released code.
        atrous: whether branches are dilated; false gives the ablation's baseline, as many branches at dilation 1.
        psp: where pyramid pooling stands, of the places the depth has; without it the middle passes on what it got, and
            the end is a 1×1 conv-BN.
        decoder: as many branches per block as the released code's decoder, deep to shallow 3, 3, 4, 4, 4 (d6) or
            1, 3, 4, 4, 4, 4 (d7), or one undilated branch, as Table 1 prints; only the first has the parameters that
            the paper states.
        bn_momentum: share of the newest batch in the running statistics; the default is MXNet's 0.9 of the old ones.
        bn_eps: ε of the batch norm; the default is MXNet's.

    Returns:
        A module from images [N, in_channels, H, W] to logits [N, classes, H, W] (`single`), or to a dict of logits
        ``mask``, ``boundary``, ``distance`` [N, classes, H, W] and ``colour`` [N, 3, H, W], in this order; the loss
        applies softmax to mask and distance (sigmoid for one logit) and sigmoid to boundary and colour.

    Raises:
        ConfigError: when a parameter is out of range, or `psp` asks for a place that the depth has not.
        RunError: (when called) for an image whose bands do not fit, or whose height and width are no multiples of
            256 px (d6, d7v2), 128 px (d7v1), or, without pyramid pooling in the middle, 32 px (d6) or 64 px (d7v2); or
            a batch of one whose coarsest map is one pixel, in training mode.
    """
    check_common("resunet_a", width=width, bn_momentum=bn_momentum, bn_eps=bn_eps)
    _resunet_a.check(depth=depth, width=width, psp=psp)
    return ResUNetA(in_channels, classes, depth, head, width, down_kernel, atrous, psp, decoder, bn_momentum, bn_eps)


class ResUNetA(nn.Module):
    """The module behind `build`."""

    def __init__(
        self,
        in_channels: int,
        classes: int,
        depth: str,
        head: str,
        width: int,
        down_kernel: int,
        atrous: bool,
        psp: str,
        decoder: str,
        bn_momentum: float,
        bn_eps: float,
    ) -> None:
        super().__init__()
        norm = functools.partial(nn.BatchNorm2d, momentum=bn_momentum, eps=bn_eps)
        channels = [width * 2**level for level in range(_resunet_a.LEVELS[depth])]
        pairs = list(itertools.pairwise(channels))
        encoder_dilations = _resunet_a.encoder_dilations(depth, atrous)
        decoder_dilations = _resunet_a.decoder_dilations(depth, atrous, decoder)

        self.in_channels = in_channels
        self.stride_px, self.way_out = _resunet_a.stride_px(depth, psp), _resunet_a.way_out(depth, psp)
        self.stem = nn.Sequential(*normed(in_channels, width, norm), nn.ReLU(inplace=True))
        self.encoder = nn.ModuleList(ResBlockA(f, d, norm) for f, d in zip(channels, encoder_dilations, strict=True))
        self.down = nn.ModuleList(Down(a, b, down_kernel) for a, b in pairs)
        self.middle = _middle(channels[-1], depth, psp, norm)
        self.up = nn.ModuleList(UpCombine(b, a, norm) for a, b in reversed(pairs))
        self.decoder = nn.ModuleList(
            ResBlockA(f, d, norm) for f, d in zip(reversed(channels[:-1]), decoder_dilations, strict=True)
        )
        scales = _resunet_a.end_scales(psp)
        shared = PyramidPooling(2 * width, width, scales, norm) if scales else normed(2 * width, width, norm)
        self.head = (
            MaskHead(width, classes, shared)
            if head == "single"
            else MultiTaskHead(width, classes, shared, head == "cmtsk", norm)
        )
        initialise(self, *self.head.last)
        for block in (*self.encoder, *self.decoder):
            block.even_out()

    def forward(self, image: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return the logits of images [N, in_channels, H, W]; see `build`."""
        check_image("resunet_a", image, self.in_channels, self.stride_px, self.way_out)
        check_batch("resunet_a", image, 2 ** len(self.down), self.training)
        stem: torch.Tensor = self.stem(image)
        x = self.encoder[0](stem)
        skips: list[torch.Tensor] = []
        for down, block in zip(self.down, self.encoder[1:], strict=True):
            skips.append(x)
            x = block(down(x))
        x = self.middle(x)
        for up, block in zip(self.up, self.decoder, strict=True):
            x = block(up(x, skips.pop()))
        outputs: torch.Tensor | dict[str, torch.Tensor] = self.head(torch.cat([stem, x], dim=1))
        return outputs


def _middle(channels: int, depth: str, psp: str, norm: functools.partial[nn.BatchNorm2d]) -> nn.Module:
    scales = _resunet_a.middle_scales(depth, psp)
    if scales:
        return nn.Sequential(PyramidPooling(channels, channels, scales, norm), nn.ReLU(inplace=True))
    return nn.Sequential(PooledMiddle(channels), nn.ReLU(inplace=True)) if depth == "d7v1" else nn.Identity()
