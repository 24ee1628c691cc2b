"""Sensitivity-specificity loss over a whole batch, one of those that the boundary loss paper compares with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.losses._overlap import check_positive, soft_counts
from pipeline.losses.target import IGNORE, check_weights, mean_over_classes, probabilities, weights_of

OWN_WEIGHTS = True  # of two classes the second alone has a say
SMALL = {"specificity_weight": 0.25}  # at one half, two classes have the same score, whatever their weights


def build(
    *,
    specificity_weight: float = 0.5,
    eps: float = 1e-5,
    class_weights: list[float] | None = None,
    ignore_index: int = 255,
) -> nn.Module:
    """Loss 1 − (1/C) Σ_c [λ (TN_c + ε) / (TN_c + FP_c + ε) + (1 − λ) (TP_c + ε) / (TP_c + FN_c + ε)].

    TP = Σ p y, FN = Σ (1 − p) y, FP = Σ p (1 − y), TN = Σ (1 − p)(1 − y), each class against the rest, over all pixels
    of the batch that count; p is the softmax (the sigmoid for one logit), y the one-hot target. The paper is binary and
    does not give λ: λ = ½, which makes it one minus the balanced accuracy, and the mean over classes are this
    pipeline's. Of two classes the second is the positive one and counts alone, as it does with one logit: what is
    sensitivity for one is specificity for the other, so that λ would have no say in their mean.

    Args:
        specificity_weight: λ, 0 to 1; a small one favours sensitivity.
        eps: ε, above 0.
        class_weights: a weight per class for the mean over classes; None weighs all alike, or the second of two alone.
        ignore_index: one more value of the target that is ignored, besides 255.

    Raises:
        ConfigError: when λ, ε or a weight is out of range.
    """
    if not 0 <= specificity_weight <= 1:
        raise ConfigError(
            f"loss sensitivity_specificity: specificity_weight {specificity_weight} is not between 0 and 1"
        )
    check_positive("sensitivity_specificity", "eps", eps)
    weights = check_weights("sensitivity_specificity", class_weights)
    return SensitivitySpecificity(specificity_weight, eps, weights, ignore_index)


class SensitivitySpecificity(nn.Module):
    """The module behind `build`."""

    def __init__(
        self,
        specificity_weight: float,
        eps: float,
        class_weights: Sequence[float] | None = None,
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__()
        self.specificity_weight = specificity_weight
        self.eps = eps
        self.class_weights = class_weights
        self.ignore_index = ignore_index

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of logits [N, C, H, W] and target [N, H, W] int64."""
        with torch.autocast(logits.device.type, enabled=False):
            counts = soft_counts(*probabilities(logits, target, self.ignore_index))
            false_alarms = counts.fp / (counts.tn + counts.fp + self.eps)
            misses = counts.fn / (counts.tp + counts.fn + self.eps)
            loss = self.specificity_weight * false_alarms + (1 - self.specificity_weight) * misses
            weights = weights_of("sensitivity_specificity", self.class_weights, logits.shape[1], loss, per_pixel=False)
            if weights is None and loss.shape[1] == 2:
                loss = loss[:, 1:]
            return mean_over_classes(loss, weights).squeeze(0)
