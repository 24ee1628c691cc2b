"""Soft Jaccard loss over a whole batch, as the Frankfurt report computed it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.losses.target import (
    IGNORE,
    check_smoothing,
    check_weights,
    mean_over_classes,
    probabilities,
    weights_of,
)


def build(
    *,
    eps: float = 1e-5,
    class_weights: list[float] | None = None,
    ignore_index: int = 255,
    label_smoothing: float = 0.0,
) -> nn.Module:
    """Jaccard loss 1 − (1/C) Σ_c (I_c + ε) / (U_c + ε).

    I_c = Σ p_c y_c and U_c = Σ p_c + Σ y_c − I_c run over all pixels of the batch that count; p is the softmax (the
    sigmoid for one logit), y the one-hot target. A class that is absent from the target still counts.

    Args:
        eps: ε, above 0.
        class_weights: a weight per class for the mean over classes; None weighs all alike.
        ignore_index: one more value of the target that is ignored, besides 255.
        label_smoothing: λ, 0 or more and below 1: y becomes (1 − λ) y + λ / C, with one logit (1 − λ) y + λ / 2.

    Raises:
        ConfigError: when ε, λ or a weight is out of range.
    """
    if eps <= 0:
        raise ConfigError(f"loss jaccard: eps {eps} is not above 0")
    smoothing = check_smoothing("jaccard", label_smoothing)
    return Jaccard(eps, check_weights("jaccard", class_weights), ignore_index, smoothing)


class Jaccard(nn.Module):
    """The module behind `build`."""

    def __init__(
        self,
        eps: float,
        class_weights: Sequence[float] | None = None,
        ignore_index: int = IGNORE,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.class_weights = class_weights
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of logits [N, C, H, W] and target [N, H, W] int64."""
        with torch.autocast(logits.device.type, enabled=False):
            probability, truth, _ = probabilities(logits, target, self.ignore_index, self.label_smoothing)
            pixels = (0, 2, 3)
            intersection = (probability * truth).sum(pixels)
            union = probability.sum(pixels) + truth.sum(pixels) - intersection
            scores = (intersection + self.eps) / (union + self.eps)
            weights = weights_of("jaccard", self.class_weights, logits.shape[1], scores, per_pixel=False)
            return 1 - mean_over_classes(scores, weights)
