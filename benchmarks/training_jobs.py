"""What the training benchmark times: jobs of our engine and of the loop that tutorials write, each in a process.

A job gives a generator that yields after every step. Processes stand ready side by side and take turns, so that
settings of one (threads, deterministic algorithms, TF32) leave the other as it is, and each has its own peak of memory.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import multiprocessing
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training_data import BANDS, CLASSES, a_run, prepared
from pipeline import models
from pipeline.dataset.store import ChipStore
from pipeline.train.inference import score_chips
from pipeline.train.step import Part, parts_of

Job = Callable[[int], Iterator[object]]
Clock = Callable[[], float]
PLACES = {"device": "on the device", "memory": "in memory", "disk": "on disk"}
LIBRARY = "segmentation_models_pytorch"


@dataclass(frozen=True)
class Setting:
    """What is trained, and on what.

    Attributes:
        data: folder of the drawn chips.
        work: a folder for what a run writes.
        width: channels of the U-Net's first level.
        px: edge of a chip.
        batch: chips per step.
        precision: of our engine, fp32 or bf16.
        compiled: whether our engine compiles.
        encoder: of the library's U-Net.
        workers: of the DataLoader, where it has any.
        val: validation chips.
    """

    data: Path
    work: Path
    width: int
    px: int
    batch: int
    precision: str
    compiled: bool
    encoder: str
    workers: int
    val: int

    @property
    def ours(self) -> dict[str, Any]:
        """The network of our engine and of the plain loop."""
        return {"name": "unet", "params": {"width": self.width, "bn_momentum": 0.1}}

    @property
    def library(self) -> dict[str, Any]:
        """The library's network."""
        return {"name": "smp", "params": {"encoder": self.encoder}}


@dataclass(frozen=True)
class Timed:
    """What a job took: seconds of `images` images; bytes of memory at the peak, None where it was not read."""

    seconds: float
    images: int
    peak_bytes: int | None


def network(model: dict[str, Any]) -> nn.Module:
    """A network with fresh weights."""
    return models.create(model["name"], BANDS, len(CLASSES), **model["params"])


def flops(model: dict[str, Any], px: int) -> int:
    """Operations of forward and backward of one image, convolutions and matrix products, without any arithmetic."""
    with torch.device("meta"):
        made = network(model).train()
        with FlopCounterMode(display=False) as counter:
            made(torch.empty(2, BANDS, px, px)).sum().backward()
    return int(counter.get_total_flops()) // 2


# --- our engine --------------------------------------------------------------------------------------------------


class _Fixed:
    """A feed that gives one batch, already on the device, again and again."""

    def __init__(self, feed: Any, batch: int) -> None:
        self._feed = feed
        self._batch = feed.batch("train", np.arange(batch))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._feed, name)

    def batches(self, split: str, positions: Any) -> Iterator[Any]:
        return (self._batch for _ in positions)


def our_jobs(setting: Setting) -> dict[str, Job]:
    """Jobs of our engine by name; those of further residencies share its network."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = {"precision": setting.precision, "optimizer": "adam", "batch_size": setting.batch}
    spec = a_run(setting.ours, **precision, compile=setting.compiled)
    trainer = prepared(setting.data, setting.work / "auto", spec)
    stepper = trainer.stepper
    chips = len(stepper.feed.joined.rows["train"])

    def parts(steps: int) -> list[list[Part]]:
        order = np.random.default_rng(steps).permutation(chips)
        return parts_of(np.resize(order, steps * setting.batch), setting.batch, None)

    def epoch(using: Any) -> Job:
        def job(steps: int) -> Iterator[object]:
            trainer.learner.model.train()
            losses = torch.zeros(steps, device=device)
            for step, loss in enumerate(using.epoch(0, parts(steps))):
                losses[step] = loss
                yield loss

        return job

    def fed(feed: Any) -> Job:
        return lambda steps: iter(feed.batches("train", (part.at for (part,) in parts(steps))))

    def no_model(steps: int) -> Iterator[object]:
        order = parts(steps)
        for (part,), batch in zip(order, stepper.feed.batches("train", (part.at for (part,) in order)), strict=True):
            yield stepper.scaler(stepper.augmented(0, part, batch)["image"])

    def validation(steps: int) -> Iterator[object]:
        stepper.objective.for_validation()
        for _ in range(steps):
            yield score_chips(trainer.learner.scored(), stepper.feed, "val", stepper.scaler, stepper.objective)

    jobs: dict[str, Job] = {
        "epoch": epoch(stepper),
        "no data": epoch(dataclasses.replace(stepper, feed=_Fixed(stepper.feed, setting.batch))),
        "no model": no_model,
        "loader": fed(stepper.feed),
        "validation": validation,
    }
    small = a_run({"name": "unet", "params": {"width": 4}}, **precision)
    for residency in PLACES:
        feed = prepared(setting.data, setting.work / residency, small, residency).stepper.feed
        jobs[f"loader, {residency}"] = fed(feed)
        if device == "cuda":  # on a CPU the network takes so long that these rows would not differ
            jobs[f"epoch, {residency}"] = epoch(dataclasses.replace(stepper, feed=feed))
    return jobs


# --- the loop of tutorials -----------------------------------------------------------------------------------------


class Chips(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Chips one by one, flipped and turned at random: float image [3, H, W] in 0 to 1, mask [H, W] int64."""

    def __init__(self, data: Path) -> None:
        place = data / "drawn" / "chips"
        self.images, self.masks = ChipStore.open(place / "rgb").chips, ChipStore.open(place / "squares").chips

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, at: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, mask = self.images[at], self.masks[at, 0]
        turns, mirror = int(torch.randint(4, ())), bool(torch.randint(2, ()))
        image, mask = np.rot90(image, turns, (1, 2)), np.rot90(mask, turns)
        if mirror:
            image, mask = image[:, :, ::-1], mask[:, ::-1]
        scaled = torch.from_numpy(image.astype(np.float32) / 255)
        return scaled, torch.from_numpy(mask.astype(np.int64))


