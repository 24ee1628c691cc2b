"""Tanimoto loss with complement, the loss of ResUNet-a (Diakogiannis et al. 2020): a named case of `dice`."""

from __future__ import annotations

from torch import nn

from pipeline.losses._overlap import DiceFamily


def build(
    *,
    complement: bool = True,
    smooth: float = 1e-5,
    class_weights: list[float] | None = None,
    ignore_index: int = 255,
    label_smoothing: float = 0.0,
) -> nn.Module:
    """Tanimoto loss 1 − (T(p, l) + T(1 − p, 1 − l)) / 2 per sample, then the mean over samples.

    T(p, l) = (Σ_J w_J Σ_i p l + s) / (Σ_J w_J Σ_i (p² + l² − p l) + s) over pixels i and classes J (equations 4 to 6),
    w_J = V_J⁻², V_J the class's pixels, mean over the samples; p is the softmax (the sigmoid for one logit), l the
    one-hot target. A class absent from the batch takes the largest weight of the others; the weights of the complement
    come from 1 − l. It is `dice` with form d3, complement, volume weights and sums per sample.

    Args:
        complement: False leaves T(1 − p, 1 − l) out.
        smooth: s, above 0; see `dice` on its size beside volume weights.
        class_weights: a factor per class of w_J.
        ignore_index: one more value of the target that is ignored, besides 255.
        label_smoothing: λ, 0 or more and below 1: l becomes (1 − λ) l + λ / C, with one logit (1 − λ) l + λ / 2.

    Raises:
        ConfigError: when s, λ or a weight is out of range.
    """
    return DiceFamily(
        "tanimoto",
        form="d3",
        complement=complement,
        weighting="volume",
        per="sample",
        smooth=smooth,
        class_weights=class_weights,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
