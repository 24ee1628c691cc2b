"""Soft Dice losses: three forms, with or without complement and volume weights (Diakogiannis et al. 2020)."""

from __future__ import annotations

from typing import Literal

from torch import nn

from pipeline.losses._overlap import DiceFamily


def build(
    *,
    form: Literal["d1", "d2", "d3"] = "d1",
    complement: bool = False,
    weighting: Literal["none", "volume"] = "none",
    per: Literal["batch", "sample"] = "batch",
    smooth: float = 1e-5,
    class_weights: list[float] | None = None,
    ignore_index: int = 255,
    label_smoothing: float = 0.0,
) -> nn.Module:
    """Dice loss 1 − D, p the softmax (the sigmoid for one logit), l the one-hot target, sums over pixels that count.

    D1 = (2 Σ p l + s) / (Σ (p + l) + s), D2 = (2 Σ p l + s) / (Σ (p² + l²) + s),
    D3 = (Σ p l + s) / (Σ (p² + l² − p l) + s). D1 is what most papers call the Dice loss, D2 is Milletari et al.'s, D3
    the Tanimoto coefficient; D3 = D2 / (2 − D2), so that they agree only for perfect and for disjoint masks.

    Args:
        form: which D (equations 1 to 3 of the paper).
        complement: the mean of D(p, l) and D(1 − p, 1 − l) instead of D(p, l) (equation 4).
        weighting: ``none`` is the mean over classes of each one's D; a class absent from the target counts. ``volume``
            is one ratio of sums over pixels and classes weighted by V⁻² (equations 5 and 6), V the class's pixels,
            mean over the samples; an absent class takes the largest weight of the others, and the complement has
            weights of its own, from 1 − l.
        per: whether the sums run over the ``batch``, or over each ``sample`` with the mean over samples after.
        smooth: s, above 0. With volume weights the sums are of the order 1/V, beside which 1e-5 is not negligible for
            classes of 10 000 pixels and more; a smaller s is then closer to the equations.
        class_weights: a weight per class: for the mean over classes, or as a factor of the volume weights.
        ignore_index: one more value of the target that is ignored, besides 255.
        label_smoothing: λ, 0 or more and below 1: l becomes (1 − λ) l + λ / C, with one logit (1 − λ) l + λ / 2.

    Raises:
        ConfigError: when s, λ or a weight is out of range.
    """
    return DiceFamily(
        "dice",
        form=form,
        complement=complement,
        weighting=weighting,
        per=per,
        smooth=smooth,
        class_weights=class_weights,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
