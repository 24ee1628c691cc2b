"""Focal Tversky loss (Abraham and Khan 2019), with the settings of the medical thesis's first experiment."""

from __future__ import annotations

from typing import Literal

from torch import nn

from pipeline.losses._overlap import Tversky


def build(
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    gamma: float = 2.0,
    per: Literal["batch", "sample"] = "batch",
    eps: float = 1e-5,
    class_weights: list[float] | None = None,
    ignore_index: int = 255,
    label_smoothing: float = 0.0,
) -> nn.Module:
    """Focal Tversky loss (1/C) Σ_c (1 − TI_c)^γ, TI_c = (TP_c + ε) / (TP_c + α FN_c + β FP_c + ε) as in `tversky`.

    γ is the exponent itself, as it is in the thesis's focal loss, so that γ > 1 turns from what is nearly right to
    what is not; the thesis gives γ and no equation. Abraham and Khan write the exponent 1/γ: their γ 4/3 is 0.75 here.

    Args:
        alpha: α, weighs false negatives, 0 or more.
        beta: β, weighs false positives, 0 or more.
        gamma: γ, above 0; 1 gives the Tversky loss.
        per: whether the sums run over the ``batch``, or over each ``sample`` with the mean over samples after.
        eps: ε, above 0.
        class_weights: a weight per class for the mean over classes; None weighs all alike.
        ignore_index: one more value of the target that is ignored, besides 255.
        label_smoothing: λ, 0 or more and below 1: y becomes (1 − λ) y + λ / C, with one logit (1 − λ) y + λ / 2.

    Raises:
        ConfigError: when α, β, γ, ε, λ or a weight is out of range.
    """
    return Tversky(
        "focal_tversky",
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        per=per,
        eps=eps,
        class_weights=class_weights,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
