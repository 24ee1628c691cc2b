"""What ResUNet-a is built of: residual blocks with atrous branches, pyramid pooling, the step up, the heads."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

Norm = Callable[[int], nn.Module]


def normed(before: int, after: int, norm: Norm, kernel: int = 1) -> nn.Sequential:
    """Conv2DN of the paper: a convolution without bias, which the batch norm behind it would cancel."""
    return nn.Sequential(nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False), norm(after))


class ResBlockA(nn.Module):
    """ResBlock-a (Fig. 1b): x + Σ_d branch_d(x), branch_d = BN-ReLU-conv3×3(d)-BN-ReLU-conv3×3(d).

    The second convolution of a branch has a bias, since no batch norm follows it.
    """

    def __init__(self, channels: int, dilations: Sequence[int], norm: Norm) -> None:
        super().__init__()

        def branch(dilation: int) -> nn.Sequential:
            layers: dict[str, nn.Module] = {}
            for place in (1, 2):
                layers[f"norm{place}"], layers[f"relu{place}"] = norm(channels), nn.ReLU(inplace=True)
                layers[f"conv{place}"] = nn.Conv2d(
                    channels, channels, 3, padding=dilation, dilation=dilation, bias=place == 2
                )
            return nn.Sequential(OrderedDict(layers))

        self.branches = nn.ModuleList(map(branch, dilations))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, channels, H, W] of [N, channels, H, W]."""
        total = x
        for branch in self.branches:
            total = total + branch(x)
        return total

    def even_out(self) -> None:
        """Divide the last weights of n branches by √n: He-normal for their sum, whose fan in is all branches'."""
        with torch.no_grad():
            for branch in self.branches:
                branch.get_parameter("conv2.weight").div_(math.sqrt(len(self.branches)))


class Down(nn.Module):
    """Half the size: a convolution of stride 2 with a kernel of 3 × 3 px or, as a choice of every second pixel, of 1.

    The choice is made before the convolution, which is the same: on the CPU, the weight gradient of a 1×1 convolution
    of stride 2 writes past its memory for few channels in channels-last (torch 2.14 with oneDNN).
    """

    def __init__(self, before: int, after: int, kernel: int) -> None:
        super().__init__()
        self.choice = 2 if kernel == 1 else 1
        self.conv = nn.Conv2d(before, after, kernel, stride=2 // self.choice, padding=kernel // 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, after, H / 2, W / 2] of [N, before, H, W]."""
        halved: torch.Tensor = self.conv(x[..., :: self.choice, :: self.choice])
        return halved


class PyramidPooling(nn.Module):
    """PSPPooling (Fig. 1c): max pools over 1, 4, 16, … partitions of the map, each to after // scales channels.

    Each pooled map goes through a 1×1 convolution and is widened to the map's size (nearest), then normed; input and
    pyramid together become `after` channels by a 1×1 convolution with batch norm. Height and width must be multiples of
    2^(scales − 1).

    Each scale pools the next finer one's result, which is the same and looks at each pixel once. The batch norm comes
    after the widening: over the global maxima alone one chip would give it no variance, and few chips a running one far
    too large.
    """

    def __init__(self, before: int, after: int, scales: int, norm: Norm) -> None:
        super().__init__()
        each = after // scales
        self.finest = 2 ** (scales - 1)
        self.reduce = nn.ModuleList(nn.Conv2d(before, each, 1, bias=False) for _ in range(scales))  # coarse to fine
        self.norms = nn.ModuleList(norm(each) for _ in range(scales))
        self.merge = normed(before + scales * each, after, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, after, H, W] of [N, before, H, W]."""
        size = x.shape[-2:]
        pooled = functional.max_pool2d(x, (size[0] // self.finest, size[1] // self.finest))
        pyramid: list[torch.Tensor] = []
        for reduce, norm in zip(reversed(self.reduce), reversed(self.norms), strict=True):
            if pyramid:
                pooled = functional.max_pool2d(pooled, 2)
            pyramid.append(norm(functional.interpolate(reduce(pooled), size, mode="nearest")))
        merged: torch.Tensor = self.merge(torch.cat([x, *reversed(pyramid)], dim=1))
        return merged


class PooledMiddle(nn.Module):
    """The middle of d7v1 (Table 3, C to F): 2×2 max pool, widened again, beside the input, 1×1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.merge = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, channels, H, W] of [N, channels, H, W]; height and width must be even."""
        pooled = functional.interpolate(functional.max_pool2d(x, 2), x.shape[-2:], mode="nearest")
        merged: torch.Tensor = self.merge(torch.cat([pooled, x], dim=1))
        return merged


class UpCombine(nn.Module):
    """UpSample and Combine (Table 2): nearest ×2 to channels // 2, ReLU, beside the skip, 1×1 convolution with BN.

    The 1×1 convolution and its batch norm stand before the widening: widening repeats pixels, so the result is the same
    at a quarter of the work (only the running variance counts a quarter of the pixels).
    """

    def __init__(self, before: int, channels: int, norm: Norm) -> None:
        super().__init__()
        self.up = normed(before, channels // 2, norm)
        self.merge = normed(channels // 2 + channels, channels, norm)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Return [N, channels, 2H, 2W] of [N, before, H, W] and the skip [N, channels, 2H, 2W]."""
        widened = functional.interpolate(self.up(x).relu(), scale_factor=2, mode="nearest")
        merged: torch.Tensor = self.merge(torch.cat([widened, skip], dim=1))
        return merged


