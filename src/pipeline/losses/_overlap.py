"""What the overlap losses share: the Dice family of Diakogiannis et al. (2020, ResUNet-a) and soft confusion counts.

Every function takes probabilities and truths [N, C, H, W], floating point, within 0 to 1 (truths may be soft), and a
mask [N, 1, H, W] bool of the pixels that count (None: all do). Sums run over the pixels of each sample or of the whole
batch; a sample without a pixel that counts is left out of the mean over samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.losses.target import check_smoothing, check_weights, mean_over_classes, probabilities, weights_of

Form = Literal["d1", "d2", "d3"]
Weighting = Literal["none", "uniform", "volume"]
Per = Literal["batch", "sample"]

SMOOTH = 1e-5
LEAST_VOLUME = 1e-6  # pixels; V⁻² of less is no weight that float32 can sum


class SoftCounts(NamedTuple):
    """Σ p l, Σ (1 − p) l, Σ p (1 − l) and Σ (1 − p)(1 − l) per class: [N, C] per sample, [1, C] per batch."""

    tp: torch.Tensor
    fn: torch.Tensor
    fp: torch.Tensor
    tn: torch.Tensor


def soft_counts(
    probability: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor | None = None, per: Per = "batch"
) -> SoftCounts:
    """Soft confusion counts of each class against the rest, over the pixels that count."""
    p_not, l_not = 1 - probability, 1 - truth
    products = (probability * truth, p_not * truth, probability * l_not, p_not * l_not)
    return SoftCounts(*(_sum(product, mask, per) for product in products))


def dissimilarity(
    probability: torch.Tensor,
    truth: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    form: Form = "d1",
    complement: bool = False,
    weighting: Weighting = "none",
    per: Per = "batch",
    smooth: float = SMOOTH,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """1 − D for each sample or for the batch, D one of the paper's equations 1 to 3.

    D1 = (2 Σ p l + s) / (Σ (p + l) + s), D2 = (2 Σ p l + s) / (Σ (p² + l²) + s),
    D3 = (Σ p l + s) / (Σ (p² + l² − p l) + s). What the denominator has beyond the numerator is never negative, and
    it is the same for the complement; so the loss is computed from it, keeps its digits near 0 and is never below 0.

    Args:
        probability: [N, C, H, W].
        truth: [N, C, H, W].
        mask: [N, 1, H, W] bool.
        form: which D.
        complement: the mean of D(p, l) and D(1 − p, 1 − l) instead of D(p, l) (equation 4).
        weighting: ``none`` is the mean over classes of each one's D. Otherwise D is one ratio whose sums both run over
            pixels and weighted classes (equation 5): ``uniform`` weighs classes alike, ``volume`` by V⁻² (equation 6),
            V the class's Σ l, mean over the samples; a class without pixels takes the largest weight of the others.
            The complement has weights of its own, from Σ (1 − l).
        per: what the sums over pixels run over.
        smooth: s, above 0.
        class_weights: [C], relative: factors of the weights, or of the mean over classes where there are none.

    Returns:
        [N] per sample, [1] per batch; 0 where no pixel counts.
    """
    overlap = _sum(probability * truth, mask, per)
    if form == "d1":
        miss = _sum(probability * (1 - truth) + truth * (1 - probability), mask, per)
    else:
        miss = _sum((probability - truth).square(), mask, per)
    factor = 1 if form == "d3" else 2

    def one_minus(overlap: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        if weighting == "none":
            return mean_over_classes(miss / (miss + factor * overlap + smooth), class_weights)
        weights = torch.ones_like(miss[0]) if weighting == "uniform" else _volume_weights(truth, mask)
        if class_weights is not None:
            weights = weights * class_weights / class_weights.mean()
        missed = (weights * miss).sum(dim=1)
        return missed / (missed + factor * (weights * overlap).sum(dim=1) + smooth)

    loss = one_minus(overlap, truth)
    if not complement:
        return loss
    both_not = _sum((1 - probability) * (1 - truth), mask, per)
    return (loss + one_minus(both_not, 1 - truth)) / 2


def tanimoto(
    probability: torch.Tensor,
    truth: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    complement: bool = True,
    smooth: float = SMOOTH,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """The paper's Tanimoto loss: D3 with complement, volume weights, per sample, then the mean over samples.

    It suits masks and continuous targets alike. The caller sees to float32: within autocast nothing here raises it.

    Args:
        probability: [N, C, H, W] float in [0, 1].
        truth: [N, C, H, W] float in [0, 1].
        mask: [N, 1, H, W] bool of the pixels that count; None for all.
        complement: False gives the Tanimoto loss alone, equation 5 without equation 4.
        smooth: s, above 0.
        class_weights: [C], relative factors of the volume weights.

    Returns:
        A scalar; 0 with zero gradient where no pixel counts.
    """
    loss = dissimilarity(
        probability,
        truth,
        mask,
        form="d3",
        complement=complement,
        weighting="volume",
        per="sample",
        smooth=smooth,
        class_weights=class_weights,
    )
    return mean_over_counted(loss, mask)


def mean_over_counted(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Mean of `values` [N] or [1] without the samples that have no pixel that counts, whose values must be 0."""
    if mask is None or len(values) != len(mask):
        return values.mean()
    return values.sum() / _samples(mask)


