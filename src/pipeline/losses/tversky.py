"""Tversky loss (Salehi et al. 2017): false negatives and false positives weigh unlike."""

from __future__ import annotations

from typing import Literal

from torch import nn

from pipeline.losses._overlap import Tversky


def build(
    *,
    alpha: float = 0.7,
    beta: float = 0.3,
    per: Literal["batch", "sample"] = "batch",
    eps: float = 1e-5,
    class_weights: list[float] | None = None,
    ignore_index: int = 255,
    label_smoothing: float = 0.0,
) -> nn.Module:
    """Tversky loss 1 − (1/C) Σ_c (TP_c + ε) / (TP_c + α FN_c + β FP_c + ε).

    TP = Σ p y, FN = Σ (1 − p) y, FP = Σ p (1 − y) over the pixels that count; p is the softmax (the sigmoid for one
    logit), y the one-hot target. α = β = 1 is the Jaccard loss, α = β = ½ the Dice loss (with half its ε). The
    thesis's weights are the defaults. Other texts name the two the other way round.

    Args:
        alpha: α, weighs false negatives, 0 or more.
        beta: β, weighs false positives, 0 or more.
        per: whether the sums run over the ``batch``, or over each ``sample`` with the mean over samples after.
        eps: ε, above 0.
        class_weights: a weight per class for the mean over classes; None weighs all alike.
        ignore_index: one more value of the target that is ignored, besides 255.
        label_smoothing: λ, 0 or more and below 1: y becomes (1 − λ) y + λ / C, with one logit (1 − λ) y + λ / 2.

    Raises:
        ConfigError: when α, β, ε, λ or a weight is out of range.
    """
    return Tversky(
        "tversky",
        alpha=alpha,
        beta=beta,
        gamma=1.0,
        per=per,
        eps=eps,
        class_weights=class_weights,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
