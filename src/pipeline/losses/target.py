"""What all losses share: shapes, ignored pixels, class weights, and the precision of the arithmetic."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch

from pipeline.errors import ConfigError, RunError

IGNORE = 255


def prepare(
    logits: torch.Tensor, target: torch.Tensor, ignore_index: int = IGNORE
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Check a pair of logits and target and split off the ignored pixels.

    Args:
        logits: [N, C, H, W], floating point.
        target: [N, H, W] int64, class index or 255, which is always ignored.
        ignore_index: one more value that is ignored, such as a class that shall not be learned.

    Returns:
        The logits in float32 (float64 stays), the target with 0 at ignored pixels, and the mask [N, H, W] bool of
        pixels that count.

    Raises:
        RunError: when shapes or dtypes do not fit, or (on the CPU, where looking is cheap) for a class beyond C.
    """
    if logits.ndim != 4 or target.shape != (logits.shape[0], *logits.shape[2:]):
        raise RunError(
            f"loss: logits {list(logits.shape)} and target {list(target.shape)} are not [N, C, H, W], [N, H, W]"
        )
    if target.dtype != torch.int64 or not logits.is_floating_point():
        raise RunError(f"loss: logits must be floating point and target int64, got {logits.dtype} and {target.dtype}")
    valid = target != IGNORE
    if ignore_index != IGNORE:
        valid = valid & (target != ignore_index)
    target = target.masked_fill(~valid, 0)
    classes = max(2, logits.shape[1])
    if target.device.type == "cpu" and target.numel() and not 0 <= int(target.min()) <= int(target.max()) < classes:
        low, high = int(target.min()), int(target.max())
        raise RunError(
            f"loss: target has classes {low} to {high}, the network knows 0 to {classes - 1}; 255 is ignored"
        )
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits, target, valid


def probabilities(
    logits: torch.Tensor, target: torch.Tensor, ignore_index: int = IGNORE, label_smoothing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`prepare`, then what overlap losses compare: probabilities and the one-hot target, both 0 at ignored pixels.

    Returns:
        Probabilities [N, C, H, W] (softmax; sigmoid for one logit, then of class 1), the one-hot target of the same
        shape and dtype, smoothed (`smoothed`), and the mask [N, 1, H, W] bool of pixels that count.
    """
    logits, target, valid = prepare(logits, target, ignore_index)
    mask = valid.unsqueeze(1)
    if logits.shape[1] == 1:
        probability = logits.sigmoid()
        truth = (target.unsqueeze(1) * mask).to(probability.dtype)
    else:
        probability = logits.softmax(dim=1)
        truth = torch.zeros_like(probability).scatter_(1, target.unsqueeze(1), mask.to(probability.dtype))
    return probability.masked_fill(~mask, 0.0), smoothed(truth, mask, label_smoothing), mask


def smoothed(truth: torch.Tensor, mask: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """(1 − λ) y + λ / C of a one-hot truth y [N, C, H, W], C = 2 for one logit, at the pixels that count; else 0.

    The label smoothing of Szegedy et al. (2016), λ their ε. With λ = 0 it is `truth` itself.
    """
    if label_smoothing == 0:
        return truth
    even = label_smoothing / max(2, truth.shape[1])
    return ((1 - label_smoothing) * truth + even).masked_fill(~mask, 0.0)


def check_smoothing(loss: str, label_smoothing: float) -> float:
    """`label_smoothing` unless it is not in 0 to 1, 1 left out, which is a ConfigError."""
    if not 0 <= label_smoothing < 1:
        raise ConfigError(f"loss {loss}: label_smoothing {label_smoothing} must be 0 or more and below 1")
    return label_smoothing


def check_weights(loss: str, class_weights: Sequence[float] | None) -> tuple[float, ...] | None:
    """Class weights as the config gives them, as a tuple of floats.

    Weights are relative: all of them times a constant changes no loss.

    Raises:
        ConfigError: when they are not finite numbers of 0 or more with one above 0.
    """
    if class_weights is None:
        return None
    numbers = [w for w in class_weights if isinstance(w, int | float) and not isinstance(w, bool)]
    fit = len(numbers) == len(class_weights) and all(math.isfinite(w) and w >= 0 for w in numbers)
    if not fit or not any(numbers):
        raise ConfigError(
            f"loss {loss}: class_weights must be finite numbers of 0 or more, one of them above 0, got {class_weights}"
        )
    return tuple(float(w) for w in numbers)


def weights_of(
    loss: str, class_weights: Sequence[float] | None, channels: int, like: torch.Tensor, *, per_pixel: bool
) -> torch.Tensor | None:
    """Class weights as a tensor on the device and in the dtype of `like`.

    Args:
        loss: the loss's name, for the message.
        class_weights: of `check_weights`.
        channels: C, logits per pixel.
        like: any tensor of the arithmetic.
        per_pixel: whether each pixel takes the weight of its true class: one logit then has two weights, background
            first. Otherwise the weights lie over the mean of per-class scores, and one logit, which has a single score,
            can take none.

    Raises:
        RunError: when their number does not fit.
    """
    if class_weights is None:
        return None
    if channels == 1 and not per_pixel:
        raise RunError(f"loss {loss}: class_weights need several classes; a network with one logit has one score")
    if len(class_weights) != max(2, channels):
        raise RunError(f"loss {loss}: {len(class_weights)} class_weights for {max(2, channels)} classes")
    if like.device.type == "cpu":
        return torch.tensor(class_weights, dtype=like.dtype)
    return _on_device(tuple(class_weights), like.dtype, like.device)


@functools.cache
def _on_device(weights: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Weights that are sent once: sending them waits for the device."""
    return torch.tensor(weights, dtype=dtype, device=device)


def mean_over_classes(scores: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Mean of `scores` [..., C] over their last axis, weighted by `weights` [C] where there are any."""
    return scores.mean(dim=-1) if weights is None else (scores * weights).sum(dim=-1) / weights.sum()
