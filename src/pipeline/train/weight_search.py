"""Search for the weight of a loss while training: try each from the same state, keep the best, go on from it.

The boundary paper's policy (`pipeline.losses.weighted_sum`, schedule search). A try is ordinary training from a copy of
the state in memory, checkpoints included, with the same batches, since these are a function of seed, epoch and step.
The epochs of the try that wins are the run's; those of the others leave no trace but a line in the log. What a search
under way knows is part of the resume state, so that a killed run ends with the weights of an undisturbed one.
"""

from __future__ import annotations

import math
from typing import Any

from pipeline.train.state import Learner, State


class WeightSearch:
    """The searches of one run; call `advance` after every epoch."""

    def __init__(self, wish: dict[str, Any], epochs: int, patience: int) -> None:
        """Take over what a loss wishes.

        Args:
            wish: of the loss: `first`, epochs before the first search; `every`, epochs between searches; `length`,
                epochs of a try; `candidates`, weights; `score`, the column of the history that decides, highest best.
            epochs: how many the run may have.
            patience: epochs without a better validation loss that end a try, as they end the run.
        """
        self.first: int = wish["first"]
        self.every: int = wish["every"]
        self.length: int = wish["length"]
        self.candidates: list[float] = wish["candidates"]
        self.score: str = wish["score"]
        self.epochs = epochs
        self.patience = patience
        self._candidate = 0
        self._base: State | None = None
        self._best: State | None = None

    @property
    def never(self) -> str | None:
        """A line for the log where the run is too short for a search; else None."""
        if self.first < self.epochs:
            return None
        return f"loss weight: no search, since the first comes after epoch {self.first} and the run has {self.epochs}"

    def state(self) -> State | None:
        """What `resume` takes; None between searches."""
        if self._base is None:
            return None
        return {"candidate": self._candidate, "base": self._base, "best": self._best}

    def resume(self, state: State | None) -> None:
        """Take up a search that was under way."""
        if state is not None:
            self._candidate, self._base, self._best = state["candidate"], state["base"], state["best"]

    @property
    def trial(self) -> str | None:
        """A name of the try that is under way; None between searches."""
        if self._base is None:
            return None
        return f"try_{self.candidates[self._candidate]:g}_after_{self._base['progress']['epoch']}"

    def settled(self, history: list[dict[str, float]]) -> list[dict[str, float]]:
        """The epochs of the history that no search will take back."""
        return history if self._base is None else history[: self._base["progress"]["epoch"]]

    def advance(self, learner: Learner) -> list[str]:
        """After a complete epoch: begin a search, or end a try and begin the next, where it is time.

        All is done again, with the same outcome, when a process is killed before the state after this epoch is saved.
        Returns lines for the log.
        """
        lines = []
        if self._base is not None and self._try_ended(learner):
            lines.append(self._judge(learner))
            if self._candidate + 1 < len(self.candidates):
                learner.restore(self._base)
                self._begin_try(learner, self._candidate + 1)
            else:
                lines.append(self._adopt_best(learner))
        if self._base is None and self._due(learner):
            self._base = learner.snapshot()
            self._begin_try(learner, 0)
            tried = ", ".join(f"{weight:g}" for weight in self.candidates)
            lines.append(
                f"loss weight: trying {tried} from epoch {learner.progress.epoch} on, for {self.length} epochs at most"
            )
        return lines

    def _over(self, learner: Learner) -> bool:
        return learner.progress.epoch >= self.epochs or learner.progress.bad_epochs >= self.patience

    def _due(self, learner: Learner) -> bool:
        since = learner.progress.epoch - self.first
        return since >= 0 and since % self.every == 0 and not self._over(learner)

    def _try_ended(self, learner: Learner) -> bool:
        assert self._base is not None
        begun: int = self._base["progress"]["epoch"]
        return learner.progress.epoch >= begun + self.length or self._over(learner)

    def _begin_try(self, learner: Learner, candidate: int) -> None:
        self._candidate = candidate
        learner.progress.loss_weight = self.candidates[candidate]

    def _judge(self, learner: Learner) -> str:
        row, best = learner.progress.history[-1], self._best
        score = _number(row[self.score])
        if best is None or score > _number(best["progress"]["history"][-1][self.score]):
            self._best = learner.snapshot()
        weight, after = self.candidates[self._candidate], learner.progress.epoch
        return f"loss weight {weight:g}: {self.score} {row[self.score]:.4f} after epoch {after}"

    def _adopt_best(self, learner: Learner) -> str:
        assert self._best is not None
        learner.restore(self._best)
        self._base = self._best = None
        weight, after = learner.progress.loss_weight, learner.progress.epoch
        return f"loss weight {weight:g} is kept; training goes on after epoch {after}"


def _number(score: float) -> float:
    return -math.inf if math.isnan(score) else score
