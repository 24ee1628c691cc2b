"""FCN-8s, the fully convolutional VGG16 (Long et al. 2015), baseline of the medical U-Net thesis."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.models._blocks import Norm, NormOf, conv
from pipeline.models._common import check_common, check_image, initialise

ENCODER = ("stages", "fully")
SMALL = {"width": 4, "fc_width": 16}

STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # VGG16: channels by width, convolutions; each ends with a pool
STRIDE_PX = 32


def build(
    *,
    in_channels: int,
    classes: int,
    width: int = 64,
    fc_width: int = 4096,
    dropout: float = 0.5,
    batch_norm: bool = False,
    bn_momentum: float = 0.1,
    bn_eps: float = 1e-5,
) -> nn.Module:
    """FCN-8s: 134,284,620 trainable parameters with the defaults, 3 bands and 4 classes; 537 MB of weights.

    VGG16's thirteen 3×3 conv-ReLU in five stages with 2×2 max pools between and after them (14,714,688 parameters for
    3 bands), its two fully connected layers as 7×7 and 1×1 conv-ReLU-dropout, then 1×1 scores s₅. With T₂ and T₈
    transposed convolutions of stride 2 (4×4) and 8 (16×16), and s₃, s₄ 1×1 scores of pools 3 and 4:

        logits = T₈(T₂'(T₂(s₅) + s₄) + s₃)

    Transposed convolutions start as bilinear interpolation and learn; Long et al. fix the last one. They start the
    scores at zero on pretrained weights; here training starts from random weights, so the scores start Glorot-normal,
    all other convolutions He-normal.

    An image is padded with zeros at its bottom and right to multiples of 32 px and the logits are cut to its size;
    Long et al. pad by 100 px all around instead and cut from the middle.

    Args:
        in_channels: bands of the image.
        classes: logits per pixel.
        width: channels of the first stage; the others have 2, 4, 8 and 8 times as many.
        fc_width: channels of the two layers that were fully connected; most parameters are theirs.
        dropout: share of values dropped after each of the two; 0 to below 1.
        batch_norm: whether batch norm follows each of VGG16's 3×3 convolutions, as training from random weights likes.
        bn_momentum: share of the newest batch in the running statistics.
        bn_eps: ε of the batch norm.

    Raises:
        ConfigError: when a parameter is out of range.
        RunError: (when called) for an image with other bands.
    """
    check_common("fcn8s", width=width, dropout=dropout, bn_momentum=bn_momentum, bn_eps=bn_eps)
    if fc_width < 1:
        raise ConfigError(f"model fcn8s: fc_width {fc_width} must be 1 or more")
    norm = Norm(bn_momentum, bn_eps) if batch_norm else nn.Identity
    return FCN8s(in_channels, classes, width, fc_width, dropout, norm)


class FCN8s(nn.Module):
    """The module behind `build`: images [N, in_channels, H, W] to logits [N, classes, H, W]."""

    def __init__(self, in_channels: int, classes: int, width: int, fc_width: int, dropout: float, norm: NormOf) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.stages = nn.ModuleList()
        before = in_channels
        for factor, count in STAGES:
            parts: list[nn.Module] = []
            for _ in range(count):
                parts += conv(before, factor * width, norm)
                before = factor * width
            self.stages.append(nn.Sequential(*parts, nn.MaxPool2d(2)))
        self.fully = nn.Sequential(
            *(nn.Conv2d(before, fc_width, 7, padding=3), nn.ReLU(inplace=True), nn.Dropout(dropout)),
            *(nn.Conv2d(fc_width, fc_width, 1), nn.ReLU(inplace=True), nn.Dropout(dropout)),
        )
        self.score3 = nn.Conv2d(STAGES[2][0] * width, classes, 1)
        self.score4 = nn.Conv2d(STAGES[3][0] * width, classes, 1)
        self.score5 = nn.Conv2d(fc_width, classes, 1)
        self.up5 = nn.ConvTranspose2d(classes, classes, 4, stride=2, padding=1, bias=False)
        self.up4 = nn.ConvTranspose2d(classes, classes, 4, stride=2, padding=1, bias=False)
        self.up3 = nn.ConvTranspose2d(classes, classes, 16, stride=8, padding=4, bias=False)
        initialise(self, self.score3, self.score4, self.score5)
        for up in (self.up5, self.up4, self.up3):
            set_bilinear(up)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits [N, classes, H, W] of images [N, in_channels, H, W]."""
        check_image("fcn8s", image, self.in_channels, 1)
        height, width = image.shape[2:]
        x = functional.pad(image, (0, -width % STRIDE_PX, 0, -height % STRIDE_PX))
        pools: list[torch.Tensor] = []
        for stage in self.stages:
            x = stage(x)
            pools.append(x)
        scores = self.up5(self.score5(self.fully(x))) + self.score4(pools[3])
        scores = self.up4(scores) + self.score3(pools[2])
        logits: torch.Tensor = self.up3(scores)[:, :, :height, :width]
        return logits


def set_bilinear(up: nn.ConvTranspose2d) -> None:
    """Make a transposed convolution of kernel 2s and stride s interpolate each channel by itself, bilinearly."""
    size, stride = up.kernel_size[0], up.stride[0]
    ramp = 1 - (torch.arange(size) - (size - 1) / 2).abs() / stride
    with torch.no_grad():
        up.weight.zero_()
        for channel in range(up.in_channels):
            up.weight[channel, channel] = torch.outer(ramp, ramp)
