"""Lovász loss (Berman et al. 2018): the convex closure of the Jaccard loss, as the medical thesis used it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from pipeline.losses.target import IGNORE, check_weights, prepare, weights_of


def build(
    *,
    form: Literal["error", "hinge"] = "error",
    classes: Literal["present", "all"] = "present",
    per: Literal["batch", "sample"] = "batch",
    class_weights: list[float] | None = None,
    ignore_index: int = 255,
) -> nn.Module:
    """Lovász loss (1/C) Σ_c f_J(m_c), f_J the Lovász extension of F_J(M) = |M| / |M ∪ P_c|.

    M is a set of wrong pixels and P_c that of class c's pixels, so that F_J is 1 − IoU. With the errors in falling
    order, m_π1 ≥ m_π2 ≥ …, f_J(m) = Σ_i m_πi (F_J({π1 … πi}) − F_J({π1 … πi−1})). At predictions of 0 and 1 the loss
    is 1 − IoU itself. The thesis's errors are m = |y − ŷ|, ŷ the softmax (the sigmoid for one logit).

    Args:
        form: ``error`` is the thesis's m = |y − ŷ|; ``hinge`` is m = max(0, 1 − z) for the pixels of the class and
            max(0, 1 + z) for the others, z the class's logit (one class against the rest, no softmax).
        classes: over which the mean runs: those ``present`` in the target, as Berman et al. train, or ``all``. An
            absent class has the largest error as its loss. One logit is always scored.
        per: whether the pixels of the ``batch`` make one set, or those of each ``sample`` with the mean over samples.
        class_weights: a weight per class for the mean over classes; None weighs all alike.
        ignore_index: one more value of the target that is ignored, besides 255.

    Raises:
        ConfigError: when a weight is below 0.
    """
    return Lovasz(form, classes, per, check_weights("lovasz", class_weights), ignore_index)


class Lovasz(nn.Module):
    """The module behind `build`."""

    def __init__(
        self,
        form: str,
        classes: str,
        per: str,
        class_weights: Sequence[float] | None = None,
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__()
        self.form = form
        self.classes = classes
        self.per = per
        self.class_weights = class_weights
        self.ignore_index = ignore_index

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of logits [N, C, H, W] and target [N, H, W] int64."""
        with torch.autocast(logits.device.type, enabled=False):
            logits, target, valid = prepare(logits, target, self.ignore_index)
            channels = logits.shape[1]
            first = 1 if channels == 1 else 0
            known = torch.arange(first, first + channels, device=target.device).view(1, -1, 1, 1)
            truth, mask = target.unsqueeze(1) == known, valid.unsqueeze(1)
            errors = self._errors(logits, truth).masked_fill(~mask, 0.0)
            sets = (self._sets(tensor) for tensor in (errors, truth & mask, mask.expand_as(truth)))
            scores, present, counted = _extension(*sets)
            if self.classes == "present" and channels > 1:
                counted = counted & present
            weights = weights_of("lovasz", self.class_weights, channels, scores, per_pixel=False)
            share = counted.to(scores.dtype) if weights is None else counted * weights
            total = share.sum(dim=1)
            samples = (scores * share).sum(dim=1) / total.masked_fill(total == 0, 1)
            return samples.sum() / (total > 0).sum().clamp_min(1)

    def _errors(self, logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Errors m [N, C, H, W], 0 or more."""
        if self.form == "hinge":
            return (1 - torch.where(truth, logits, -logits)).clamp_min(0)
        probability = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)
        return torch.where(truth, 1 - probability, probability)

    def _sets(self, tensor: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] as [sets, C, pixels]."""
        return tensor.transpose(0, 1).flatten(1).unsqueeze(0) if self.per == "batch" else tensor.flatten(2)


def _extension(
    errors: torch.Tensor, truth: torch.Tensor, valid: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """f_J over the last axis, whether truth has any pixel there, and whether any pixel counts.

    The steps of F_J along the falling errors are written out, since differences of its values near 1 have no digits
    left: with I = |P \\ M| and U = |P ∪ M| after the pixel, a pixel of P adds 1 / U, any other I / (U (U − 1)).
    """
    with torch.no_grad():
        order = errors.masked_fill(~valid, -1.0).sort(dim=-1, descending=True, stable=True).indices
        hit = truth.gather(-1, order)
        positives = truth.sum(dim=-1, keepdim=True)
        missed = hit.cumsum(dim=-1)
        rank = torch.arange(1, errors.shape[-1] + 1, device=errors.device)
        union = (positives + rank - missed).to(errors.dtype)
        rest = (positives - missed).to(errors.dtype)
        steps = torch.where(hit, 1 / union, rest / (union * (union - 1).clamp_min(1)))
        steps[..., :1].masked_fill_(positives == 0, 1.0)  # F_J of the first pixel where P is empty
        steps = torch.empty_like(steps).scatter_(-1, order, steps)
    return (errors * steps).sum(dim=-1), positives.squeeze(-1) > 0, valid.any(dim=-1)
