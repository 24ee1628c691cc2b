"""Losses: one file per loss, made by name with `create`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline import variants

if TYPE_CHECKING:
    from torch import nn


def create(name: str, **params: Any) -> nn.Module:
    """Make loss `name`.

    Args:
        name: a file of src/pipeline/losses/.
        params: the loss's parameters; the rest take their defaults.

    Returns:
        A module from (logits [N, C, H, W] float, target [N, H, W] int64) to a scalar, at least float32. C = 1 is
        binary: one logit, target 0 or 1. Target 255 is ignored; where nothing else is left the loss is 0 with zero
        gradient.

    Raises:
        ConfigError: for an unknown loss or parameter, or a wrong value.
    """
    resolved = variants.check("losses", name, params, "losses.create")
    loss: nn.Module = variants.load("losses", name).build(**resolved)
    return loss
