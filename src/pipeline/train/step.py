"""One step of the optimiser: parts of a batch forward and backward, then the update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from pipeline.augment._transform import Transform
from pipeline.errors import RunError
from pipeline.train import compiling, memory, numerics
from pipeline.train.feed import Batch, Feed
from pipeline.train.inference import Scaler, main_logits
from pipeline.train.objective import Objective
from pipeline.train.residency import to_device
from pipeline.train.state import Learner
from pipeline.train.world import World

Array = np.ndarray[Any, np.dtype[Any]]
IGNORE = 255


@dataclass(frozen=True)
class Part:
    """Chips that the network sees at once: positions `at` of the training split, number `number` of its batch."""

    step: int
    number: int
    at: Array


def parts_of(order: Array, batch_size: int, micro_batch: int | None, devices: int = 1) -> list[list[Part]]:
    """The steps of an epoch, each as its parts, as many for each device; the incomplete last batch is left out.

    Args:
        order: positions of the chips that the epoch shows.
        batch_size: chips per step, all of `order` where it has fewer.
        micro_batch: chips per part; None: the batch, divided among the devices.
        devices: that share each batch.

    Raises:
        RunError: for no chip at all, and for fewer chips than devices.
    """
    if not len(order):
        raise RunError("train.sampler has chosen no training chip")
    size = min(batch_size, len(order))
    if size < devices:
        raise RunError(f"{size} training chips cannot be shared by devices: {devices}; lower train.devices")
    micro = min(micro_batch or -(-size // devices), size)
    starts = list(range(0, size, micro))
    if len(starts) % devices:  # fewer chips than a batch: some parts are smaller
        count = min(-(-len(starts) // devices), size // devices) * devices
        starts = [size * number // count for number in range(count)]
    steps = []
    for step in range(len(order) // size):
        batch = order[step * size : (step + 1) * size]
        pieces = np.split(batch, starts[1:])
        steps.append([Part(step, number, piece) for number, piece in enumerate(pieces)])
    return steps


@dataclass
class Stepper:
    """What a step needs besides its chips."""

    learner: Learner
    network: torch.nn.Module
    feed: Feed
    scaler: Scaler
    objective: Objective
    transforms: list[Transform]
    settings: dict[str, Any]
    seed: int
    world: World
    watch_errors: bool
    idle: bool = False

    def epoch(self, epoch: int, steps: list[list[Part]]) -> Iterator[torch.Tensor]:
        """Take the steps of an epoch; gives each step's loss [], on the device: the processes' mean is the batch's.

        Raises:
            RunError: when memory runs out, with what would have fitted, when torch.compile fails, and for what a GPU
                cannot repeat bit by bit where it shall.
        """
        mine = [self.world.share(parts) for parts in steps]
        network = self.world.wrap(self.network, self.idle)  # anew, so that a resumed run meets as an undisturbed one
        with closing(self.feed.batches("train", (part.at for parts in mine for part in parts))) as batches:
            for whole, parts in zip(steps, mine, strict=True):
                chips = sum(len(part.at) for part in whole)
                try:
                    loss = self._step(network, epoch, parts, islice(batches, len(parts)), chips)
                except (MemoryError, RuntimeError) as error:
                    if memory.ran_out(error):
                        break  # out of the frames whose tensors fill the memory
                    failure = compiling.failure(error) or numerics.failure(error)
                    if failure is None:
                        raise
                    raise failure from None
                yield loss
            else:
                self._gather(steps)
                return
        raise self._too_much(epoch, parts)

    def _too_much(self, epoch: int, parts: list[Part]) -> RunError:
        """What to say of a step whose `parts` took too much memory, by taking it in smaller ones, not compiled."""
        chips, size = max(len(part.at) for part in parts), self.settings["batch_size"]
        if self.world.size > 1:  # the others wait in the middle of the step
            return RunError(f"the memory ran out with {chips} chips at once: set a smaller micro_batch than {chips}")
        at = np.concatenate([part.at for part in parts])

        def attempt(few: int) -> None:
            tried = parts_of(at[: 2 * few], 2 * few, few)[0]
            for _ in range(2):  # the optimiser's state is there after the first
                batches = [self.feed.batch("train", part.at) for part in tried]
                self._step(self.learner.model, epoch, tried, batches, size)

        return memory.advice(attempt, size, chips)

    def _step(
        self, network: torch.nn.Module, epoch: int, parts: list[Part], batches: Iterable[Batch], chips: int
    ) -> torch.Tensor:
        optimizer, average = self.learner.optimizer, self.learner.average
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.world.device)
        for count, (part, batch) in enumerate(zip(parts, batches, strict=True), 1):
            alone = nullcontext() if count == len(parts) else self.world.without_meeting(network)
            with alone:
                total += self._part(network, epoch, part, batch, len(part.at) / chips)
        if self.settings["clip_norm"] is not None:
            torch.nn.utils.clip_grad_norm_(self.learner.model.parameters(), self.settings["clip_norm"])
        optimizer.step()
        if average is not None:
            average.update_parameters(self.learner.model)
        return total

    def _part(self, network: torch.nn.Module, epoch: int, part: Part, batch: Batch, share: float) -> torch.Tensor:
        """Forward and backward; returns the part's loss times its share of the batch of this process."""
        batch = self.augmented(epoch, part, batch)
        try:
            with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.settings["precision"] == "bf16"):
                output = network(self.scaler(batch["image"]))
            loss = self.objective(output, batch) * (share * self.world.size)  # of which processes take the mean
            loss.backward()  # type: ignore[no-untyped-call]
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            setting = "batch_size" if self.settings["micro_batch"] is None else "micro_batch"
            raise RunError(
                f"batch norm has one value per channel at {setting} {self.settings[setting]} with these chips; "
                f"take a larger {setting}"
            ) from None
        if self.watch_errors:
            self._note_errors(part, main_logits(output).detach(), batch["mask"])
        return loss.detach()

    def augmented(self, epoch: int, part: Part, batch: Batch) -> Batch:
        """Seed everything random that follows by (seed, epoch, step, part); flip and augment."""
        entropy = [self.seed, epoch, part.step, *([part.number] if part.number else [])]
        words = np.random.SeedSequence(entropy).generate_state(2)
        torch.manual_seed(int(words[0]))
        if self.settings["flips"]:
            batch = flip(batch, np.random.default_rng(int(words[1])))
        if self.transforms:
            batch = batch | {"image": batch["image"].float()}
            for transform in self.transforms:
                batch = transform(batch)
        return batch

    def _gather(self, steps: list[list[Part]]) -> None:
        """After an epoch: what each process has learnt of its parts alone, in all."""
        learner, world = self.learner, self.world
        if world.size == 1:
            return
        from pipeline.train.sync_norm import merge_statistics  # imports torch.compile: a second

        merge_statistics(learner.model, learner.average and learner.average.module, world)
        if self.watch_errors:
            owners = np.full(len(learner.errors), -1)
            for part in (part for parts in steps for part in parts):
                owners[part.at] = part.number % world.size
            learner.errors.copy_(world.merged(learner.errors, torch.from_numpy(owners).to(world.device)))

    def _note_errors(self, part: Part, logits: torch.Tensor, mask: torch.Tensor) -> None:
        counted = mask != IGNORE
        predicted = logits.argmax(dim=1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()
        wrong = ((predicted != mask) & counted).sum(dim=(1, 2))
        at = to_device(part.at, mask.device)
        self.learner.errors[at] = wrong / counted.sum(dim=(1, 2)).clamp(min=1)


def flip(batch: Batch, rng: np.random.Generator) -> Batch:
    """One of the eight symmetries of the square per chip, for all [N, ..., H, W] of a batch together."""
    chips = len(batch["mask"])
    turns, mirror = rng.integers(0, 4, chips), rng.integers(0, 2, chips)
    found = {name: tensor.clone() for name, tensor in batch.items()}
    for turn in range(4):
        for mirrored in range(2):
            at = np.flatnonzero((turns == turn) & (mirror == mirrored))
            if not len(at) or not (turn or mirrored):
                continue
            index = to_device(at, batch["mask"].device)
            for name, tensor in batch.items():
                turned = torch.rot90(tensor[index], turn, (-2, -1))
                found[name][index] = turned.flip(-1) if mirrored else turned
    return found
