"""Where the chips of a run wait: on its device, in main memory, or in their files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.errors import RunError
from pipeline.train.memory import host_memory

Array = np.ndarray[Any, np.dtype[Any]]
DEVICE_SHARE = 0.6  # of a GPU's free memory that chips may take: the rest is for weights and activations
MEMORY_SHARE = 0.25  # of the main memory that is available: other runs of the machine have chips too
CHUNK = 64  # chips that are read at a time


def choose(asked: str, device: torch.device, size: int, runs: int = 1) -> str:
    """Where chips of `size` bytes wait: ``device``, ``memory`` or ``disk``.

    On the CPU ``auto`` is ``disk``: the system keeps the files that are read in memory as long as there is room, once
    for all runs; and ``device`` is ``memory``.

    Args:
        asked: one of `pipeline.train.options.RESIDENCIES`.
        device: that computes.
        size: of all chips.
        runs: that share the device.

    Raises:
        RunError: when what was asked for has no room.
    """
    gpu = device.type != "cpu"
    if asked == "disk" or (asked == "auto" and not gpu):
        return "disk"
    asked = "memory" if asked == "device" and not gpu else asked
    room = {"memory": host_memory().available, **({"device": torch.cuda.mem_get_info(device)[0]} if gpu else {})}
    if asked != "auto":
        if size > room[asked]:
            raise RunError(
                f"engine: residency: {asked}: the chips take {size / 1e9:.1f} GB, and {room[asked] / 1e9:.1f} GB are "
                "free; take residency: auto"
            )
        return asked
    if size * runs <= room["device"] * DEVICE_SHARE:
        return "device"
    return "memory" if size * runs <= room["memory"] * MEMORY_SHARE else "disk"


@dataclass(frozen=True)
class Column:
    """One tensor of every chip of a split: rows of bytes, in the widest words that they fill.

    A row is gathered as words, whatever its numbers are: torch knows few operations on uint16 on a GPU.
    """

    words: torch.Tensor
    dtype: torch.dtype
    shape: tuple[int, ...]

    @staticmethod
    def empty(chips: int, chip: Array, device: torch.device) -> Column:
        """Room for `chips` arrays like `chip`."""
        row = _words(np.ascontiguousarray(chip)[None])
        words = torch.empty((chips, row.shape[1]), dtype=torch.from_numpy(row).dtype, device=device)
        return Column(words, torch.from_numpy(np.empty(0, chip.dtype)).dtype, chip.shape)

    def fill(self, start: int, rows: Array) -> None:
        """Put the arrays `rows` [n, …] at `start`."""
        self.words[start : start + len(rows)].copy_(torch.from_numpy(_words(np.ascontiguousarray(rows))))

    def take(self, at: Array, index: torch.Tensor | None) -> torch.Tensor:
        """The arrays at positions `at` [n], as [n, …]; `index` is the same on the device, None in main memory."""
        if index is None:
            rows = torch.from_numpy(np.take(self.words.numpy(), at, axis=0))
        else:
            rows = self.words.index_select(0, index)
        return rows.view(self.dtype).view(len(at), *self.shape)


def _words(rows: Array) -> Array:
    size = rows.nbytes // max(len(rows), 1)
    return rows.reshape(len(rows), -1).view(np.int64 if size % 8 == 0 else np.uint8)


@dataclass(frozen=True)
class Resident:
    """The chips of one split in memory, the machine's or a GPU's."""

    columns: dict[str, Column]

    @staticmethod
    def load(read: Callable[[Array], dict[str, Array]], chips: int, device: torch.device) -> Resident:
        """Read a split once.

        Args:
            read: positions [n] → the arrays of these chips by kind, [n, …].
            chips: of the split.
            device: where they shall wait.
        """
        first = read(np.arange(1))
        columns = {kind: Column.empty(chips, array[0], device) for kind, array in first.items()}
        for at in _chunks(chips):
            for kind, array in read(at).items():
                columns[kind].fill(int(at[0]), array)
        return Resident(columns)

    def take(self, at: Array) -> dict[str, torch.Tensor]:
        """The chips at positions `at`, where they wait."""
        device = next(iter(self.columns.values())).words.device
        index = None if device.type == "cpu" else to_device(at, device)
        return {kind: column.take(at, index) for kind, column in self.columns.items()}


def _chunks(chips: int) -> Iterator[Array]:
    for start in range(0, chips, CHUNK):
        yield np.arange(start, min(start + CHUNK, chips))


def to_device(array: Array | torch.Tensor, device: torch.device) -> torch.Tensor:
    """An array as a tensor on the device; to a GPU by way of pinned memory, so that nothing waits for the copy."""
    tensor = array if isinstance(array, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(array))
    if tensor.device.type != "cpu" or device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def chip_bytes(first: dict[str, Array]) -> int:
    """Bytes of one chip, of its arrays [1, …] by kind."""
    return sum(math.prod(array.shape[1:]) * array.itemsize for array in first.values())
