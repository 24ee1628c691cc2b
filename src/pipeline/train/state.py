"""The state of a training: what a killed run resumes from, and what a weight search goes back to."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from pipeline.files import atomic_file
from pipeline.train.room import room

State = dict[str, Any]
FILE = "state.pt"
SHARE = 0.05  # of the time, at most, goes into writing the state
KEYS = {"fingerprint", "model", "optimizer", "progress", "average", "errors", "kept", "search"}
Weights = dict[str, torch.Tensor]


@dataclass
class Progress:
    """What a resumed run must know besides weights and optimiser.

    Attributes:
        epoch: complete epochs.
        bad_epochs: epochs since what early stopping watches was best.
        watched: its best value; NaN before the first.
        stage: of the schedule, in the last epoch.
        best: checkpoint → the value of its score.
        history: a row per epoch.
        loss_weight: the weight that a search has chosen or tries.
    """

    epoch: int = 0
    bad_epochs: int = 0
    watched: float = math.nan
    stage: int = 0
    best: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    loss_weight: float | None = None


@dataclass
class Kept:
    """A checkpoint in memory: the weights of the best epoch so far and what its file says of it."""

    weights: Weights
    facts: dict[str, Any]


@dataclass
class Learner:
    """A network, its optimiser, what else changes in training, and how far they are.

    `errors` [N] is the share of wrong pixels of each training chip when it was last shown.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    progress: Progress
    average: AveragedModel | None = None
    errors: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    kept: dict[str, Kept] = field(default_factory=dict)

    def scored(self) -> torch.nn.Module:
        """The network that is validated and kept: the moving average where there is one."""
        return self.model if self.average is None else self.average.module

    def keep(self, name: str, facts: dict[str, Any]) -> None:
        """Keep a copy of the weights as they are now."""
        weights = {key: value.detach().clone() for key, value in self.scored().state_dict().items()}
        self.kept[name] = Kept(weights, facts)

    def state(self) -> State:
        """The state as plain values and tensors; the tensors are the network's own, not copies."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": {name: getattr(self.progress, name) for name in self.progress.__dataclass_fields__},
            "average": None if self.average is None else self.average.state_dict(),
            "errors": self.errors,
            "kept": {name: {"weights": kept.weights, "facts": kept.facts} for name, kept in self.kept.items()},
        }

    def snapshot(self) -> State:
        """A copy of the state in main memory, which later steps leave as it is."""
        copied: State = _to_memory(self.state())
        return copied

    def restore(self, state: State) -> None:
        """Go back to a state, which is left as it is."""
        own = copy.deepcopy(state)  # an optimiser keeps the tensors that it is given
        self.model.load_state_dict(own["model"])
        self.optimizer.load_state_dict(own["optimizer"])
        self.progress = Progress(**own["progress"])
        if self.average is not None:
            self.average.load_state_dict(own["average"])
        self.errors.copy_(own["errors"])
        self.kept = {name: Kept(**entry) for name, entry in own["kept"].items()}


def _to_memory(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _to_memory(item) for key, item in value.items()}
    return [_to_memory(item) for item in value] if isinstance(value, list) else copy.deepcopy(value)


class Saver:
    """Writes the state after epochs, as often as a small share of the time allows."""

    def __init__(self, work: Path, fingerprint: str) -> None:
        self.path = work / FILE
        self.fingerprint = fingerprint
        self._cost = 0.0
        self._since = time.monotonic()

    def save(self, learner: Learner, search: State | None, last: bool = False) -> bool:
        """Write the state of the last complete epoch and of a search under way; True when it was written.

        It is left out while writing would take more than a twentieth of the time; the last epoch's is always written.
        """
        begin = time.monotonic()
        if not last and begin - self._since < self._cost / SHARE:
            return False
        state = {"fingerprint": self.fingerprint, **learner.state(), "search": search}
        with (
            room("the resume state", self.path, _size(state)),
            atomic_file(self.path) as temporary,
            open(temporary, "wb") as handle,  # torch's own loses why it could not write
        ):
            torch.save(state, handle)
        self._since = time.monotonic()
        self._cost = self._since - begin
        return True


def _size(value: Any) -> int:
    """Bytes of all tensors in a state."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 0


def load(work: Path, fingerprint: str, log: Callable[[str], None]) -> State | None:
    """The state in `work`; what is damaged or belongs to another spec, data or code is deleted, in one line.

    Only tensors and plain values are read: a file that would run code is a damaged one.
    """
    path = work / FILE
    if not path.is_file():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of foreign files: they are refused below
            state: State = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError("no state")
        matches = state["fingerprint"] == fingerprint
        if matches and (state.keys() != KEYS or state["progress"].keys() != Progress.__dataclass_fields__.keys()):
            raise KeyError("a state of another layout")
    except Exception as error:  # a damaged file: torch raises many kinds
        discard(work, log, error)
        return None
    if not matches:
        log(f"the resume state of {work.name} is of another spec, data or code: training from the start")
        path.unlink(missing_ok=True)
        return None
    return state


def discard(work: Path, log: Callable[[str], None], error: Exception) -> None:
    """Delete the state in `work`, which cannot be used for `error`, and say so."""
    log(f"the resume state of {work.name} is damaged ({type(error).__name__}): training from the start")
    (work / FILE).unlink(missing_ok=True)
