"""Focal loss (Lin et al. 2017), in the categorical form that the Frankfurt report used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.losses.target import IGNORE, check_smoothing, check_weights, prepare, smoothed, weights_of


def build(
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reduction: Literal["classes", "pixels"] = "classes",
    class_weights: list[float] | None = None,
    ignore_index: int = 255,
    label_smoothing: float = 0.0,
) -> nn.Module:
    """Focal loss FL = mean of −α (1 − p)^γ log p over the pixels that count, p the probability of the true class.

    With C > 1 classes p comes from a softmax and α weighs every class alike. With one logit p comes from a sigmoid,
    and α weighs class 1, 1 − α class 0 (equation 5 of the paper).

    Args:
        alpha: weight α, 0 to 1.
        gamma: focusing exponent γ, 0 or more; 0 gives α times the cross entropy.
        reduction: ``classes`` is the report's mean over batch, pixels and classes, of which all but the true class
            contribute 0, that is 1/C of the mean over pixels; ``pixels`` is the mean over batch and pixels.
        class_weights: a weight per class (two for one logit, background first): each pixel takes its true class's,
            and the mean over pixels is the weighted one. None weighs all alike.
        ignore_index: one more value of the target that is ignored, besides 255.
        label_smoothing: λ, 0 or more and below 1: the term of the true class becomes the sum over classes c of
            −α q_c (1 − p_c)^γ log p_c, where q_c is (1 − λ) for the true class and 0 for the others, plus λ / C, with
            one logit λ / 2. Each class's term takes the class's own α and weight.

    Raises:
        ConfigError: when α, γ, λ or a weight is out of range.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"loss focal: alpha {alpha} is not between 0 and 1")
    if gamma < 0:
        raise ConfigError(f"loss focal: gamma {gamma} is below 0")
    smoothing = check_smoothing("focal", label_smoothing)
    return Focal(alpha, gamma, reduction, check_weights("focal", class_weights), ignore_index, smoothing)


class Focal(nn.Module):
    """The module behind `build`."""

    def __init__(
        self,
        alpha: float,
        gamma: float,
        reduction: str,
        class_weights: Sequence[float] | None = None,
        ignore_index: int = IGNORE,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma
        self.reduction = reduction
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
                positive = target == 1
                score = logits.squeeze(1)
                log_p = functional.logsigmoid(torch.where(positive, score, -score))
                weight = torch.full_like(log_p, 1 - self.alpha).masked_fill(positive, self.alpha)
            else:
                log_p = functional.log_softmax(logits, dim=1).gather(1, target.unsqueeze(1)).squeeze(1)
                weight = torch.full_like(log_p, self.alpha)
            # 1 - p from log p keeps its digits near p = 1; the floor keeps the slope finite there when gamma < 1
            rest = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
            loss = (-weight * rest**self.gamma * log_p).masked_fill(~valid, 0.0)
            share = valid.to(loss.dtype)
            weights = weights_of("focal", self.class_weights, logits.shape[1], loss, per_pixel=True)
            if weights is not None:
                share = share * weights[target]
            total = share.sum()
            mean = (loss * share).sum() / total.masked_fill(total == 0, 1)
            return mean / logits.shape[1] if self.reduction == "classes" else mean

    def _smoothed(self, logits: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """The loss with label smoothing, from the terms of all classes [N, C, H, W]; one logit has those of two."""
        channels = logits.shape[1]
        weights = weights_of("focal", self.class_weights, channels, logits, per_pixel=True)
        if channels == 1:
            log_p = functional.logsigmoid(torch.cat([-logits, logits], dim=1))
            factor = logits.new_tensor([1 - self.alpha, self.alpha])
        else:
            log_p = functional.log_softmax(logits, dim=1)
            factor = logits.new_full((channels,), self.alpha)
        truth = torch.zeros_like(log_p).scatter_(1, target.unsqueeze(1), 1.0)
        factor = factor if weights is None else factor * weights
        share = factor.view(1, -1, 1, 1) * smoothed(truth, valid.unsqueeze(1), self.label_smoothing)
        rest = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
        loss = (-share * rest**self.gamma * log_p).masked_fill(~valid.unsqueeze(1), 0.0).sum()
        total = (valid if weights is None else valid * weights[target]).sum()
        mean = torch.where(total == 0, 0.0, loss / total.masked_fill(total == 0, 1))
        return mean / channels if self.reduction == "classes" else mean
