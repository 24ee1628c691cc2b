"""The state of a training: what a killed run resumes from, and what a weight search goes back to."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipeline.files import atomic_file

State = dict[str, Any]
FILE = "state.pt"
CHECKPOINT_FOLDER = "checkpoints"


@dataclass
class Progress:
    """What a resumed run must know besides weights and optimiser.

    `folder` holds the checkpoints of the epochs so far; `loss_weight` is the weight that a search has chosen or tries.
    """

    epoch: int = 0
    bad_epochs: int = 0
    best_loss: float = math.inf
    best: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    folder: str = CHECKPOINT_FOLDER
    loss_weight: float | None = None


@dataclass
class Learner:
    """A network, its optimiser, and how far they are."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    progress: Progress

    def state(self) -> State:
        """The state as plain values and tensors; the tensors are the network's own, not copies."""
        progress = {name: getattr(self.progress, name) for name in self.progress.__dataclass_fields__}
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "progress": progress}

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


def _to_memory(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _to_memory(item) for key, item in value.items()}
    return [_to_memory(item) for item in value] if isinstance(value, list) else copy.deepcopy(value)


def save(work: Path, fingerprint: str, learner: Learner, search: State | None) -> None:
    """Write the state of the last complete epoch, and that of a search under way, into the folder `work`."""
    state = {"fingerprint": fingerprint, **learner.state(), "search": search}
    with atomic_file(work / FILE) as temporary:
        torch.save(state, temporary)


def load(work: Path, fingerprint: str, log: Callable[[str], None]) -> State | None:
    """The state in `work`; what is damaged or belongs to another spec, data or code is deleted, in one line."""
    path = work / FILE
    if not path.is_file():
        return None
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
        matches = state["fingerprint"] == fingerprint
    except Exception as error:  # a damaged file: torch raises many kinds
        log(f"the resume state of {work.name} is damaged ({type(error).__name__}): training from the start")
        matches = False
    else:
        if not matches:
            log(f"the resume state of {work.name} is of another spec, data or code: training from the start")
    if matches:
        return state
    path.unlink()
    for folder in work.glob(f"{CHECKPOINT_FOLDER}*"):
        shutil.rmtree(folder, ignore_errors=True)
    return None
