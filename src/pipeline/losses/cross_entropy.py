"""Cross entropy over pixels, with class weights; binary with logits where the network has one logit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from pipeline.losses.target import IGNORE, check_smoothing, check_weights, prepare, weights_of


def build(
    *, class_weights: list[float] | None = None, ignore_index: int = 255, label_smoothing: float = 0.0
) -> nn.Module:
    """Cross entropy −Σ_i w_i log p_i / Σ_i w_i over the pixels i that count, p_i the probability of the true class.

    p comes from a softmax, with one logit from a sigmoid; w_i is the weight of the pixel's true class. Weights are
    relative: the binary cross entropy that gives positive pixels the weight 0.7 is ``class_weights: [0.3, 0.7]``.

    Args:
        class_weights: a weight per class (two for one logit, background first); None weighs all alike.
        ignore_index: one more value of the target that is ignored, besides 255.
        label_smoothing: λ, 0 or more and below 1: −w_i log p_i becomes −Σ_c w_c q_c log p_c, where q_c is (1 − λ) for
            the true class and 0 for the others, plus λ / C, with one logit λ / 2. The sum below stays Σ_i w_i, of the
            true classes, as in torch.

    Raises:
        ConfigError: when λ is out of range, or a weight is below 0 or none is above.
    """
    smoothing = check_smoothing("cross_entropy", label_smoothing)
    return CrossEntropy(check_weights("cross_entropy", class_weights), ignore_index, smoothing)


class CrossEntropy(nn.Module):
    """The module behind `build`."""

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        ignore_index: int = IGNORE,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.class_weights = class_weights
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of logits [N, C, H, W] and target [N, H, W] int64."""
        with torch.autocast(logits.device.type, enabled=False):
            logits, target, valid = prepare(logits, target, self.ignore_index)
            if self.label_smoothing:
                return self._smoothed(logits, target, valid)
            if logits.shape[1] == 1:
                positive = target.to(logits.dtype)
                loss = functional.binary_cross_entropy_with_logits(logits.squeeze(1), positive, reduction="none")
            else:
                loss = functional.cross_entropy(logits, target, reduction="none")
            share = valid.to(loss.dtype)
            weights = weights_of("cross_entropy", self.class_weights, logits.shape[1], loss, per_pixel=True)
            if weights is not None:
                share = share * weights[target]
            total = share.sum()
            return (loss.masked_fill(~valid, 0.0) * share).sum() / total.masked_fill(total == 0, 1)

    def _smoothed(self, logits: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """The loss with label smoothing; one logit z is the pair (0, z)."""
        weights = weights_of("cross_entropy", self.class_weights, logits.shape[1], logits, per_pixel=True)
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        loss = functional.cross_entropy(
            logits, target, weights, reduction="none", label_smoothing=self.label_smoothing
        ).masked_fill(~valid, 0.0)
        total = (valid if weights is None else valid * weights[target]).sum()
        return torch.where(total == 0, 0.0, loss.sum() / total.masked_fill(total == 0, 1))
