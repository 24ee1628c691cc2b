"""Counting how often each number occurs, without waiting for a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def tally(values: torch.Tensor, size: int) -> torch.Tensor:
    """How often each of 0 to `size` − 1 occurs in `values` [n] of any integer dtype, [size] int64.

    On the CPU this is `torch.bincount`, which on a GPU would wait for the largest value: there ones are added up.
    Values beyond `size` are an error, which a GPU may tell late.
    """
    import torch

    return torch.bincount(values, minlength=size) if values.device.type == "cpu" else added_ones(values, size)


def added_ones(values: torch.Tensor, size: int) -> torch.Tensor:
    """`tally` as a GPU does it."""
    import torch

    ones = torch.ones((), dtype=torch.int64, device=values.device).expand(values.shape)
    return torch.zeros(size, dtype=torch.int64, device=values.device).scatter_add_(0, values.long(), ones)
