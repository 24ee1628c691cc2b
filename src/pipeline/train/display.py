"""What a person sees of a training: a line per epoch, or per ten seconds of a longer one."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

EVERY_S = 10.0


class Display:
    """Tells of epochs and steps."""

    def __init__(self, epochs: int, chips: int, log: Callable[[str], None]) -> None:
        """Take over what does not change.

        Args:
            epochs: how many the run may have.
            chips: of an epoch.
            log: takes one line of text.
        """
        self.epochs = epochs
        self.chips = chips
        self.log = log
        self._epoch = self._steps = 0
        self._last = time.monotonic()

    def begin(self, epoch: int, steps: int) -> None:
        """An epoch begins, counted from 0, of `steps` steps."""
        self._epoch, self._steps, self._last = epoch, steps, time.monotonic()

    def step(self, done: int, losses: torch.Tensor, known: bool) -> None:
        """`done` steps are taken; `losses` [steps] are on the device, and reading them waits for it unless `known`."""
        if known and time.monotonic() - self._last > EVERY_S:
            self._last = time.monotonic()
            mean = float(losses[:done].mean())
            self.log(f"epoch {self._epoch + 1}  step {done}/{self._steps}  loss {mean:.4f}")

    def epoch(self, row: dict[str, float]) -> None:
        """An epoch is complete: its row of the history."""
        left = (self.epochs - row["epoch"]) * row["seconds"]
        self.log(
            f"epoch {row['epoch']:.0f}/{self.epochs}  train {row['train_loss']:.4f}  val {row['val_loss']:.4f}  "
            f"accuracy {row['val_accuracy']:.4f}  jaccard {row['val_jaccard_coefficient']:.4f}  "
            f"mean IoU {row['val_mean_iou']:.4f}  {self.chips / row['seconds']:.0f} chips/s  at most {left:.0f} s left"
        )
