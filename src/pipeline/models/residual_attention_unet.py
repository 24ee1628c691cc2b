"""Residual Attention U-Net: the medical U-Net thesis's attention U-Net with residual blocks (Chen et al. 2020)."""

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
    """Residual Attention U-Net: 37,326,344 trainable parameters with the defaults, 3 bands and 4 classes.

    `attention_unet` with residual blocks in encoder and decoder: y = ReLU(F(x) + S(x)), F a 3×3 conv-BN-ReLU and a 3×3
    conv-BN, S a 1×1 conv-BN, or x itself where the channels stay. The thesis names residual blocks without their form;
    this is the one of He et al. (2015). Chen et al. take grouped ("aggregated") ones.

    The thesis's first experiment has the defaults, its second dropout 0.5 and init he_normal.

    Args:
        in_channels: bands of the image.
        classes: logits per pixel.
        width: channels of the first level; level i has width · 2^i.
        depth: levels, 1 or more; height and width of the image must be multiples of 2^(depth − 1) px.
        dropout: share of values dropped after each convolution of a block; 0 to below 1.
        init: initial weights: ``torch``'s own, or ``he_normal`` by fan in with zero biases.
        bn_momentum: share of the newest batch in the running statistics.
        bn_eps: ε of the batch norm.

    Raises:
        ConfigError: when a parameter is out of range.
        RunError: (when called) for an image whose size or bands do not fit.
    """
    return gated_unet(
        "residual_attention_unet",
        in_channels=in_channels,
        classes=classes,
        residual=True,
        width=width,
        depth=depth,
        dropout=dropout,
        init=init,
        bn_momentum=bn_momentum,
        bn_eps=bn_eps,
    )
