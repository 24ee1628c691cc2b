"""U-Net++ (Zhou et al. 2018): a U-Net whose skips are nested blocks, densely connected."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.models._blocks import Norm, NormOf, check_batch, double_conv
from pipeline.models._common import check_common, check_image, initialise
from pipeline.models._paths import outputs

ENCODER = ("node.*_0",)
SMALL = {"width": 4, "depth": 3}


def build(
    *,
    in_channels: int,
    classes: int,
    width: int = 32,
    depth: int = 5,
    dropout: float = 0.0,
    batch_norm: bool = True,
    bn_momentum: float = 0.1,
    bn_eps: float = 1e-5,
    deep_supervision: bool = False,
    branch: int = 0,
) -> nn.Module:
    """U-Net++: 9,049,572 trainable parameters with the defaults, 3 bands and 4 classes.

    Node X(i, j) of level i is H(pool(X(i − 1, 0))) for j = 0 and H([X(i, 0), …, X(i, j − 1), up(X(i + 1, j − 1))])
    for j > 0: H is two 3×3 conv-BN-ReLU, up a 2×2 transposed convolution to the level's channels, pool a 2×2 maximum.
    A 1×1 convolution makes the logits of X(0, depth − 1); with deep supervision each X(0, j), j > 0, has its own.
    Convolutions start He-normal, biases at zero, the 1×1 convolutions Glorot-normal.

    Args:
        in_channels: bands of the image.
        classes: logits per pixel.
        width: channels of the first level; level i has width · 2^i.
        depth: levels, 2 or more; height and width of the image must be multiples of 2^(depth − 1) px.
        dropout: share of values dropped at the end of every block; 0 to below 1.
        batch_norm: without it, the paper's own network: 9,042,177 parameters for 3 bands and one logit (9.04 M).
        bn_momentum: share of the newest batch in the running statistics.
        bn_eps: ε of the batch norm.
        deep_supervision: in training mode give a dict: "mask" of X(0, depth − 1), then "aux_1", … of X(0, 1), ….
        branch: what deep supervision predicts in eval mode: 0 the mean of all heads' probabilities (the paper's
            accurate mode), as logits of that mean; j the head of X(0, j) alone (its fast mode), for which no node
            with more than j of i + j is computed.

    Raises:
        ConfigError: when a parameter is out of range.
        RunError: (when called) for an image whose size or bands do not fit, or a batch of one whose coarsest map is
            one pixel, in training mode.
    """
    name = "unet_plus_plus"
    check_common(name, width=width, depth=depth, dropout=dropout, bn_momentum=bn_momentum, bn_eps=bn_eps)
    if depth < 2:
        raise ConfigError(f"model {name}: depth {depth} must be 2 or more")
    if not 0 <= branch < depth:
        raise ConfigError(f"model {name}: branch {branch} is not in 0 to {depth - 1}, one below depth")
    if branch and not deep_supervision:
        raise ConfigError(f"model {name}: branch {branch} needs deep_supervision: true; without it there is one head")
    norm: NormOf = Norm(bn_momentum, bn_eps) if batch_norm else nn.Identity
    return UNetPlusPlus(in_channels, classes, width, depth, dropout, norm, deep_supervision, branch)


class UNetPlusPlus(nn.Module):
    """The module behind `build`: images [N, in_channels, H, W] to logits [N, classes, H, W]."""

    def __init__(
        self,
        in_channels: int,
        classes: int,
        width: int,
        depth: int,
        dropout: float,
        norm: NormOf,
        deep_supervision: bool,
        branch: int,
    ) -> None:
        super().__init__()
        channels = [width * 2**level for level in range(depth)]
        nested = [(i, j) for i in range(depth) for j in range(1, depth - i)]
        before = [in_channels, *channels]
        self.in_channels = in_channels
        self.stride_px = 2 ** (depth - 1)
        self.depth = depth
        self.branch = branch
        self.has_norm = norm is not nn.Identity
        self.pool = nn.MaxPool2d(2)
        self.node = nn.ModuleDict(
            {f"{i}_0": double_conv(before[i], channels[i], norm, dropout=dropout) for i in range(depth)}
        )
        self.up = nn.ModuleDict()
        for i, j in nested:
            self.up[f"{i}_{j}"] = nn.ConvTranspose2d(channels[i + 1], channels[i], 2, stride=2)
            self.node[f"{i}_{j}"] = double_conv((j + 1) * channels[i], channels[i], norm, dropout=dropout)
        self.heads = nn.ModuleList(
            nn.Conv2d(width, classes, 1) for _ in (range(depth - 1) if deep_supervision else range(1))
        )
        initialise(self, *(head for head in self.heads if isinstance(head, nn.Conv2d)))

    def forward(self, image: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return logits [N, classes, H, W] of images [N, in_channels, H, W], in training a dict of them if so built."""
        check_image("unet_plus_plus", image, self.in_channels, self.stride_px, "take a smaller depth")
        check_batch("unet_plus_plus", image, self.stride_px, self.training and self.has_norm)
        if self.branch and not self.training:
            alone: torch.Tensor = self.heads[self.branch - 1](self._top_row(image, self.branch + 1)[-1])
            return alone
        row = self._top_row(image, self.depth)
        logits: list[torch.Tensor] = [head(x) for head, x in zip(self.heads, row[-len(self.heads) :], strict=True)]
        if len(logits) == 1:
            return logits[0]
        return outputs(logits[-1], logits[:-1]) if self.training else mean_logits(logits)

    def _top_row(self, image: torch.Tensor, levels: int) -> list[torch.Tensor]:
        """X(0, 0), …, X(0, levels − 1), each [N, width, H, W]; the nodes are computed diagonal by diagonal."""
        rows: list[list[torch.Tensor]] = [[] for _ in range(levels)]
        for deepest in range(levels):
            rows[deepest].append(self.node[f"{deepest}_0"](self.pool(rows[deepest - 1][0]) if deepest else image))
            for j in range(1, deepest + 1):
                i = deepest - j
                lifted = self.up[f"{i}_{j}"](rows[i + 1][j - 1])
                rows[i].append(self.node[f"{i}_{j}"](torch.cat([*rows[i], lifted], dim=1)))
        return rows[0]


def mean_logits(logits: list[torch.Tensor]) -> torch.Tensor:
    """Logits whose softmax (sigmoid for one logit) is the mean of those of `logits`, each [N, C, H, W]; float32."""
    stacked = torch.stack(logits).float()
    if stacked.shape[2] == 1:
        return functional.logsigmoid(stacked).logsumexp(dim=0) - functional.logsigmoid(-stacked).logsumexp(dim=0)
    return functional.log_softmax(stacked, dim=2).logsumexp(dim=0) - math.log(len(logits))
