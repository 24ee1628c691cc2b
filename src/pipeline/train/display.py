"""What a person sees of a training: a bar on a terminal, else a line per epoch, or per ten seconds of a longer one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

import torch

EVERY_S = 10.0  # between lines within an epoch
LOOK_S = 1.0  # between looks at the losses while a bar is shown: each waits for a GPU
DRAW_S = 0.1  # between drawings of the bar
SMOOTHING = 0.3  # share of the newest epoch in the time of one
NO_BAR = "PIPELINE_NO_BAR"  # set by the rules: several jobs may share the terminal
WIDTH = 24
COLUMNS = 80  # of a terminal that does not say


def terminal() -> TextIO | None:
    """Standard error where a bar may be drawn on it: on a terminal that no other job writes to."""
    if os.environ.get(NO_BAR) or os.environ.get("TERM") == "dumb":
        return None
    return sys.stderr if sys.stderr is not None and sys.stderr.isatty() else None


class Display:
    """Tells of epochs and steps."""

    def __init__(self, epochs: int, log: Callable[[str], None], screen: TextIO | None = None) -> None:
        """Take over what does not change.

        Args:
            epochs: how many the run may have.
            log: takes one line of text.
            screen: where a bar is drawn; None: there is none.
        """
        self.epochs = epochs
        self._log = log
        self._screen = screen
        self._epoch = self._steps = self._chips = 0
        self._epoch_s: float | None = None
        self._begun = self._last = time.monotonic()
        self._loss = ""
        self._drawn = False

    @property
    def look_s(self) -> float:
        """Seconds between looks at the losses of an epoch under way on a GPU."""
        return EVERY_S if self._screen is None else LOOK_S

    def begin(self, epoch: int, steps: int, chips: int) -> None:
        """An epoch begins, counted from 0, of `steps` steps that show `chips` chips in all."""
        self._epoch, self._steps, self._chips, self._loss = epoch, steps, chips, ""
        self._begun = self._last = time.monotonic()

    def step(self, done: int, losses: torch.Tensor, known: bool) -> None:
        """`done` steps are taken; `losses` [steps] are on the device, and reading them waits for it unless `known`."""
        now = time.monotonic()
        if self._screen is not None and now - self._last > DRAW_S:
            self._last = now
            if known:
                self._loss = f"  loss {float(losses[:done].mean()):.4f}"
            self._draw(done, now)
        elif self._screen is None and known and now - self._last > EVERY_S:
            self._last = now
            self._log(
                f"epoch {self._epoch + 1}  step {done}/{self._steps}  loss {float(losses[:done].mean()):.4f}"
                f"{self._left(done, now)}"
            )

    def epoch(self, row: dict[str, float]) -> None:
        """An epoch is complete: its row of the history."""
        seconds, before = row["seconds"], self._epoch_s
        self._epoch_s = seconds if before is None else SMOOTHING * seconds + (1 - SMOOTHING) * before
        left = duration((self.epochs - row["epoch"]) * self._epoch_s)
        self.log(
            f"epoch {row['epoch']:.0f}/{self.epochs}  train {row['train_loss']:.4f}  val {row['val_loss']:.4f}  "
            f"accuracy {row['val_accuracy']:.4f}  jaccard {row['val_jaccard_coefficient']:.4f}  "
            f"mean IoU {row['val_mean_iou']:.4f}  {self._chips / seconds:.0f} chips/s  at most {left} left"
        )

    def log(self, text: str) -> None:
        """Write one line, in the bar's place where there is one."""
        self._wipe()
        self._log(text)

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self._wipe()

    def _wipe(self) -> None:
        if self._drawn:
            self._drawn = False
            self._write("\r\x1b[K")

    def _left(self, done: int, now: float) -> str:
        """The time left until the last epoch, by the epochs before; in a process's first by its steps, thus roughly."""
        spent, further = now - self._begun, self.epochs - self._epoch - 1
        if self._epoch_s is None:
            steps = self._steps * (1 + further) - done
            return f"  about {duration(spent / done * steps)} left"
        return f"  at most {duration(max(self._epoch_s - spent, 0.0) + further * self._epoch_s)} left"

    def _draw(self, done: int, now: float) -> None:
        full = WIDTH * done // self._steps
        text = (
            f"epoch {self._epoch + 1}/{self.epochs} [{'#' * full}{'.' * (WIDTH - full)}] {100 * done // self._steps} %"
            f"{self._loss}{self._left(done, now)}"
        )
        self._drawn = True
        self._write(f"\r{text[: self._columns() - 1]}\x1b[K")

    def _columns(self) -> int:
        assert self._screen is not None
        try:
            return os.get_terminal_size(self._screen.fileno()).columns or COLUMNS
        except OSError:
            return COLUMNS

    def _write(self, text: str) -> None:
        assert self._screen is not None
        try:
            self._screen.write(text)
            self._screen.flush()
        except OSError:  # the terminal went away
            self._screen, self._drawn = None, False


def duration(seconds: float) -> str:
    """A time as people read it: 95 s, 12 min, 3 h 05 min."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
