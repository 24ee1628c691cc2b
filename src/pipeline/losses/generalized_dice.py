"""Generalised Dice loss (Sudre et al. 2017), as the Mars report printed it: without class weights by default."""

from __future__ import annotations

from typing import Literal

from torch import nn

from pipeline.losses._overlap import DiceFamily


def build(
    *,
    weighting: Literal["none", "volume"] = "none",
    per: Literal["batch", "sample"] = "batch",
    smooth: float = 1e-5,
    class_weights: list[float] | None = None,
    ignore_index: int = 255,
    label_smoothing: float = 0.0,
) -> nn.Module:
    """Generalised Dice loss 1 − (2 Σ_c w_c Σ_i p l + s) / (Σ_c w_c Σ_i (p + l) + s): one ratio for all classes.

    Sums run over pixels i that count and classes c; p is the softmax (the sigmoid for one logit), l the one-hot
    target. `dice` takes the mean over classes of one ratio each instead.

    Args:
        weighting: ``none`` is w = 1, the Mars report's; large classes then rule. ``volume`` is Sudre et al.'s
            w_c = V_c⁻², V_c the class's pixels, mean over the samples; a class absent from the batch takes the
            largest weight of the others.
        per: whether the sums run over the ``batch``, or over each ``sample`` with the mean over samples after.
        smooth: s, above 0; see `dice` on its size beside volume weights.
        class_weights: a factor per class of w_c.
        ignore_index: one more value of the target that is ignored, besides 255.
        label_smoothing: λ, 0 or more and below 1: l becomes (1 − λ) l + λ / C, with one logit (1 − λ) l + λ / 2.

    Raises:
        ConfigError: when s, λ or a weight is out of range.
    """
    return DiceFamily(
        "generalized_dice",
        form="d1",
        complement=False,
        weighting="uniform" if weighting == "none" else weighting,
        per=per,
        smooth=smooth,
        class_weights=class_weights,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
