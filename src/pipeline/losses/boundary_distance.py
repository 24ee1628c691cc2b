"""Boundary loss (Kervadec et al. 2019): probabilities times the signed distance to the true boundary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.losses._distance import derive_signed_distance, split_target, target_maps
from pipeline.losses.target import IGNORE, check_weights, mean_over_classes, probabilities, weights_of

TARGETS = ("signed_distance",)
DERIVE = {"signed_distance": derive_signed_distance}
SIGNED = True


def build(*, clamp_px: float = 128.0, class_weights: list[float] | None = None, ignore_index: int = 255) -> nn.Module:
    """Boundary loss (1/C) Σ_c mean of D_c · s_c over the pixels that count.

    s is the softmax (the sigmoid for one logit, of class 1) and D_c the signed distance to the boundary of class c,
    negative inside, clamped to ±128 px and divided by 128 as in the medical thesis. On the pixel grid |D_c| is the
    Euclidean distance to the nearest pixel of the other side, so that an edge lies between −1 and 1 px. A class that
    fills an image or is absent from it has no boundary there: its D_c is 0 and nothing pulls, which is why the loss is
    combined with one of regions (`weighted_sum`). Values run from −1 to 1 and are below 0 at good predictions.

    Args:
        clamp_px: bound of the distances in px, which they are divided by too; above 0.
        class_weights: a weight per class for the mean over classes; None weighs all alike.
        ignore_index: one more value of the target that is ignored, besides 255. The distances computed before
            training know of 255 alone, so with another value they are computed in every step.

    Raises:
        ConfigError: when clamp_px is not above 0 or a weight is below 0.
    """
    if clamp_px <= 0:
        raise ConfigError(f"loss boundary_distance: clamp_px {clamp_px} is not above 0")
    weights = check_weights("boundary_distance", class_weights)
    return BoundaryDistance(clamp_px, weights, ignore_index)


class BoundaryDistance(nn.Module):
    """The module behind `build`."""

    def __init__(
        self, clamp_px: float, class_weights: Sequence[float] | None = None, ignore_index: int = IGNORE
    ) -> None:
        super().__init__()
        self.clamp_px = clamp_px
        self.class_weights = class_weights
        self.ignore_index = ignore_index

    def forward(self, logits: torch.Tensor, target: torch.Tensor | dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the scalar loss of logits [N, C, H, W].

        `target` is {"mask": [N, H, W] int64, "signed_distance": [N, C, H, W] float in px}, as training gives it, or
        the mask alone: then the distances are computed here, which takes many times as long.
        """
        with torch.autocast(logits.device.type, enabled=False):
            mask, maps = split_target("boundary_distance", logits, target)
            probability, _, valid = probabilities(logits, mask, self.ignore_index)
            if maps is None or self.ignore_index != IGNORE:
                maps = target_maps(mask, valid, probability)
            pull = maps.to(probability.dtype).clamp(-self.clamp_px, self.clamp_px) / self.clamp_px
            means = (probability * pull).sum((0, 2, 3)) / valid.sum().clamp_min(1)
            weights = weights_of("boundary_distance", self.class_weights, logits.shape[1], means, per_pixel=False)
            return mean_over_classes(means, weights)
