"""Attention U-Net (Oktay et al. 2018) in the form of the medical U-Net thesis."""

from __future__ import annotations

from typing import Literal

from torch import nn

from pipeline.models._gated_unet import gated_unet

ENCODER = ("encoder",)
SMALL = {"width": 4}


def build(
    *,
    in_channels: int,
    classes: int,
    width: int = 64,
    depth: int = 5,
    dropout: float = 0.0,
    init: Literal["torch", "he_normal"] = "torch",
    bn_momentum: float = 0.1,
    bn_eps: float = 1e-5,
) -> nn.Module:
    """Attention U-Net: 35,924,680 trainable parameters with the defaults, 3 bands and 4 classes.

    Each level holds a block of two 3×3 conv-BN-ReLU. Down: 2×2 max pool, twice the channels. Up, from y of the level
    below and the skip x: (U(y) | α·x), U nearest neighbours ×2 and a 3×3 conv-BN-ReLU to half the channels, and
    α = resample(σ(ψ·ReLU(W_x·x + W_g·GS(y) + b_g) + b_ψ)) one weight per pixel of x, GS a 1×1 conv-BN-ReLU to the
    channels of x (see `_attention.AttentionGate`). A 1×1 convolution ends it. Every convolution but W_x has a bias.

    Args:
        in_channels: bands of the image.
        classes: logits per pixel.
        width: channels of the first level; level i has width · 2^i.
        depth: levels, 1 or more; height and width of the image must be multiples of 2^(depth − 1) px.
        dropout: share of values dropped after each convolution of a block (the thesis's second experiment: 0.5); 0 to
            below 1.
        init: initial weights: ``torch``'s own (the thesis's first experiment), or ``he_normal`` by fan in with zero
            biases (its second).
        bn_momentum: share of the newest batch in the running statistics.
        bn_eps: ε of the batch norm.

    Raises:
        ConfigError: when a parameter is out of range.
        RunError: (when called) for an image whose size or bands do not fit.
    """
    return gated_unet(
        "attention_unet",
        in_channels=in_channels,
        classes=classes,
        residual=False,
        width=width,
        depth=depth,
        dropout=dropout,
        init=init,
        bn_momentum=bn_momentum,
        bn_eps=bn_eps,
    )
