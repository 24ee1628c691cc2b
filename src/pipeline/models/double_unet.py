"""Double U-Net: two U-Nets in series (Jha et al. 2020) or in parallel, with the options of the Mars report."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from pipeline.models._blocks import Norm, check_batch, resize
from pipeline.models._common import check_common, check_image, initialise
from pipeline.models._paths import DEEP, Design, Paths, check_design, outputs

ENCODER = ("*.encoder",)
SMALL = {"width": 4, "depth": 3, "dropout": 0.0}


def build(
    *,
    in_channels: int,
    classes: int,
    mode: Literal["serial", "parallel"] = "serial",
    width: int = 32,
    depth: int = 5,
    residual: bool = True,
    se: bool = True,
    aspp: bool = True,
    attention: bool = False,
    dropout: float = 0.5,
    se_ratio: int = 16,
    aspp_rates: list[int] = [6, 12, 18],  # noqa: B006 (a literal for the config, never changed)
    product: Literal["classes", "foreground"] = "classes",
    deep_supervision: bool = True,
    bn_momentum: float = 0.1,
    bn_eps: float = 1e-5,
) -> nn.Module:
    """Double U-Net: 12,368,360 trainable parameters with the defaults (the Mars report's best), 3 bands and 4 classes.

    Serial, with x the image, p₁ the probabilities (softmax, sigmoid for one logit) of the first U-Net and s₁ its skips:
    p₁ = σ(U₁(x)), mask = U₂(x · p₁ | s₁). Each level of the second decoder takes the second encoder's skip, the
    first's, then what comes from below. Parallel: the *global* U-Net sees the image at half size (means of 2×2 px), the
    *local* one at full size, neither the other's features; their last maps, the global one resized, meet in the head.

    Both are made of the blocks of `unet` and start from weights drawn as its are.

    Args:
        in_channels: bands of the image.
        classes: logits per pixel.
        mode: ``serial`` or ``parallel``.
        width: channels of the first level of both networks; level i has width · 2^i.
        depth: levels of both networks, 1 or more; height and width of the image must be multiples of 2^(depth − 1) px,
            in parallel of 2^depth px.
        residual: residual blocks.
        se: squeeze-and-excite in the two deepest levels of each encoder and decoder, the bottleneck not counted.
        aspp: an atrous spatial pyramid (Chen et al. 2017) as both bottlenecks, instead of a block.
        attention: additive attention gates (Oktay et al. 2018) on every skip, driven by the level below.
        dropout: share of values dropped at the end of the bottlenecks and the two encoder levels above; 0 to below 1.
        se_ratio: channels over those of the squeeze.
        aspp_rates: dilations of the atrous pyramid's 3×3 convolutions, in pixels of its map.
        product: what the image is multiplied by in series: ``classes``, each band by each class's probability, which
            makes in_channels · classes bands; ``foreground``, each band by 1 − the probability of class 0, for schemes
            where that is the background. One logit: its sigmoid, whichever.
        deep_supervision: in training mode give a dict: "mask", then "aux_1", the first (parallel: the global) network's
            own logits, and in parallel "aux_2", the local one's. In eval mode the mask's logits alone.
        bn_momentum: share of the newest batch in the running statistics.
        bn_eps: ε of the batch norm.

    Raises:
        ConfigError: when a parameter is out of range.
        RunError: (when called) for an image whose size or bands do not fit, or a batch of one whose coarsest map is
            one pixel, in training mode.
    """
    name = "double_unet"
    check_common(name, width=width, depth=depth, dropout=dropout, bn_momentum=bn_momentum, bn_eps=bn_eps)
    check_design(name, depth=depth, se_levels=0, se_ratio=se_ratio, dilation=1, rates=aspp_rates)
    design = Design(
        width=width,
        depth=depth,
        norm=Norm(bn_momentum, bn_eps),
        dropout=dropout,
        dropout_at="deep",
        residual=residual,
        se_levels=min(DEEP, depth - 1) if se else 0,
        se_ratio=se_ratio,
        bottleneck="aspp" if aspp else "block",
        aspp_rates=tuple(aspp_rates),
        attention=attention,
    )
    if mode == "parallel":
        return Parallel(in_channels, classes, design, deep_supervision)
    return Serial(in_channels, classes, design, product == "foreground", deep_supervision)


class Serial(nn.Module):
    """The module behind ``mode: serial``: images [N, in_channels, H, W] to logits [N, classes, H, W]."""

    def __init__(
        self, in_channels: int, classes: int, design: Design, foreground: bool, deep_supervision: bool
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.stride_px = 2 ** (design.depth - 1)
        self.foreground = foreground
        self.deep_supervision = deep_supervision
        self.first = Paths(in_channels, design)
        self.first_head = nn.Conv2d(design.width, classes, 1)
        self.second = Paths(in_channels if foreground else in_channels * classes, design, skip_sets=2)
        self.head = nn.Conv2d(design.width, classes, 1)
        initialise(self, self.first_head, self.head)

    def forward(self, image: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return logits [N, classes, H, W] of images [N, in_channels, H, W], in training a dict of them if so built."""
        check_image("double_unet", image, self.in_channels, self.stride_px, "take a smaller depth")
        check_batch("double_unet", image, self.stride_px, self.training)
        first = self.first.features(image)
        seen: torch.Tensor = self.first_head(first.decoded[-1])
        second = self.second.features(multiplied(image, seen, self.foreground), [first.skips])
        mask: torch.Tensor = self.head(second.decoded[-1])
        return outputs(mask, [seen]) if self.training and self.deep_supervision else mask


class Parallel(nn.Module):
    """The module behind ``mode: parallel``: images [N, in_channels, H, W] to logits [N, classes, H, W]."""

    def __init__(self, in_channels: int, classes: int, design: Design, deep_supervision: bool) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.stride_px = 2**design.depth
        self.whole = Paths(in_channels, design)
        self.local = Paths(in_channels, design)
        self.head = nn.Conv2d(2 * design.width, classes, 1)
        self.aux = nn.ModuleList(nn.Conv2d(design.width, classes, 1) for _ in range(2 if deep_supervision else 0))
        initialise(self, self.head, *(head for head in self.aux if isinstance(head, nn.Conv2d)))

    def forward(self, image: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return logits [N, classes, H, W] of images [N, in_channels, H, W], in training a dict of them if so built."""
        check_image("double_unet", image, self.in_channels, self.stride_px, "take a smaller depth")
        check_batch("double_unet", image, self.stride_px, self.training)
        whole = self.whole.features(functional.avg_pool2d(image, 2)).decoded[-1]
        local = self.local.features(image).decoded[-1]
        mask: torch.Tensor = self.head(torch.cat([resize(whole, local), local], dim=1))
        if not (self.training and self.aux):
            return mask
        return outputs(mask, [aux(x) for aux, x in zip(self.aux, (whole, local), strict=True)])


def multiplied(image: torch.Tensor, logits: torch.Tensor, foreground: bool) -> torch.Tensor:
    """The image [N, B, H, W] times the mask of logits [N, C, H, W]: [N, B, H, W] or, by class, [N, B · C, H, W].

    The classes of a band are neighbours: channel b · C + c is band b times the probability of class c.
    """
    if logits.shape[1] == 1:
        return image * logits.sigmoid()
    probability = logits.softmax(dim=1)
    if foreground:
        return image * (1 - probability[:, :1])
    return (image.unsqueeze(2) * probability.unsqueeze(1)).flatten(1, 2)
