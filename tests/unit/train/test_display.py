"""What a training shows: lines without a terminal, a bar on one, and how long it takes."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline.train import display
from pipeline.train.display import Display, duration, terminal
from pipeline.train.engine import train
from tests.support.tiny import a_spec

ROW = {"train_loss": 0.5, "val_loss": 0.4, "val_accuracy": 0.9, "val_jaccard_coefficient": 0.8, "val_mean_iou": 0.7}


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Screen:
    """A pseudo-terminal of 100 columns; `read` gives what was written to it since."""

    def __init__(self, columns: int = 100) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.file = os.fdopen(slave, "w")

    def read(self) -> str:
        os.set_blocking(self._master, False)
        found = b""
        with suppress(BlockingIOError):
            while True:
                found += os.read(self._master, 1 << 16)
        return found.decode()

    def close(self) -> None:
        self.file.close()
        os.close(self._master)


@pytest.fixture
def screen() -> Iterator[Screen]:
    made = Screen()
    yield made
    made.close()


def shown(text: str) -> list[str]:
    """The lines of a terminal after `text`: "\\r" goes to the line's start, "\\x1b[K" wipes what is right of there."""
    lines, column = [""], 0
    for part in re.findall(r"\x1b\[K|[\r\n]|[^\r\n\x1b]+", text):
        if part == "\n":
            lines.append("")
        elif part == "\x1b[K":
            lines[-1] = lines[-1][:column]
        elif part != "\r":
            lines[-1] = lines[-1][:column] + part + lines[-1][column + len(part) :]
        column = 0 if part in "\r\n" else column + len(part) * (part != "\x1b[K")
    return lines


class NoSync:
    """Losses on a device: reading them is counted."""

    def __init__(self) -> None:
        self.reads = 0

    def __getitem__(self, part: slice) -> torch.Tensor:
        self.reads += 1
        return torch.full((part.stop,), 0.25)


def test_a_duration_as_people_read_it() -> None:
    assert [duration(s) for s in (0, 95.4, 119.4, 120, 3600, 7140, 7170, 11100)] == [
        "0 s", "95 s", "119 s", "2 min", "60 min", "119 min", "2 h 00 min", "3 h 05 min",
    ]  # fmt: skip


def test_without_a_terminal_a_line_per_epoch_and_per_ten_seconds(clock: Clock) -> None:
    lines: list[str] = []
    shows = Display(10, lines.append)
    losses = torch.tensor([1.0, 0.5, 0.0, 0.0])
    shows.begin(0, 4, 640)
    for done, now in enumerate((105.0, 111.0, 112.0, 122.0), 1):
        clock.now = now
        shows.step(done, losses, known=now != 122.0)
    assert lines == ["epoch 1  step 2/4  loss 0.7500  about 214 s left".replace("214 s", duration(11 / 2 * 38))]
    shows.epoch({"epoch": 1, "seconds": 20.0, **ROW})
    shows.begin(1, 2, 320)  # a sampler may choose fewer chips
    shows.epoch({"epoch": 2, "seconds": 10.0, **ROW})
    assert lines[1].startswith("epoch 1/10  train 0.5000  val 0.4000  accuracy 0.9000  jaccard 0.8000  mean IoU 0.7000")
    assert lines[1].endswith("  32 chips/s  at most 3 min left")
    assert lines[2].endswith(f"  32 chips/s  at most {duration(8 * (0.3 * 10 + 0.7 * 20))} left")


def test_the_bar_on_a_terminal(clock: Clock, screen: Screen) -> None:
    shows = Display(10, lambda line: print(line, file=screen.file, flush=True), screen.file)
    losses = torch.tensor([1.0, 0.5, 0.0, 0.0])
    with shows:
        shows.begin(0, 4, 640)
        clock.now += 5
        shows.step(2, losses, known=True)
        (bar,) = shown(screen.read())
        assert bar == f"epoch 1/10 [{'#' * 12}{'.' * 12}] 50 %  loss 0.7500  about 95 s left"
        shows.epoch({"epoch": 1, "seconds": 20.0, **ROW})
        shows.begin(1, 4, 640)
        clock.now += 5
        shows.step(1, losses, known=True)
        line, bar = shown(screen.read())
        assert line.startswith("epoch 1/10  train") and line.endswith("at most 3 min left")
        assert bar == f"epoch 2/10 [{'#' * 6}{'.' * 18}] 25 %  loss 1.0000  at most 3 min left"
        clock.now += 5
        shows.step(4, losses, known=True)
    assert shown(screen.read()) == [""]  # nothing stays behind where an error's line will stand


def test_a_gpu_is_not_waited_for_by_the_bar(clock: Clock, screen: Screen) -> None:
    shows, losses = Display(2, print, screen.file), NoSync()
    shows.begin(0, 1000, 8)
    drawn = 0
    for done in range(1, 1001):
        clock.now += 0.05
        shows.step(done, losses, known=done % 100 == 0)  # type: ignore[arg-type]
        drawn += screen.read().count("\r")
    assert losses.reads <= 10 and shows.look_s == 1.0 and Display(2, print).look_s == 10.0
    assert 100 < drawn < 500  # ten times a second at most


def test_a_bar_is_no_longer_than_the_terminal_is_wide(clock: Clock) -> None:
    narrow = Screen(30)
    shows = Display(10, print, narrow.file)
    shows.begin(0, 4, 640)
    clock.now += 5
    shows.step(2, torch.ones(4), known=True)
    (bar,) = shown(narrow.read())
    assert len(bar) == 29
    narrow.close()


def test_a_terminal_that_goes_away_stops_the_bar_alone(clock: Clock, screen: Screen) -> None:
    lines: list[str] = []
    gone = open("/dev/full", "w")  # noqa: SIM115 - every write fails
    shows = Display(10, lines.append, gone)
    shows.begin(0, 4, 640)
    clock.now += 5
    shows.step(2, torch.ones(4), known=True)
    shows.epoch({"epoch": 1, "seconds": 20.0, **ROW})
    assert len(lines) == 1


def test_a_bar_is_for_a_terminal_of_one_job(monkeypatch: pytest.MonkeyPatch, screen: Screen) -> None:
    monkeypatch.delenv(display.NO_BAR, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen.file)
    assert terminal() is screen.file
    for name, value in ((display.NO_BAR, "1"), ("TERM", "dumb")):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert terminal() is None
    with open(os.devnull, "w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        assert terminal() is None


def test_the_rules_want_no_bar() -> None:
    rules = Path(__file__).resolve().parents[3] / "rules" / "common.smk"
    assert re.search(rf'^os\.environ\["{display.NO_BAR}"\] = "1"', rules.read_text(), re.MULTILINE)


def test_a_training_on_a_terminal(
    region: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, screen: Screen
) -> None:
    monkeypatch.delenv(display.NO_BAR, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen.file)
    monkeypatch.setattr(display, "DRAW_S", 0.0)
    pieces: list[str] = []

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        pieces.append(screen.read())

    train("run", a_spec(epochs=2), "code", data=region, out=tmp_path / "out", work=tmp_path / "work", log=log)
    text = "".join(pieces) + screen.read()
    assert "epoch 1/2 [####....................] 16 %  loss" in text
    lines = shown(text)
    assert len(lines) == 5 and lines[0].startswith("chips wait") and lines[-1] == ""
    assert lines[1].startswith("epoch 1/2  train") and lines[2].startswith("epoch 2/2  train")
    assert lines[2].endswith("at most 0 s left") and lines[3].startswith("2 epochs, best")
