"""Soft Jaccard loss over a whole batch, as the Frankfurt report computed it."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.losses.target import prepare


def build(*, eps: float = 1e-5) -> nn.Module:
    """Jaccard loss 1 − (1/C) Σ_c (I_c + ε) / (U_c + ε).

    I_c = Σ p_c y_c and U_c = Σ p_c + Σ y_c − I_c run over all pixels of the batch that count; p is the softmax (the
    sigmoid for one logit), y the one-hot target. A class that is absent from the target still counts.

    Args:
        eps: ε, above 0.

    Raises:
        ConfigError: when ε is not above 0.
    """
    if eps <= 0:
        raise ConfigError(f"loss jaccard: eps {eps} is not above 0")
    return Jaccard(eps)


class Jaccard(nn.Module):
    """The module behind `build`."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of logits [N, C, H, W] and target [N, H, W] int64."""
        with torch.autocast(logits.device.type, enabled=False):
            logits, target, valid = prepare(logits, target)
            mask = valid.unsqueeze(1)
            if logits.shape[1] == 1:
                probability = logits.sigmoid()
                truth = target.unsqueeze(1).to(probability.dtype) * mask
            else:
                probability = logits.softmax(dim=1)
                truth = torch.zeros_like(probability).scatter_(1, target.unsqueeze(1), mask.to(probability.dtype))
            probability = probability.masked_fill(~mask, 0.0)
            pixels = (0, 2, 3)
            intersection = (probability * truth).sum(pixels)
            union = probability.sum(pixels) + truth.sum(pixels) - intersection
            return 1 - ((intersection + self.eps) / (union + self.eps)).mean()