def check_positive(loss: str, name: str, value: float) -> float:
    """`value` unless it is not above 0, which is a ConfigError."""
    if not value > 0:
        raise ConfigError(f"loss {loss}: {name} {value} is not above 0")
    return value


class DiceFamily(nn.Module):
    """`dissimilarity` of a network's logits: the module of the losses `dice`, `tanimoto` and `generalized_dice`."""

    def __init__(
        self,
        name: str,
        *,
        form: Form,
        complement: bool,
        weighting: Weighting,
        per: Per,
        smooth: float,
        class_weights: Sequence[float] | None,
        ignore_index: int,
        label_smoothing: float,
    ) -> None:
        super().__init__()
        self.name = name
        self.form: Form = form
        self.complement = complement
        self.weighting: Weighting = weighting
        self.per: Per = per
        self.smooth = check_positive(name, "smooth", smooth)
        self.class_weights = check_weights(name, class_weights)
        self.ignore_index = ignore_index
        self.label_smoothing = check_smoothing(name, label_smoothing)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of logits [N, C, H, W] and target [N, H, W] int64."""
        with torch.autocast(logits.device.type, enabled=False):
            probability, truth, mask = probabilities(logits, target, self.ignore_index, self.label_smoothing)
            loss = dissimilarity(
                probability,
                truth,
                mask,
                form=self.form,
                complement=self.complement,
                weighting=self.weighting,
                per=self.per,
                smooth=self.smooth,
                class_weights=weights_of(self.name, self.class_weights, logits.shape[1], probability, per_pixel=False),
            )
            return mean_over_counted(loss, mask)


class Tversky(nn.Module):
    """(1 − Tversky index)^γ of a network's logits: the module of the losses `tversky` and `focal_tversky`."""

    def __init__(
        self,
        name: str,
        *,
        alpha: float,
        beta: float,
        gamma: float,
        per: Per,
        eps: float,
        class_weights: Sequence[float] | None,
        ignore_index: int,
        label_smoothing: float,
    ) -> None:
        super().__init__()
        if alpha < 0 or beta < 0 or alpha + beta == 0:
            raise ConfigError(
                f"loss {name}: alpha {alpha} and beta {beta} must be 0 or more and not both 0; alpha weighs false "
                "negatives, beta false positives"
            )
        self.name = name
        self.alpha = alpha
        self.beta = beta
        self.gamma = check_positive(name, "gamma", gamma)
        self.per: Per = per
        self.eps = check_positive(name, "eps", eps)
        self.class_weights = check_weights(name, class_weights)
        self.ignore_index = ignore_index
        self.label_smoothing = check_smoothing(name, label_smoothing)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of logits [N, C, H, W] and target [N, H, W] int64."""
        with torch.autocast(logits.device.type, enabled=False):
            probability, truth, mask = probabilities(logits, target, self.ignore_index, self.label_smoothing)
            counts = soft_counts(probability, truth, mask, self.per)
            miss = self.alpha * counts.fn + self.beta * counts.fp
            loss = miss / (counts.tp + miss + self.eps)
            if self.gamma != 1:
                # below γ = 1 the slope is infinite at 0: there the gradient is 0, as it is for γ > 1
                floor = torch.finfo(loss.dtype).tiny
                loss = torch.where(loss > floor, loss.clamp_min(floor) ** self.gamma, 0.0)
            weights = weights_of(self.name, self.class_weights, logits.shape[1], loss, per_pixel=False)
            return mean_over_counted(mean_over_classes(loss, weights), mask)


def _sum(values: torch.Tensor, mask: torch.Tensor | None, per: Per) -> torch.Tensor:
    """Sums over the pixels that count: [N, C] per sample, [1, C] per batch."""
    if mask is not None:
        values = values.masked_fill(~mask, 0.0)
    sums = values.sum(dim=(2, 3))
    return sums if per == "sample" else sums.sum(dim=0, keepdim=True)


def _samples(mask: torch.Tensor) -> torch.Tensor:
    """How many samples have a pixel that counts, 1 where none has."""
    return mask.flatten(1).any(dim=1).sum().clamp_min(1)


def _volume_weights(truth: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """V⁻² per class [C]; absent classes take the largest weight of those present, 1 where none is present."""
    samples = len(truth) if mask is None else _samples(mask)
    volume = _sum(truth, mask, "batch").squeeze(0) / samples
    present = volume > LEAST_VOLUME
    weights = torch.where(present, volume, 1.0).pow(-2)
    largest = torch.where(present, weights, 0.0).max()
    return torch.where(present, weights, torch.where(present.any(), largest, 1.0))
