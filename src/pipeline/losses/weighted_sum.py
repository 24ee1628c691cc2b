"""Weighted sums of losses whose weights are constant, follow the epochs, or are searched for while training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from pipeline import variants
from pipeline.errors import ConfigError
from pipeline.losses._weighted_sum import Schedule, base_weights, factors, period, uses
from pipeline.losses.target import IGNORE, check_weights


def build(
    *,
    terms: Sequence[Any] = ("generalized_dice", "focal"),
    weights: list[float] | None = None,
    schedule: Literal["constant", "linear", "exponential", "rebalance", "search"] = "constant",
    start: float = 0.5,
    alpha0: float = 0.01,
    beta: float = 0.05,
    change: float = 0.2,
    every: int | None = None,
    first: int = 8,
    candidates: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    try_epochs: int | None = None,
    score: Literal["val_mean_iou", "val_accuracy", "val_jaccard_coefficient"] = "val_mean_iou",
    class_weights: list[float] | None = None,
    ignore_index: int = 255,
) -> nn.Module:
    """Weighted sum L = Σ_i w_i L_i of losses; by default the Mars report's, generalized Dice and focal at ½ each.

    A schedule moves the weights of the last two terms, L1 and L2; any terms before them keep theirs. With k the number
    of the epoch, from 1, these factors stand before the weights:

    - ``constant``: none, L = w1 L1 + w2 L2.
    - ``linear``: L1 + α(k) L2 with α(k) = k α0.
    - ``exponential``: (1 − α(k)) L1 + α(k) L2 with α(k) = 1 − e^(−β k).
    - ``rebalance``: (1 − α) L1 + α L2; α is `start` in the first `every` epochs and moves by `change`, within 0 to 1,
      each `every` epochs. The thesis has 0.5, 0.2 and 20, but no direction: ours is towards L2, the boundary's.
    - ``search``: (1 − w) L1 + w L2, the boundary paper's BCE + (1 − w) L_IoU + w L_BF1 with the terms
      [cross_entropy, jaccard, boundary_f1]. w is `start` until epoch `first` has ended. Then, and each `every` epochs
      again, each w of `candidates` is trained for `try_epochs` epochs from the same state; the one whose last epoch has
      the highest `score` is kept, network and all, and training goes on from it. The engine does this
      (`pipeline.train.weight_search`); it multiplies the training's time by the number of candidates while they last.

    Since values under other weights do not compare, the engine scores validation under the weights of the last epoch
    that the run may have, a search under w = `start`; early stopping and ``val_loss`` go by these.

    Args:
        terms: losses, each a name or {name: {parameter: value}}.
        weights: a weight per term, 0 or more; None is equal shares that add up to 1 (constant) or 1 each (otherwise).
        schedule: see above; all but constant need two terms.
        start: α of rebalance or w of search at first, 0 to 1.
        alpha0: α0 of linear, 0 or more; the papers give none, this is Kervadec's step per epoch.
        beta: β of exponential, 0 to 1; the thesis gives none.
        change: what rebalance adds to α, −1 to 1.
        every: epochs between changes; None is 20 for rebalance, 30 for search.
        first: epochs before the first search, 1 or more.
        candidates: values of w that a search tries, in this order; of equal scores the first is kept.
        try_epochs: how long each is trained, `every` at most; None is until the next search, as the paper has it.
        score: the validation score that decides.
        class_weights: a weight per class for each term that has none of its own.
        ignore_index: one more value of the target that is ignored, besides 255, by each term that has none of its own.

    Raises:
        ConfigError: for an unknown term or parameter of one, or a number out of range.
    """
    check_weights("weighted_sum", class_weights)
    modules, dicts = [], []
    for name, params in uses(terms=terms):
        shared = {"class_weights": (class_weights, None), "ignore_index": (ignore_index, IGNORE)}
        loss: nn.Module = variants.load("losses", name).build(**_with_shared(name, params, shared))
        modules.append(loss)
        wants = (variants.declared("losses", name, constant, ()) for constant in ("OUTPUTS", "TARGETS"))
        dicts.append(tuple(map(bool, wants)))
    settings = {"start": start, "alpha0": alpha0, "beta": beta, "change": change, "every": period(schedule, every)}
    loss = WeightedSum(modules, dicts, base_weights(len(modules), weights, schedule), schedule, settings)
    if schedule == "search":
        length = try_epochs or settings["every"]
        times = {"first": first, "every": settings["every"], "length": length}
        loss.search = {**times, "candidates": [float(weight) for weight in candidates], "score": score}
    return loss


def _with_shared(name: str, params: dict[str, Any], shared: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """The parameters of a term with the sum's own (value, default), where the term has none of its own."""
    found = dict(params)
    for key, (value, default) in shared.items():
        if value != default and key not in params:
            raise ConfigError(f"loss weighted_sum: {key}: the term {name} takes none")
        if value != default and params[key] == default:
            found[key] = value
    return found


class WeightedSum(nn.Module):
    """The module behind `build`; its weights are those of the first epoch until `on_epoch` is called.

    Attributes:
        search: what `pipeline.train.weight_search` shall do, where the schedule is a search.
    """

    search: dict[str, Any] | None = None

    def __init__(
        self,
        terms: Sequence[nn.Module],
        dicts: Sequence[tuple[bool, ...]],
        weights: Sequence[float],
        schedule: Schedule,
        settings: dict[str, Any],
    ) -> None:
        super().__init__()
        self.terms = nn.ModuleList(terms)
        self.dicts = tuple(dicts)
        self.base = tuple(weights)
        self.schedule: Schedule = schedule
        self.settings = settings
        self.on_epoch(0)

    def on_epoch(self, epoch: int, share: float | None = None) -> None:
        """Take the weights of an epoch, a pure function of the arguments.

        Args:
            epoch: how many epochs are complete, so 0 in the first.
            share: w of a search; None is its `start`. Other schedules leave it aside.
        """
        settings = self.settings if share is None or self.schedule != "search" else {**self.settings, "start": share}
        pair = factors(self.schedule, epoch, **settings)
        last = self.base[-2:]
        self.weights = (
            *self.base[:-2],
            *(weight * factor for weight, factor in zip(last, pair[-len(last) :], strict=True)),
        )

    @property
    def changing_weight(self) -> float | None:
        """The last term's weight where it changes between epochs; None where it is constant."""
        return None if self.schedule == "constant" else self.weights[-1]

    def forward(
        self,
        outputs: torch.Tensor | dict[str, torch.Tensor],
        target: torch.Tensor | dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """Return the scalar loss of logits [N, C, H, W] and target [N, H, W] int64.

        Either may be a dict with "mask" first; a term gets the dict only if it declares that it needs more of it.
        """
        total: torch.Tensor | None = None
        for term, weight, (wants_outputs, wants_targets) in zip(self.terms, self.weights, self.dicts, strict=True):
            value = weight * term(_part(outputs, wants_outputs), _part(target, wants_targets))
            total = value if total is None else total + value
        assert total is not None
        return total


def _part(given: torch.Tensor | dict[str, torch.Tensor], whole: bool) -> torch.Tensor | dict[str, torch.Tensor]:
    return given["mask"] if isinstance(given, dict) and not whole else given
