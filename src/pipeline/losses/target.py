"""What all losses share: shapes, ignored pixels, and the precision of the arithmetic."""

from __future__ import annotations

import torch

from pipeline.errors import RunError

IGNORE = 255


def prepare(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Check a pair of logits and target and split off the ignored pixels.

    Args:
        logits: [N, C, H, W], floating point.
        target: [N, H, W] int64, class index or 255.

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
    target = target.masked_fill(~valid, 0)
    classes = max(2, logits.shape[1])
    if target.device.type == "cpu" and target.numel() and not 0 <= int(target.min()) <= int(target.max()) < classes:
        low, high = int(target.min()), int(target.max())
        raise RunError(
            f"loss: target has classes {low} to {high}, the network knows 0 to {classes - 1}; 255 is ignored"
        )
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits, target, valid
