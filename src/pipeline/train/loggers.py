"""Where the history of the epochs goes besides history.csv: what ``engine: {loggers: […]}`` of the config names.

A logger is given an epoch once the resume state that has it is on disk, so that no epoch is given and then trained
again: a killed run leaves neither gaps nor doubles. ``work/<run>/loggers.json`` keeps how many epochs each one has.
Epochs that a search for a loss's weight tries go to a series of their own, ``try_<weight>_after_<epoch>``; those of the
try that wins then come again as the run's. A logger that fails is left out, in one line, and the training goes on.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import ConfigError, choices
from pipeline.files import read_json, write_json
from pipeline.train.history import Row, write_history

FILE = "loggers.json"
SECRET = re.compile(r"(?<=://)[^/@\s]*@")  # user and password of an address
SHOWN = 160  # characters of another library's message
PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "dvclive": "dvclive"}


class Logger(Protocol):
    """One place where epochs go.

    The first `row` of a series in a process says from which epoch on the series is written; what the place has of that
    epoch and later ones is given up for it, or kept instead of it.
    """

    def row(self, series: str, step: int, values: Row) -> None:
        """Take the values of epoch `step` of a series; "" is the run itself."""

    def end(self, step: int, best: Row, status: str) -> None:
        """The training has ended after epoch `step`: FINISHED, FAILED or KILLED."""


def check_loggers(names: Iterable[str]) -> None:
    """ConfigError, in one line, for a logger that does not exist or is not installed."""
    for name in names:
        if name not in PACKAGES:
            raise ConfigError(f"engine.loggers: no logger {name!r}; {choices(name, PACKAGES)}")
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ConfigError(
                f"engine.loggers: {name} is not installed; pip install '.[logging]', or leave it out of config.yaml"
            )


class Loggers:
    """The loggers of one run, and the history so far as ``work/<run>/history.csv``."""

    def __init__(
        self,
        names: Iterable[str],
        run: str,
        spec: dict[str, Any],
        *,
        work: Path,
        folder: Path,
        resumed: bool,
        log: Callable[[str], None],
    ) -> None:
        """Open the loggers `names`.

        Args:
            names: of `PACKAGES`.
            run: the run's id.
            spec: the resolved run; its values become parameters, its region MLflow's experiment.
            work: ``work/<run>``.
            folder: below which they write, ``<folder>/<name>/…``.
            resumed: whether the training goes on from a saved state; else what they had of this run is of no use.
            log: takes one line of text.
        """
        self._work, self._log = work, log
        self._open: dict[str, Logger] = {}
        self._tries: list[tuple[str, Row]] = []
        self._had: dict[str, Any] = read_json(work / FILE) if resumed and (work / FILE).is_file() else {}
        rows: dict[str, int] = self._had.setdefault("rows", {})
        ended: list[str] = self._had.setdefault("ended", [])
        for name in dict.fromkeys(names):
            if name in ended:  # and is published again: it has everything
                continue
            self._guarded(name, partial(self._begin, name, run, spec, folder, name in rows))

    def _begin(self, name: str, run: str, spec: dict[str, Any], folder: Path, resumes: bool) -> None:
        from pipeline.train import _loggers

        if name == "mlflow":
            opened = _loggers.MLflow(folder / name, run, spec, self._had.get(name) if resumes else None)
            if opened.id != self._had.get(name):
                self._had["rows"][name], self._had[name] = 0, opened.id
            self._open[name] = opened
        else:
            kind = _loggers.TensorBoard if name == "tensorboard" else _loggers.DVCLive
            self._open[name] = kind(folder / name / run, spec, resumes)
        self._had["rows"].setdefault(name, 0)
        self._remember()

    def __enter__(self) -> Loggers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.end(0, {}, "FAILED" if issubclass(kind, Exception) else "KILLED")

    def take(self, row: Row, trial: str | None) -> None:
        """An epoch is complete; `trial` names the try of a search that it belongs to."""
        if trial is not None and self._open:
            self._tries.append((trial, row))

    def saved(self, history: list[Row]) -> None:
        """The state is on disk; `history` are the epochs that are the run's for good."""
        write_history(self._work / "history.csv", history)
        tries, self._tries = self._tries, []
        for name in list(self._open):
            self._guarded(name, partial(self._hand_over, name, tries, history))
        if self._open:
            self._remember()

    def _hand_over(self, name: str, tries: list[tuple[str, Row]], history: list[Row]) -> None:
        for series, row in tries:
            self._open[name].row(series, int(row["epoch"]), _values(row))
        for row in history[self._had["rows"][name] :]:
            self._open[name].row("", int(row["epoch"]), _values(row))
        self._had["rows"][name] = max(len(history), self._had["rows"][name])

    def end(self, epoch: int, best: dict[str, float], status: str = "FINISHED") -> None:
        """The training has ended after `epoch` with the best values by checkpoint."""
        values = {f"best/{_plain(name.removeprefix('best_'))}": value for name, value in best.items()}
        for name in list(self._open):
            self._guarded(name, partial(self._open[name].end, epoch, values, status))
        if status == "FINISHED":
            self._had["ended"] += self._open
        if self._open:
            self._remember()
        self._open = {}

    def _remember(self) -> None:
        write_json(self._work / FILE, self._had)

    def _guarded(self, name: str, action: Callable[[], None]) -> None:
        """Do what may fail for reasons of others."""
        try:
            action()
        except Exception as error:  # whatever a library or a server makes of its trouble
            self._open.pop(name, None)
            self._log(f"logger {name} fails and is left out, the training goes on: {_reason(error)}")


def _values(row: Row) -> Row:
    """A row under the names that loggers show: ``val/loss`` for ``val_loss``, so that they group them."""
    names = {name: _plain(name) for name in row if name != "epoch"}
    return {re.sub("^(train|val)_", r"\1/", plain): float(row[name]) for name, plain in names.items()}


def _plain(name: str) -> str:
    """A name that every logger takes; it may have a class's name in it."""
    return re.sub(r"[^\w. -]", "_", name)


def _reason(error: Exception) -> str:
    """The kind of an error and the first line of its message, without passwords."""
    lines = str(error).splitlines() or [""]
    return SECRET.sub("", f"{type(error).__name__}: {lines[0]}")[:SHOWN]
