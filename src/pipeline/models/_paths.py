"""An encoder and a decoder with skips, made from one description: what `unet` and `double_unet` are built of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.models._attention import AttentionGate
from pipeline.models._blocks import AtrousPyramid, Norm, PyramidPooling, double_conv, resize, upsample

DEEP = 2  # levels above the bottleneck that count as deep


@dataclass(frozen=True)
class Design:
    """What the levels of an encoder-decoder network are made of; `unet.build` says what each value means."""

    width: int
    depth: int
    norm: Norm
    dropout: float = 0.0
    dropout_at: str = "all"
    residual: bool = False
    se_levels: int = 0
    se_ratio: int = 16
    bottleneck: str = "block"
    dilation: int = 2
    aspp_rates: Sequence[int] = (6, 12, 18)
    attention: bool = False
    up: str = "transposed"

    def channels(self, level: int) -> int:
        """Channels of a level, 0 at full size."""
        return int(self.width * 2**level)

    def block(self, level: int, before: int, *, decoder: bool = False) -> nn.Sequential:
        """The block of a level of the encoder or the decoder; the encoder's last one is the bottleneck."""
        after, last = self.channels(level), level == self.depth - 1
        if last and self.bottleneck in ("aspp", "pyramid"):
            if self.bottleneck == "aspp":
                module: nn.Module = AtrousPyramid(before, after, self.norm, self.aspp_rates)
            else:
                module = PyramidPooling(before, after, self.norm)
            return nn.Sequential(module, *([nn.Dropout(self.dropout)] if self.dropout else []))
        from_bottom = self.depth - 1 - level
        drops = self.dropout_at == "all" or (from_bottom <= DEEP and not decoder)
        return double_conv(
            before,
            after,
            self.norm,
            dilation=self.dilation if last and self.bottleneck == "dilated" else 1,
            residual=self.residual,
            se_ratio=self.se_ratio if 1 <= from_bottom <= self.se_levels else 0,
            dropout=self.dropout if drops else 0.0,
        )


def check_design(model: str, *, depth: int, se_levels: int, se_ratio: int, dilation: int, rates: Sequence[int]) -> None:
    """ConfigError for a value out of range that `check_common` does not know."""
    if not 0 <= se_levels < depth:
        raise ConfigError(f"model {model}: se_levels {se_levels} is not in 0 to {depth - 1}, one below depth")
    if se_ratio < 1 or dilation < 1:
        raise ConfigError(f"model {model}: se_ratio {se_ratio} and dilation {dilation} must be 1 or more")
    whole = all(isinstance(rate, int) and not isinstance(rate, bool) and rate > 0 for rate in rates)
    if not rates or not whole:
        raise ConfigError(f"model {model}: aspp_rates must be whole numbers above 0, got {list(rates)}")


class Features(NamedTuple):
    """Feature maps: `skips` from full size down, `decoded` from the bottleneck up to full size."""

    skips: list[torch.Tensor]
    decoded: list[torch.Tensor]


class Gates(nn.Module):
    """Attention gates of the skips that meet at one level, one each."""

    def __init__(self, skip_sets: int, skip: int, below: int, norm: Norm) -> None:
        super().__init__()
        self.gates = nn.ModuleList(AttentionGate(skip, below, norm.momentum, norm.eps) for _ in range(skip_sets))

    def forward(self, skips: list[torch.Tensor], below: torch.Tensor) -> list[torch.Tensor]:
        """Return the weighted skips, each [N, skip, H, W], by what the level below [N, below, H/2, W/2] says."""
        return [gate(skip, below) for gate, skip in zip(self.gates, skips, strict=True)]


class Paths(nn.Module):
    """Encoder, bottleneck and decoder with skips; [N, in_channels, H, W] to `Features`, the last of `width` channels.

    Args:
        in_channels: channels of the input.
        design: what the levels are made of.
        skip_sets: how many skips meet at each level of the decoder: its own encoder's and those of other networks.
    """

    def __init__(self, in_channels: int, design: Design, skip_sets: int = 1) -> None:
        super().__init__()
        channels = design.channels
        before = [in_channels, *map(channels, range(design.depth - 1))]
        upwards = list(reversed(range(design.depth - 1)))
        self.pool = nn.MaxPool2d(2)
        self.encoder = nn.ModuleList(design.block(level, n) for level, n in enumerate(before))
        self.up = nn.ModuleList(upsample(design.up, channels(i + 1), channels(i), design.norm) for i in upwards)
        self.decoder = nn.ModuleList(design.block(i, (skip_sets + 1) * channels(i), decoder=True) for i in upwards)
        gated = upwards if design.attention else []
        self.gates = nn.ModuleList(Gates(skip_sets, channels(i), channels(i + 1), design.norm) for i in gated)

    def features(self, image: torch.Tensor, others: Sequence[list[torch.Tensor]] = ()) -> Features:
        """Return the maps of `image`; `others` are the skips of other networks, after the own in the concatenation."""
        skips: list[torch.Tensor] = []
        x = self.encoder[0](image)
        for level in self.encoder[1:]:
            skips.append(x)
            x = level(self.pool(x))
        decoded = [x]
        for step, (up, level) in enumerate(zip(self.up, self.decoder, strict=True)):
            index = len(skips) - 1 - step
            met = [skips[index], *(other[index] for other in others)]
            if self.gates:
                met = self.gates[step](met, x)
            x = level(torch.cat([*met, up(x)], dim=1))
            decoded.append(x)
        return Features(skips, decoded)


def outputs(mask: torch.Tensor, others: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Logits of training with auxiliary outputs: "mask" [N, C, H, W], then "aux_1", … resized to the same."""
    return {"mask": mask} | {f"aux_{i}": resize(other, mask) for i, other in enumerate(others, 1)}
