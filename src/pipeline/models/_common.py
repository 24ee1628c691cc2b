"""What our own networks share: the check of an image, the papers' initial weights, checks of common parameters."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.errors import ConfigError, RunError

Convolution = nn.Conv2d | nn.ConvTranspose2d


def check_image(model: str, image: torch.Tensor, in_channels: int, stride_px: int, way_out: str = "") -> None:
    """RunError unless `image` [N, in_channels, H, W] has the right bands and sides that are multiples of the stride.

    Args:
        model: the network's name in configs.
        image: as `forward` got it.
        in_channels: bands that the network was made for.
        stride_px: what height and width must be multiples of.
        way_out: what else to change besides the chip's size, such as ``take a smaller depth``.
    """
    if image.ndim != 4:
        raise RunError(f"model {model}: the image has the shape {list(image.shape)}, not [N, {in_channels}, H, W]")
    bands, height, width = image.shape[1:]
    if bands != in_channels:
        raise RunError(f"model {model}: the image has {bands} bands, the network was made for {in_channels}")
    if height % stride_px or width % stride_px:
        hint = f" or {way_out}" if way_out else ""
        raise RunError(
            f"model {model}: image size {height} × {width} px is no multiple of {stride_px}; "
            f"change the chip's size{hint}"
        )


def check_common(
    model: str, *, width: int = 1, depth: int = 1, dropout: float = 0.0, bn_momentum: float = 0.1, bn_eps: float = 1e-5
) -> None:
    """ConfigError for a value out of range among the parameters that most networks have."""
    if width < 1 or depth < 1:
        raise ConfigError(f"model {model}: width {width} and depth {depth} must be 1 or more")
    if not 0 <= dropout < 1:
        raise ConfigError(f"model {model}: dropout {dropout} is not in 0 to below 1")
    if not 0 < bn_momentum <= 1 or bn_eps <= 0:
        raise ConfigError(f"model {model}: bn_momentum {bn_momentum} must be in 0 to 1, bn_eps {bn_eps} above 0")


def initialise(network: nn.Module, *last: Convolution) -> None:
    """He-normal convolutions (std √(2 / fan in)), zero biases, and Glorot-normal `last` ones, as Frankfurt's report."""
    for module in network.modules():
        if isinstance(module, Convolution):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for head in last:
        nn.init.xavier_normal_(head.weight)