class MaskHead(nn.Module):
    """Layers 30 and 31 of Table 1: pyramid pooling with ReLU, then a 1×1 convolution to the classes."""

    def __init__(self, width: int, classes: int, shared: nn.Module) -> None:
        super().__init__()
        self.shared = shared
        self.mask = nn.Conv2d(width, classes, 1)

    @property
    def last(self) -> list[nn.Conv2d]:
        """Convolutions whose results are logits."""
        return [self.mask]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits [N, classes, H, W] of the stem beside the last decoder block [N, 2 width, H, W]."""
        logits: torch.Tensor = self.mask(self.shared(features).relu())
        return logits


class MultiTaskHead(nn.Module):
    """The four tasks of Fig. 2: each by itself (mtsk), or boundary and mask `conditioned` on those before them.

    Distance and colour read the features without pyramid pooling, whose squares regression would show. Conditioned, the
    boundary reads the pooled features and the distance, the mask these and the boundary; what is passed on is the
    activated prediction (distance: softmax over the classes, sigmoid for one; boundary: sigmoid), as in the released
    code, and gradients flow through it.
    """

    def __init__(self, width: int, classes: int, shared: nn.Module, conditioned: bool, norm: Norm) -> None:
        super().__init__()

        def head(before: int, layers: int, after: int) -> nn.Sequential:
            parts: list[nn.Module] = []
            for layer in range(layers):
                parts += [*normed(before if layer == 0 else width, width, norm, kernel=3), nn.ReLU(inplace=True)]
            return nn.Sequential(*parts, nn.Conv2d(width if layers else before, after, 1))

        known = classes if conditioned else 0
        self.conditioned = conditioned
        self.shared = shared
        self.distance = head(2 * width, 2, classes)
        self.boundary = head(width + known, 1, classes)
        self.mask = head(width + 2 * known, 2, classes)
        self.colour = head(2 * width, 0, 3)

    @property
    def last(self) -> list[nn.Conv2d]:
        """Convolutions whose results are logits."""
        found = [head[-1] for head in (self.mask, self.boundary, self.distance, self.colour)]
        return [layer for layer in found if isinstance(layer, nn.Conv2d)]

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the logits of the four tasks, of the stem beside the last decoder block [N, 2 width, H, W]."""
        shared = self.shared(features).relu()
        distance = self.distance(features)
        known: list[torch.Tensor] = []
        if self.conditioned:
            known = [distance.softmax(dim=1) if distance.shape[1] > 1 else distance.sigmoid()]
        boundary = self.boundary(torch.cat([shared, *known], dim=1))
        if self.conditioned:
            known = [boundary.sigmoid(), *known]
        mask = self.mask(torch.cat([shared, *known], dim=1))
        return {"mask": mask, "boundary": boundary, "distance": distance, "colour": self.colour(features)}
