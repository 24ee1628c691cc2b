"""The processes that train one run together: one, unless the run asks for several devices."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

Part = TypeVar("Part")
Value = TypeVar("Value")


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

    def span(self, items: int, unit: int) -> range:
        """This process's share of `items` in their order: as many whole units of `unit` as any other, or one more."""
        units = -(-items // unit)
        first, last = (units * rank // self.size * unit for rank in (self.rank, self.rank + 1))
        return range(min(first, items), min(last, items))

    def wrap(self, network: torch.nn.Module, idle: bool = False) -> torch.nn.Module:
        """The network as it is called in training; the gradients of all processes meet in its backward pass.

        Their mean arrives in the weights that learn now: what learns later needs another wrap, and there must be one
        wrap of a network at a time. Buffers stay each process's own.

        Args:
            network: on the device; torch.compile'd or not.
            idle: whether it has weights without influence on the loss.
        """
        if self.size == 1:
            return network
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newer torch: a new name, and a default that we do not want
            return DistributedDataParallel(
                network, broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=idle
            )

    def without_meeting(self, network: torch.nn.Module) -> AbstractContextManager[Any]:
        """While the block runs, gradients of a wrapped network are added up in this process alone."""
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()

    def summed(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes, bit-equal in all."""
        if self.size == 1:
            return tensor
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    def gathered(self, mine: torch.Tensor, at: range, items: int) -> torch.Tensor:
        """Values of all `items` [items, ...] of which this process has `mine` [n, ...] at the positions `at`."""
        if self.size == 1:
            return mine
        every = torch.zeros(items, *mine.shape[1:], dtype=mine.dtype, device=self.device)
        every[at.start : at.stop] = mine
        return self.summed(every)

    def agreed(self, value: Value) -> Value:
        """What process 0 calls it with, in all; also a place where all wait for each other."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Process 0 goes through the block before the others do."""
        if not self.first:
            self.agreed(None)
        yield
        if self.first:
            self.agreed(None)

    def merged(self, values: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
        """For each of `values` [N] what the process that `owners` [N] names has there; its own where that is −1."""
        if self.size == 1:
            return values
        mine = torch.where(owners == self.rank, values, torch.zeros_like(values))
        return torch.where(owners < 0, values, self.summed(mine))
