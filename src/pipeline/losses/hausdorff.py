"""Hausdorff distance loss by distance transforms (Karimi and Salcudean 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.losses._distance import derive_signed_distance, split_target, target_maps
from pipeline.losses.target import IGNORE, check_weights, mean_over_classes, probabilities, weights_of

TARGETS = ("signed_distance",)
DERIVE = {"signed_distance": derive_signed_distance}
TWO_CLASSES_ALIKE = True


def build(
    *,
    alpha: float = 2.0,
    unit_px: float = 1.0,
    class_weights: list[float] | None = None,
    ignore_index: int = 255,
) -> nn.Module:
    """Hausdorff loss (1/C) Σ_c mean of (p_c − g_c)² (d_g^α + d_p^α) over the pixels that count.

    p is the softmax (the sigmoid for one logit, of class 1) and g the one-hot target; d_g and d_p are the unsigned
    Euclidean distances in px to the boundaries of the true and of the predicted region, computed as the distance to
    the nearest pixel of the other side. Predicted is the class with the greatest logit (one logit: p above ½), and d_p
    takes no gradient. A region that fills an image or is empty has no boundary: its distances are 0.

    d_g is computed before training; d_p has to be in every step.

    Args:
        alpha: exponent α, above 0; the paper found 2 best.
        unit_px: distances are counted in units of this many px, which divides the loss by unit_px^α: 1 is the paper's
            loss, whose value grows with the square of the mistakes' reach. With the reach that mistakes usually have,
            the loss is of the order of the share of wrong pixels, as those of regions are.
        class_weights: a weight per class for the mean over classes; None weighs all alike.
        ignore_index: one more value of the target that is ignored, besides 255. The distances computed before
            training know of 255 alone, so with another value those of the target too are computed in every step.

    Raises:
        ConfigError: when α or unit_px is not above 0 or a weight is below 0.
    """
    if alpha <= 0 or unit_px <= 0:
        raise ConfigError(f"loss hausdorff: alpha {alpha} and unit_px {unit_px} must be above 0")
    return Hausdorff(alpha, unit_px, check_weights("hausdorff", class_weights), ignore_index)


class Hausdorff(nn.Module):
    """The module behind `build`."""

    def __init__(
        self, alpha: float, unit_px: float, class_weights: Sequence[float] | None = None, ignore_index: int = IGNORE
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.unit_px = unit_px
        self.class_weights = class_weights
        self.ignore_index = ignore_index

    def forward(self, logits: torch.Tensor, target: torch.Tensor | dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the scalar loss of logits [N, C, H, W].

        `target` is {"mask": [N, H, W] int64, "signed_distance": [N, C, H, W] float in px}, as training gives it, or
        the mask alone: then the target's distances too are computed here.
        """
        with torch.autocast(logits.device.type, enabled=False):
            mask, maps = split_target("hausdorff", logits, target)
            probability, truth, valid = probabilities(logits, mask, self.ignore_index)
            if maps is None or self.ignore_index != IGNORE:
                maps = target_maps(mask, valid, probability)
            reach = self._power(maps.to(probability.dtype)) + self._power(_predicted_maps(logits, valid, probability))
            means = ((probability - truth) ** 2 * reach).sum((0, 2, 3)) / valid.sum().clamp_min(1)
            weights = weights_of("hausdorff", self.class_weights, logits.shape[1], means, per_pixel=False)
            return mean_over_classes(means, weights)

    def _power(self, maps: torch.Tensor) -> torch.Tensor:
        """d^α of signed distances."""
        return (maps.abs() / self.unit_px) ** self.alpha


@torch.no_grad()
def _predicted_maps(logits: torch.Tensor, valid: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Signed distance maps [N, C, H, W] of the predicted regions."""
    labels = (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)
    return target_maps(labels, valid, like)