def plain_jobs(setting: Setting, model: dict[str, Any], workers: tuple[int, ...]) -> dict[str, Job]:
    """The plain loop by ``precision, workers``: DataLoader, zero_grad, forward, backward, step, loss.item()."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    made = network(model).to(device)
    optimizer = torch.optim.Adam(made.parameters())
    criterion = nn.CrossEntropyLoss(ignore_index=255)
    chips = Chips(setting.data)

    def job(mixed: bool, loaders: int) -> Job:
        def loop(steps: int) -> Iterator[object]:
            loader = DataLoader(
                chips,
                batch_size=setting.batch,
                shuffle=True,
                num_workers=loaders,
                pin_memory=device.type == "cuda",
                drop_last=True,
                persistent_workers=loaders > 0,
            )
            made.train()
            for _, (image, mask) in zip(range(steps), endless(loader), strict=False):
                image, mask = image.to(device), mask.to(device)
                optimizer.zero_grad()
                with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                    loss = criterion(made(image), mask)
                loss.backward()
                optimizer.step()
                yield loss.item()

        return loop

    mixed = {"fp32": False} | ({"AMP": True} if device.type == "cuda" else {})
    return {f"{name}, {count}": job(on, count) for name, on in mixed.items() for count in workers}


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of one epoch after the other."""
    while True:
        yield from loader


# --- processes that take turns -------------------------------------------------------------------------------------

MAKE: dict[str, Callable[[Setting], dict[str, Job]]] = {
    "ours": our_jobs,
    "plain": lambda setting: plain_jobs(setting, setting.ours, (0, setting.workers)),
    "library": lambda setting: plain_jobs(setting, setting.library, (setting.workers,)),
}


def left_out() -> list[str]:
    """Packages that a rival needs and that are not there."""
    return [] if importlib.util.find_spec(LIBRARY) else ["segmentation-models-pytorch"]


def time_steps(job: Job, steps: int, clock: Clock = time.perf_counter) -> float:
    """Seconds of `steps` steps after a first one that is not counted; the device has finished at both ends."""
    running = job(steps + 1)
    next(running)
    _synchronise()
    begin = clock()
    for _ in range(steps):
        next(running)
    _synchronise()
    seconds = clock() - begin
    del running  # threads and workers end here, beyond the clock
    return seconds


def clock_of(threads: int) -> Clock:
    """What a job is timed with: processor time where one thread of a CPU does it all, else the wall's.

    Processor time is what the process with the network takes, all its threads together, workers of a DataLoader aside;
    what else the machine does weighs little in it.
    """
    return time.process_time if threads == 1 and not torch.cuda.is_available() else time.perf_counter


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_bytes() -> int | None:
    """The peak of this process's memory: of a GPU since it was last asked, else of the process since it began."""
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return int(peak)
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(found[1]) * 1024 if found else None


def _serve(connection: Connection, who: str, setting: Setting) -> None:
    """In a process of its own: make the jobs, then time those that are asked for, until None is."""
    warnings.simplefilter("ignore")
    jobs = MAKE[who](setting)
    connection.send(list(jobs))
    while (asked := connection.recv()) is not None:
        name, steps, threads = asked
        connection.send(_timed(jobs[name], steps, threads, setting.val if name == "validation" else setting.batch))


def _timed(job: Job, steps: int, threads: int, images: int) -> Timed | RuntimeError:
    torch.set_num_threads(threads)
    try:
        seconds = time_steps(job, steps, clock_of(threads))
    except Exception as error:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return RuntimeError(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    return Timed(seconds, steps * images, peak_bytes())


class Worker:
    """A process that times the jobs of `who`; a context manager that ends it."""

    def __init__(self, who: str, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, who, setting), name=who)
        self._process.start()
        other.close()
        self.jobs: list[str] = self._answer()

    def time(self, job: str, steps: int, threads: int) -> Timed:
        """Time `steps` steps of a job; RuntimeError with the reason when it failed."""
        self._connection.send((job, steps, threads))
        timed: Timed = self._answer()
        return timed

    def _answer(self) -> Any:
        try:
            found = self._connection.recv()
        except EOFError:
            raise RuntimeError(f"the process of {self._process.name} died") from None
        if isinstance(found, Exception):
            raise found
        return found

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.is_alive():
            self._connection.send(None)
        self._process.join(timeout=60)
        self._process.kill()
