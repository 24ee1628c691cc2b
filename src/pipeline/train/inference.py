"""A network over the chips of a split: confusion counts per chip, the loss, the batch-mean Jaccard coefficient."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.metrics.confusion import confusion_tables, counts_of
from pipeline.metrics.histograms import ProbabilityHistograms
from pipeline.metrics.jaccard_coefficient import BatchMeanJaccard
from pipeline.train.feed import Feed
from pipeline.train.memory import told
from pipeline.train.objective import Objective
from pipeline.train.world import World

Array = np.ndarray[Any, np.dtype[Any]]
EVALUATION_BATCH = 32
SAFE_CHANNELS = 32  # from here on strided 1×1 convolutions are sound in channels last


def training_format(model: torch.nn.Module, device: torch.device, precision: str) -> torch.memory_format:
    """The memory format to train in: channels last, which is faster, but where that damages memory on the CPU.

    With torch 2.14 on the CPU (oneDNN) in channels last, gradients of the weights of strided 1×1 convolutions with few
    channels, and of dilated convolutions in bf16, are written past their end. Evaluation, without gradients and in
    float32, is safe.
    """
    if device.type != "cpu":
        return torch.channels_last
    narrow = (
        module.kernel_size == (1, 1) and max(module.stride) > 1 and min(module.weight.shape[:2]) < SAFE_CHANNELS
        for module in model.modules()
        if isinstance(module, torch.nn.Conv2d)
    )
    return torch.contiguous_format if precision == "bf16" or any(narrow) else torch.channels_last


@dataclass(frozen=True)
class Scaler:
    """Turns pixels into what a network sees: ``(pixel - offset) / scale`` per band, float32, in a memory format."""

    offset: torch.Tensor
    scale: torch.Tensor
    memory_format: torch.memory_format = torch.channels_last

    @staticmethod
    def of(
        offset: list[float],
        scale: list[float],
        device: torch.device,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> Scaler:
        """From lists of one value per band."""
        shape = (1, -1, 1, 1)
        return Scaler(
            torch.tensor(offset, dtype=torch.float32, device=device).reshape(shape),
            torch.tensor(scale, dtype=torch.float32, device=device).reshape(shape),
            memory_format,
        )

    def __call__(self, images: Array | torch.Tensor) -> torch.Tensor:
        """Images [N, bands, H, W] of any dtype → float32 tensor on the device."""
        tensor = images if isinstance(images, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(images))
        tensor = tensor.to(self.offset.device, non_blocking=True).float()
        return ((tensor - self.offset) / self.scale).contiguous(memory_format=self.memory_format)


@dataclass(frozen=True)
class Outcome:
    """What a network made of a split.

    Attributes:
        counts: [N, C, C] int64 per chip, rows truth.
        loss: mean over chips of the batches' losses.
        jaccard_coefficient: the paper's, over batches of 64 in index order.
        predictions: classes uint8 [N, H, W], if they were asked for.
        histograms: pixels by probability, [C, 2, B] int64 (`ProbabilityHistograms`), if they were asked for.
    """

    counts: Array
    loss: float
    jaccard_coefficient: float
    predictions: Array | None
    histograms: Array | None


def main_logits(output: Any) -> torch.Tensor:
    """The mask's logits of a network's output (a multi-task model gives a dict with "mask" first)."""
    tensor = output["mask"] if isinstance(output, dict) else output
    assert isinstance(tensor, torch.Tensor)
    return tensor


@torch.no_grad()
def score_chips(
    model: torch.nn.Module,
    feed: Feed,
    split: str,
    scaler: Scaler,
    objective: Objective,
    predictions: bool = False,
    histograms: bool = False,
    world: World | None = None,
) -> Outcome:
    """Run `model` in eval mode over the chips of `split` in index order; see `Outcome`.

    Nothing waits for the device before the end. The processes of a `world` share the chips, in whole batches, and all
    have the outcome of all chips, but predictions and histograms of their own ones alone.
    """
    model.eval()
    rows, classes = feed.joined.rows[split], len(feed.joined.classes)
    coefficient = BatchMeanJaccard(classes)
    curves = ProbabilityHistograms(classes) if histograms else None
    tables, kept = [torch.zeros(0, classes + 2, classes + 1, dtype=torch.int64, device=feed.device)], []
    total = torch.zeros((), dtype=torch.float64, device=feed.device)
    mine = range(len(rows)) if world is None else world.span(len(rows), EVALUATION_BATCH)
    starts = range(mine.start, mine.stop, EVALUATION_BATCH)
    positions = (np.arange(start, min(start + EVALUATION_BATCH, mine.stop)) for start in starts)
    with told(f"{EVALUATION_BATCH} chips at once are scored"), closing(feed.batches(split, positions)) as batches:
        for batch in batches:
            target = batch["mask"]
            output = model(scaler(batch["image"]))
            total += objective(output, batch).double() * len(target)
            logits = main_logits(output).float()
            probabilities = logits.softmax(dim=1)
            coefficient.update(probabilities, target)
            if curves is not None:
                curves.update(probabilities, target)
            predicted = logits.argmax(dim=1)
            tables.append(confusion_tables(target, predicted, classes))
            if predictions:
                kept.append(predicted.to(torch.uint8))
    every = torch.cat(tables)
    if world is not None:
        every, total = world.gathered(every, mine, len(rows)), world.summed(total)
        coefficient.merge(lambda sums: world.gathered(sums, mine, len(rows)))
    return Outcome(
        counts=counts_of(every),
        loss=float(total) / len(rows),
        jaccard_coefficient=float(coefficient.compute()),
        predictions=torch.cat(kept).cpu().numpy() if predictions else None,
        histograms=None if curves is None else curves.compute(),
    )
