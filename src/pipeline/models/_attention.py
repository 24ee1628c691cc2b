"""Additive attention gate for skip connections (Oktay et al. 2018), in the form of the medical U-Net thesis."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.models._blocks import resize


class AttentionGate(nn.Module):
    """Weights the pixels of a skip by what the level below says about them.

    α = resample(σ(ψ·ReLU(W_x·x + W_g·GS(y) + b_g) + b_ψ)) and the output is α·x, with x the skip, y the feature map of
    the level below and GS its gating signal, a 1×1 conv-BN-ReLU to the skip's channels. All maps are 1×1 convolutions
    that keep the skip's channel count, ψ gives one channel. The sum is taken on the grid of y: x is brought there, and
    the coefficients back to the grid of x, by bilinear interpolation (for a ratio of 2, the mean of 2×2 pixels), so
    that any two sizes fit.

    Args:
        skip: channels of x and of the output.
        below: channels of y.
        bn_momentum: share of the newest batch in the running statistics of the gating signal's batch norm.
        bn_eps: ε of that batch norm.
    """

    def __init__(self, skip: int, below: int, bn_momentum: float = 0.1, bn_eps: float = 1e-5) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(skip, eps=bn_eps, momentum=bn_momentum)
        self.signal = nn.Sequential(nn.Conv2d(below, skip, 1), norm, nn.ReLU(inplace=True))
        self.from_signal = nn.Conv2d(skip, skip, 1)
        self.from_skip = nn.Conv2d(skip, skip, 1, bias=False)
        self.score = nn.Conv2d(skip, 1, 1)

    def coefficients(self, skip: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        """Return α [N, 1, H, W] in 0 to 1 of the skip [N, skip, H, W] and the level below [N, below, h, w]."""
        seen = self.from_skip(resize(skip, below))
        score = self.score(torch.relu(seen + self.from_signal(self.signal(below))))
        return resize(torch.sigmoid(score), skip)

    def forward(self, skip: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        """Return the weighted skip [N, skip, H, W] of the skip and the level below [N, below, h, w]."""
        return skip * self.coefficients(skip, below)
