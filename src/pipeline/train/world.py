"""The processes that train one run together: one, unless the run asks for several devices."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

Part = TypeVar("Part")


@dataclass(frozen=True)
class World:
    """This process among those of a run.

    Attributes:
        device: what it computes on.
        rank: its number; 0 alone writes and speaks.
        size: how many there are.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def share(self, parts: list[Part]) -> list[Part]:
        """This process's share of the parts of a batch: every `size`-th."""
        return parts[self.rank :: self.size]

    def wrap(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network as it is called in training; gradients of all processes meet in it."""
        return network

    def without_meeting(self, network: torch.nn.Module) -> AbstractContextManager[Any]:
        """While the block runs, gradients are added up in this process alone."""
        return nullcontext()

    def summed(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes."""
        return tensor
