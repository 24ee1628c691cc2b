"""Chips on the device: batches of images, masks and extra targets, wherever the chips wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch

from pipeline.dataset.joined import Joined
from pipeline.dataset.targets import ExtraTargets
from pipeline.train.residency import Resident, chip_bytes, choose, to_device

Array = np.ndarray[Any, np.dtype[Any]]
Batch = dict[str, torch.Tensor]
Item = TypeVar("Item")
Made = TypeVar("Made")
AHEAD = 2  # batches that are fetched before they are asked for
PLACES = {"device": "on the device", "memory": "in main memory", "disk": "in their files"}
WIDER = {torch.uint16: (torch.int16, torch.int32, 0xFFFF), torch.uint32: (torch.int32, torch.int64, 0xFFFFFFFF)}


class Feed:
    """The chips of a run, as batches on a device.

    A batch has ``image`` [N, bands, H, W] in the source's dtype (uint16 as int32 and uint32 as int64, on which torch
    has all operations), ``mask`` [N, H, W] int64 (255: ignored, also where there is no imagery) and the extra targets
    by kind, [N, K, H, W] float32.

    Chips wait in the dtypes of their stores: ``device`` holds whole splits on the device and gathers batches there,
    ``memory`` holds them in main memory, ``disk`` reads them from their files. A thread fetches from memory and disk
    while the batch before is worked on; to a GPU it copies by way of pinned memory, on a stream of its own. What a
    batch holds does not depend on where it waited.
    """

    def __init__(
        self,
        joined: Joined,
        extra: ExtraTargets,
        device: torch.device,
        residency: str = "auto",
        *,
        splits: tuple[str, ...] = ("train", "val"),
        runs: int = 1,
        log: Callable[[str], None] | None = None,
    ) -> None:
        """Take over what the run has; nothing is read before the first batch.

        Args:
            joined: the chips.
            extra: the targets of the loss besides the mask.
            device: that computes.
            residency: where chips wait (`pipeline.train.options`).
            splits: that wait; batches of others are read from their files.
            runs: that share the device.
            log: takes a line about what was chosen.
        """
        self.joined = joined
        self.extra = extra
        self.device = device
        self._asked = residency
        self._splits = splits
        self._runs = runs
        self._log = log
        self._resident: dict[str, Resident] = {}

    @cached_property
    def residency(self) -> str:
        """Where the chips wait: ``device``, ``memory`` or ``disk``; RunError when what was asked for has no room."""
        chips = {split: len(self.joined.rows[split]) for split in self._splits}
        size = chip_bytes(self._read(self._splits[0], np.arange(1))) * sum(chips.values())
        chosen = choose(self._asked, self.device, size, self._runs)
        if self._log is not None:
            counts = ", ".join(f"{number} {split}" for split, number in chips.items())
            self._log(f"chips wait {PLACES[chosen]}: {counts}, {size / 1e6:.1f} MB")
        return chosen

    def batch(self, split: str, at: Array) -> Batch:
        """The chips at positions `at` [N] of `split`."""
        return _ready({kind: to_device(tensor, self.device) for kind, tensor in self._found(split, at).items()})

    def batches(self, split: str, positions: Iterable[Array]) -> Generator[Batch]:
        """A batch for each array of `positions`, in their order; the next is fetched while one is worked on.

        What goes wrong while fetching is raised here, as itself. Closing the generator stops the fetching.
        """
        if split in self._splits and self.residency == "device":
            for at in positions:
                yield self.batch(split, at)
        elif self.device.type == "cpu":
            for found in ahead(lambda at: self._found(split, at), positions):
                yield _ready(found)
        else:
            lane = _Lane(self.device)
            for sent in ahead(lambda at: lane.send(self._found(split, at)), positions):
                yield _ready(lane.receive(sent))

    def _found(self, split: str, at: Array) -> dict[str, torch.Tensor]:
        """Chips as they wait: on the device where they are resident there, otherwise in main memory."""
        resident = self._waits(split)
        if resident is not None:
            return resident.take(at)
        return {kind: torch.from_numpy(np.ascontiguousarray(array)) for kind, array in self._read(split, at).items()}

    def _waits(self, split: str) -> Resident | None:
        """The split in memory, loaded when it is first asked for; None where it is read from its files."""
        if split not in self._splits or self.residency == "disk":
            return None
        if split not in self._resident:
            place = self.device if self.residency == "device" else torch.device("cpu")
            chips = len(self.joined.rows[split])
            self._resident[split] = Resident.load(lambda at: self._read(split, at), chips, place)
        return self._resident[split]

    def _read(self, split: str, at: Array) -> dict[str, Array]:
        images, masks = self.joined.batch(self.joined.rows[split].take(at))
        return {"image": images, "mask": masks, **self.extra.batch(split, at, images, masks)}


def _ready(found: dict[str, torch.Tensor]) -> Batch:
    """Tensors on the device, in the dtypes that a step works with."""
    image = found["image"]
    if image.dtype in WIDER:
        narrow, wide, bits = WIDER[image.dtype]
        image = image.view(narrow).to(wide) & bits
    extra = {kind: tensor.float() for kind, tensor in found.items() if kind not in ("image", "mask")}
    return {"image": image, "mask": found["mask"].long(), **extra}


def ahead(make: Callable[[Item], Made], items: Iterable[Item], depth: int = AHEAD) -> Generator[Made]:
    """``make(item)`` for each item, in order; a thread makes the next `depth` meanwhile.

    Args:
        make: is called in the thread; its errors are raised here in the place of what it did not make.
        items: are taken in the caller's thread.
        depth: how many are made before they are asked for.
    """
    rest = iter(items)
    with ThreadPoolExecutor(1, "feed") as thread:
        waiting = deque(thread.submit(make, item) for item in islice(rest, depth))
        try:
            while waiting:
                made = waiting.popleft().result()
                waiting.extend(thread.submit(make, item) for item in islice(rest, 1))
                yield made
        finally:
            thread.shutdown(wait=False, cancel_futures=True)


class _Lane:
    """The way to a GPU: copies from pinned memory on a stream of their own, beside the computation."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send(self, found: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.cuda.Event]:
        """Start the copy; called by the thread that fetches."""
        with torch.cuda.stream(self._stream):
            sent = {kind: to_device(tensor, self.device) for kind, tensor in found.items()}
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(self._stream)
        return sent, done

    def receive(self, sent: tuple[dict[str, torch.Tensor], torch.cuda.Event]) -> dict[str, torch.Tensor]:
        """Let the computation's stream wait for the copy; the host does not wait."""
        tensors, done = sent
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(done)
        for tensor in tensors.values():
            tensor.record_stream(stream)
        return tensors
