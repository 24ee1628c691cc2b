"""The medical U-Net thesis's networks with attention gates: `attention_unet` and `residual_attention_unet`."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from pipeline.models._attention import AttentionGate
from pipeline.models._blocks import Norm, Residual, conv, upsample
from pipeline.models._common import check_common, initialise
from pipeline.models._decoder import UShaped, dropout_if


def gated_unet(
    model: str,
    *,
    in_channels: int,
    classes: int,
    residual: bool,
    width: int,
    depth: int,
    dropout: float,
    init: str,
    bn_momentum: float,
    bn_eps: float,
) -> nn.Module:
    """The network called `model` in configs, its blocks residual or plain; the rest as in `attention_unet.build`."""
    check_common(model, width=width, depth=depth, dropout=dropout, bn_momentum=bn_momentum, bn_eps=bn_eps)
    norm = Norm(bn_momentum, bn_eps)
    channels = [width * 2**level for level in range(depth)]
    pairs = list(itertools.pairwise(channels))

    def block(before: int, after: int) -> nn.Module:
        parts = [*conv(before, after, norm), *dropout_if(dropout), *conv(after, after, norm)]
        if not residual:
            return nn.Sequential(*parts, *dropout_if(dropout))
        parts.pop()  # the last ReLU comes after the sum
        return Residual(before, after, norm, nn.Sequential(*parts, *dropout_if(dropout)))

    encoder = [block(in_channels, width), *(nn.Sequential(nn.MaxPool2d(2), block(a, b)) for a, b in pairs)]
    decoder = [GatedLevel(b, a, block(2 * a, a), norm) for a, b in reversed(pairs)]
    head = nn.Conv2d(width, classes, 1)
    network = UShaped(model, in_channels, encoder, decoder, head, "take a smaller depth")
    if init == "he_normal":
        initialise(network)
    return network


class GatedLevel(nn.Module):
    """Nearest neighbours ×2 and 3×3 conv-BN-ReLU, the gated skip put after it, a block."""

    def __init__(self, below: int, skip: int, block: nn.Module, norm: Norm) -> None:
        super().__init__()
        self.gate = AttentionGate(skip, below, norm.momentum, norm.eps)
        self.up = upsample("nearest", below, skip, norm)
        self.block = block

    def forward(self, below: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Return [N, skip, H, W] of the level below [N, below, H/2, W/2] and the skip [N, skip, H, W]."""
        joined: torch.Tensor = self.block(torch.cat([self.up(below), self.gate(skip, below)], dim=1))
        return joined
