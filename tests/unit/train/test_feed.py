"""Chips on the device: the same batches from wherever they wait, fetched ahead, errors as themselves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.dataset.joined import Joined, Rows
from pipeline.dataset.targets import ExtraTargets
from pipeline.errors import DataError, RunError
from pipeline.train import residency
from pipeline.train.feed import Feed, ahead
from pipeline.train.residency import choose
from pipeline.train.step import flip

CPU = torch.device("cpu")
GPU = torch.device("cuda")
RESIDENCIES = ("auto", "device", "memory", "disk")
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64")
PX = 6  # rows of 3 x 36 bytes: not a whole number of 8-byte words
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


class Store:
    """The part of a chip store that reading needs, in memory; every pixel is another number."""

    def __init__(self, chips: np.ndarray, valid: np.ndarray) -> None:
        self.chips = chips
        self._valid = valid

    def valid(self, rows: np.ndarray) -> np.ndarray:
        return self._valid[rows]


def a_joined(dtype: str, chips: int = 23, px: int = PX) -> Joined:
    rng = np.random.default_rng(0)
    shape = (chips, 3, px, px)
    if np.dtype(dtype).kind == "f":
        images = rng.normal(0, 100, shape).astype(dtype)
    else:
        info = np.iinfo(dtype)
        images = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
        images[0, 0, 0, :2] = info.min, info.max
    valid = rng.random((chips, px, px)) > 0.1
    labels = rng.integers(0, 4, (chips, 1, px, px), dtype=np.uint8)
    order = rng.permutation(chips)
    ids = np.array([f"c{number}" for number in range(chips)])
    parts = {"train": order[:12], "val": order[12:18], "test": order[18:]}
    rows = {split: Rows(ids[at], at, at) for split, at in parts.items()}
    return Joined(Store(images, valid), Store(labels, valid), rows)  # type: ignore[arg-type]


def extra_targets(joined: Joined) -> ExtraTargets:
    """Three stored kinds of different dtypes for training chips, derived ones for the others."""
    derive = {
        "boundary": lambda image, mask, classes: np.stack([mask == k for k in range(classes)]).astype(np.uint8),
        "distance": lambda image, mask, classes: (image[:1] / 3).astype(np.float16),
        "signed": lambda image, mask, classes: np.repeat(mask[None], classes, 0).astype(np.float32) - 1.5,
    }
    images, masks = joined.batch(joined.rows["train"])
    chips = [{kind: make(*pair, 4) for kind, make in derive.items()} for pair in zip(images, masks, strict=True)]
    stored = {"train": {kind: np.stack([chip[kind] for chip in chips]) for kind in derive}}
    return ExtraTargets(derive, 4, stored)


def expected(joined: Joined, extra: ExtraTargets, split: str, at: np.ndarray) -> dict[str, np.ndarray]:
    """A batch from the definition, in NumPy."""
    rows = joined.rows[split].take(at)
    images, masks = joined.images.chips[rows.image], joined.labels.chips[rows.label][:, 0].astype(np.int64)
    masks[~joined.images.valid(rows.image)] = 255
    wide = {"uint16": np.int32, "uint32": np.int64}.get(images.dtype.name, images.dtype)
    chips = [
        {kind: make(i, m.astype(np.uint8), 4) for kind, make in extra.derive.items()}
        for i, m in zip(images, masks, strict=True)
    ]
    found = {kind: np.stack([chip[kind] for chip in chips]).astype(np.float32) for kind in extra.derive}
    return {"image": images.astype(wide), "mask": masks, **found}


def same(batch: dict[str, torch.Tensor], wanted: dict[str, np.ndarray]) -> None:
    assert list(batch) == list(wanted)
    for kind, array in wanted.items():
        given = batch[kind].cpu().numpy()
        assert given.dtype == array.dtype and given.shape == array.shape, kind
        np.testing.assert_array_equal(given, array, err_msg=kind)


def positions(chips: int) -> Iterator[np.ndarray]:
    """Several batches, out of order, with repetitions, the last one smaller."""
    rng = np.random.default_rng(1)
    yield from (rng.integers(0, chips, size) for size in (5, 5, 1, 5, 3))


def check_feed(dtype: str, where: str, device: torch.device) -> None:
    joined = a_joined(dtype)
    extra = extra_targets(joined)
    feed = Feed(joined, extra, device, where)
    for split in ("train", "val", "test"):  # test does not wait in memory: it is read from its files
        chips = len(joined.rows[split])
        batches = list(feed.batches(split, positions(chips)))
        assert len(batches) == 5
        for at, batch in zip(positions(chips), batches, strict=True):
            wanted = expected(joined, extra, split, at)
            assert all(tensor.device.type == device.type for tensor in batch.values())
            same(batch, wanted)
            same(feed.batch(split, at), wanted)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("where", RESIDENCIES)
def test_batches_do_not_depend_on_where_chips_wait(dtype: str, where: str) -> None:
    check_feed(dtype, where, CPU)


@needs_gpu
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("where", RESIDENCIES)
def test_batches_on_a_gpu_do_not_depend_on_where_chips_wait(dtype: str, where: str) -> None:
    check_feed(dtype, where, GPU)


@needs_gpu
@pytest.mark.slow
@pytest.mark.parametrize("where", RESIDENCIES)
def test_no_batch_waits_for_the_gpu(where: str) -> None:
    joined = a_joined("uint16")
    feed = Feed(joined, ExtraTargets({}, 4), GPU, where)
    feed.batch("train", np.arange(3))  # loads what waits on the device
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in feed.batches("train", positions(12)):
            flip(batch, np.random.default_rng(0))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("where", RESIDENCIES)
def test_images_of_16_bits_can_be_flipped(where: str) -> None:
    joined = a_joined("uint16")
    batch = Feed(joined, ExtraTargets({}, 4), CPU, where).batch("train", np.arange(12))
    flipped = flip(batch, np.random.default_rng(0))
    assert not torch.equal(flipped["image"], batch["image"])
    assert torch.equal(flipped["image"].sum((1, 2, 3)), batch["image"].sum((1, 2, 3)))


def test_in_memory_chips_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    joined, reads = a_joined("uint8"), []
    whole = Joined.batch
    monkeypatch.setattr(Joined, "batch", lambda self, rows: reads.append(len(rows)) or whole(self, rows))
    monkeypatch.setattr(residency, "CHUNK", 5)
    feed = Feed(joined, ExtraTargets({}, 4), CPU, "memory")
    assert reads == []
    for _ in range(3):
        list(feed.batches("train", [np.arange(12)]))
    assert sum(reads) == 1 + 1 + 12  # a chip for the size, one for the shapes
    before = len(reads)
    list(feed.batches("test", [np.arange(2)] * 2))  # a split that does not wait
    assert len(reads) == before + 2


def test_the_choice_and_its_size_are_one_line() -> None:
    lines: list[str] = []
    feed = Feed(a_joined("uint16"), ExtraTargets({}, 4), CPU, "memory", log=lines.append)
    assert lines == []
    feed.batch("train", np.arange(2))
    feed.batch("val", np.arange(2))
    size = 18 * (3 * 2 + 1) * PX * PX / 1e6
    assert lines == [f"chips wait in main memory: 12 train, 6 val, {size:.1f} MB"]


# --- where chips wait --------------------------------------------------------------------------------------------


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU with 1000 bytes free in a machine with 2000."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    monkeypatch.setattr(residency, "host_memory", lambda: residency_memory(8000, 2000))


def residency_memory(total: int, available: int) -> Any:
    from pipeline.train.memory import HostMemory

    return HostMemory(total, available)


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize(
    ("asked", "device", "size", "runs", "chosen"),
    [
        ("auto", GPU, 600, 1, "device"),
        ("auto", GPU, 601, 1, "disk"),
        ("auto", GPU, 300, 2, "device"),
        ("auto", GPU, 301, 2, "disk"),
        ("auto", CPU, 1, 1, "disk"),
        ("device", GPU, 1000, 1, "device"),
        ("device", CPU, 2000, 1, "memory"),
        ("memory", GPU, 2000, 1, "memory"),
        ("disk", GPU, 10**9, 1, "disk"),
    ],
)
def test_chips_wait_where_there_is_room(asked: str, device: torch.device, size: int, runs: int, chosen: str) -> None:
    assert choose(asked, device, size, runs) == chosen


def test_main_memory_takes_what_the_gpu_cannot(room: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "host_memory", lambda: residency_memory(8000, 4000))
    assert choose("auto", GPU, 601) == "memory" and choose("auto", GPU, 1001) == "disk"


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize(
    ("asked", "device", "size"), [("device", GPU, 1001), ("device", CPU, 2001), ("memory", GPU, 2001)]
)
def test_a_place_without_room_is_one_line(asked: str, device: torch.device, size: int) -> None:
    with pytest.raises(RunError, match="take residency: auto") as caught:
        choose(asked, device, size)
    assert "\n" not in str(caught.value)


# --- fetched ahead -----------------------------------------------------------------------------------------------


def test_the_next_items_are_made_while_one_is_worked_on() -> None:
    made: list[int] = []
    names: set[str] = set()
    reached = threading.Event()

    def make(item: int) -> int:
        made.append(item)
        names.add(threading.current_thread().name)
        if len(made) == 3:
            reached.set()
        return item * item

    found = ahead(make, range(6))
    assert next(found) == 0
    assert reached.wait(5)  # two more while the first is worked on
    time.sleep(0.05)
    assert made == [0, 1, 2]
    assert list(found) == [1, 4, 9, 16, 25]
    assert names.isdisjoint({threading.current_thread().name})


def test_an_error_of_the_thread_is_raised_as_itself_in_its_place() -> None:
    error = DataError("chip 3 is broken")

    def make(item: int) -> int:
        if item == 3:
            raise error
        return item

    found, given = ahead(make, range(10)), []
    with pytest.raises(DataError) as caught:
        for item in found:
            given.append(item)
    assert caught.value is error and given == [0, 1, 2]


def feeding() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


def test_closing_early_stops_the_thread() -> None:
    before = feeding()
    made: list[int] = []
    found = ahead(lambda item: made.append(item), range(10**9))
    next(found)
    found.close()
    assert feeding() == before and len(made) <= 3


def test_an_error_in_training_stops_the_thread(tmp_path: Path) -> None:
    feed = Feed(a_joined("uint8"), ExtraTargets({}, 4), CPU, "disk")
    before = feeding()
    with pytest.raises(ZeroDivisionError):
        for _ in feed.batches("train", [np.arange(3)] * 1000):
            raise ZeroDivisionError
    assert feeding() == before
