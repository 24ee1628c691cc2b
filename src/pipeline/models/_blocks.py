"""Blocks of encoder-decoder networks: convolutions, squeeze-and-excite, pyramid pooling, atrous pyramid, upsampling.

Every convolution has a bias. Branches that pool the whole map, or a few bins of it, have no batch norm: a batch of one
gives such a bin a single value per channel, of which there is no variance in training mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import RunError

NormOf = Callable[[int], nn.Module]  # the norm of so many channels: a `Norm`, or nn.Identity for none
PYRAMID_BINS = (1, 2, 3, 6)  # Zhao et al. 2017


@dataclass(frozen=True)
class Norm:
    """Settings of batch norm: the newest batch's share in the running statistics, ε."""

    momentum: float
    eps: float

    def __call__(self, channels: int) -> nn.Module:
        """Return the batch norm of so many channels."""
        return nn.BatchNorm2d(channels, eps=self.eps, momentum=self.momentum)


def conv(before: int, after: int, norm: NormOf, size: int = 3, dilation: int = 1) -> list[nn.Module]:
    """Convolution, norm, ReLU; height and width stay. `size` is odd."""
    padding = dilation * (size // 2)
    return [nn.Conv2d(before, after, size, padding=padding, dilation=dilation), norm(after), nn.ReLU(inplace=True)]


def double_conv(
    before: int,
    after: int,
    norm: NormOf,
    *,
    dilation: int = 1,
    residual: bool = False,
    se_ratio: int = 0,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Two 3×3 conv-norm-ReLU, from [N, before, H, W] to [N, after, H, W].

    Args:
        before: channels of the input.
        after: channels of the output.
        norm: the norm of both.
        dilation: of both convolutions.
        residual: a residual block (He et al. 2016) instead, see `Residual`.
        se_ratio: above 0, squeeze-and-excite of this reduction; it ends the block, in a residual one the branch.
        dropout: share of values dropped at the end of the block.
    """
    parts = [*conv(before, after, norm, dilation=dilation), *conv(after, after, norm, dilation=dilation)]
    if residual:
        parts.pop()  # the last ReLU comes after the sum
    if se_ratio:
        parts.append(SqueezeExcite(after, se_ratio))
    end = [nn.Dropout(dropout)] if dropout else []
    if not residual:
        return nn.Sequential(*parts, *end)
    return nn.Sequential(Residual(before, after, norm, nn.Sequential(*parts)), *end)


class Residual(nn.Module):
    """ReLU(branch(x) + shortcut(x)); the shortcut is x, or a 1×1 conv-norm of it where the channels change."""

    def __init__(self, before: int, after: int, norm: NormOf, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = nn.Identity() if before == after else nn.Sequential(nn.Conv2d(before, after, 1), norm(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, after, H, W] of x [N, before, H, W]."""
        return functional.relu(self.branch(x) + self.shortcut(x))


class SqueezeExcite(nn.Module):
    """Squeeze-and-excite (Hu et al. 2018): x · σ(W₂ ReLU(W₁ z + b₁) + b₂), z the mean of each channel over the map.

    W₁ maps C channels to C / ratio (rounded down, at least 1), W₂ back.
    """

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        few = max(1, channels // ratio)
        self.squeeze = nn.Conv2d(channels, few, 1)
        self.excite = nn.Conv2d(few, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x [N, C, H, W], each channel times its weight in 0 to 1."""
        mean = x.mean(dim=(2, 3), keepdim=True)
        weight: torch.Tensor = self.excite(functional.relu(self.squeeze(mean))).sigmoid()
        return x * weight


class PyramidPooling(nn.Module):
    """Pyramid pooling (Zhao et al. 2017): x beside means of it over 1, 2 × 2, 3 × 3 and 6 × 6 bins, fused by a 3×3.

    Each set of bins goes through a 1×1 conv-ReLU to a quarter of the channels (at least 1) and back to the map's size
    by bilinear interpolation. A map smaller than the bins repeats its values. No batch norm but in the fusion.
    """

    def __init__(self, before: int, after: int, norm: NormOf) -> None:
        super().__init__()
        few = max(1, before // len(PYRAMID_BINS))
        self.branches = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), nn.Conv2d(before, few, 1), nn.ReLU(inplace=True))
            for bins in PYRAMID_BINS
        )
        self.fuse = nn.Sequential(*conv(before + few * len(PYRAMID_BINS), after, norm))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, after, H, W] of x [N, before, H, W]."""
        fused: torch.Tensor = self.fuse(torch.cat([x, *(resize(branch(x), x) for branch in self.branches)], dim=1))
        return fused


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017): a 1×1, a 3×3 per rate and the map's mean, fused by a 1×1.

    Each branch has a quarter of the output's channels (at least 1); with the paper's 256 for 1,024. The mean's branch
    is 1×1 conv-ReLU without batch norm. Taps of a rate beyond the map see its zero padding only.
    """

    def __init__(self, before: int, after: int, norm: NormOf, rates: Sequence[int]) -> None:
        super().__init__()
        few = max(1, after // 4)
        near = [nn.Sequential(*conv(before, few, norm, size=1))]
        self.branches = nn.ModuleList(near + [nn.Sequential(*conv(before, few, norm, dilation=r)) for r in rates])
        self.mean = nn.Sequential(nn.Conv2d(before, few, 1), nn.ReLU(inplace=True))
        self.fuse = nn.Sequential(*conv(few * (len(rates) + 2), after, norm, size=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, after, H, W] of x [N, before, H, W]."""
        mean = self.mean(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        fused: torch.Tensor = self.fuse(torch.cat([*(branch(x) for branch in self.branches), mean], dim=1))
        return fused


def upsample(kind: str, before: int, after: int, norm: NormOf) -> nn.Sequential:
    """Twice the height and width: ``transposed`` 2×2 conv-norm-ReLU, or ``nearest`` and 3×3 conv-norm-ReLU."""
    if kind == "transposed":
        return nn.Sequential(nn.ConvTranspose2d(before, after, 2, stride=2), norm(after), nn.ReLU(inplace=True))
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), *conv(before, after, norm))


def resize(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Bilinear interpolation of x [N, C, h, w] to the height and width of `like`."""
    return functional.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def check_batch(model: str, image: torch.Tensor, stride_px: int, training: bool) -> None:
    """RunError where batch norm of the coarsest map would have one value per channel, of which there is no variance."""
    if training and image.shape[0] * (image.shape[2] // stride_px) * (image.shape[3] // stride_px) == 1:
        height, width = image.shape[2:]
        raise RunError(
            f"model {model}: a batch of one image of {height} × {width} px cannot train, since its coarsest map is one "
            "pixel; take larger batches or chips"
        )
