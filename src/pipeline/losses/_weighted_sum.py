"""What a weighted sum of losses checks before anything heavy is imported, and the weights of its schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pipeline import variants
from pipeline.errors import ConfigError

Schedule = Literal["constant", "linear", "exponential", "rebalance", "search"]
Term = tuple[str, dict[str, Any]]


def check(
    *,
    terms: Sequence[Any],
    weights: Sequence[Any] | None,
    schedule: Schedule,
    every: int | None,
    candidates: Sequence[Any],
    try_epochs: int | None,
    **others: Any,
) -> dict[str, Any]:
    """The parameters of `weighted_sum` with every term in its shortest form: its own defaults left out.

    So two ways to write a sum are one run, and a new parameter of a term, at its default, changes no run's id.

    Raises:
        ConfigError: for an unknown term or parameter of one, and for numbers that do not fit.
    """
    short = []
    for name, params in uses(terms=terms):
        own = variants.shortest("losses", name, params)
        short.append({name: own} if own else name)
    if not short:
        raise _mistake("terms is empty: list one loss or more")
    if schedule != "constant" and len(short) < 2:
        raise _mistake(f"schedule {schedule} moves weight between the last two terms; there is one")
    if weights is not None and len(weights) != len(short):
        raise _mistake(f"{len(weights)} weights for {len(short)} terms")
    if weights is not None and not (all(map(_is_weight, weights)) and any(weights)):
        raise _mistake(f"weights must be finite numbers of 0 or more, one of them above 0, got {list(weights)}")
    if every is not None and every < 1:
        raise _mistake(f"every {every} is below 1")
    _check_numbers(**others)
    _check_search(candidates, try_epochs, period(schedule, every))
    given = {"weights": weights, "schedule": schedule, "every": every, "candidates": candidates}
    return {"terms": short, **given, "try_epochs": try_epochs, **others}


def uses(*, terms: Sequence[Any], **_: Any) -> list[Term]:
    """(name, all parameters) of the terms.

    Raises:
        ConfigError: for an entry that is no loss, or a weighted sum itself.
    """
    found = []
    for raw in terms:
        name, params = variants.entry_of(raw, "loss weighted_sum: terms")
        if name == "weighted_sum":
            raise _mistake("a term must not be a weighted sum itself: list its terms here")
        found.append((name, variants.check("losses", name, params, "loss weighted_sum: terms")))
    return found


def _check_numbers(*, start: float, alpha0: float, beta: float, change: float, first: int, **_: Any) -> None:
    for name, value, low in (("start", start, 0), ("beta", beta, 0), ("change", change, -1)):
        if not low <= value <= 1:
            raise _mistake(f"{name} {value} is not between {low} and 1")
    if alpha0 < 0:
        raise _mistake(f"alpha0 {alpha0} is below 0")
    if first < 1:
        raise _mistake(f"first {first} is below 1")


def _check_search(candidates: Sequence[Any], try_epochs: int | None, every: int) -> None:
    fit = all(_is_weight(w) and w <= 1 for w in candidates)
    if not fit or not candidates or len(set(candidates)) != len(candidates):
        raise _mistake(f"candidates must be different numbers from 0 to 1, got {list(candidates)}")
    if try_epochs is not None and not 1 <= try_epochs <= every:
        raise _mistake(f"try_epochs {try_epochs} is not between 1 and the {every} epochs between searches")


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _mistake(text: str) -> ConfigError:
    return ConfigError(f"loss weighted_sum: {text}")


def period(schedule: Schedule, every: int | None) -> int:
    """Epochs between two changes of the weights: `every`, or the papers' 20 (rebalance) and 30 (search)."""
    return every if every is not None else 30 if schedule == "search" else 20


def base_weights(count: int, weights: Sequence[float] | None, schedule: Schedule) -> tuple[float, ...]:
    """The weights that the schedule multiplies: as given; else equal shares (constant) or 1 each."""
    if weights is not None:
        return tuple(float(weight) for weight in weights)
    return (1 / count if schedule == "constant" else 1.0,) * count


def factors(
    schedule: Schedule, epoch: int, *, start: float, alpha0: float, beta: float, change: float, every: int
) -> tuple[float, float]:
    """What the schedule makes of the last two weights in `epoch`, which counts from 0; see `weighted_sum.build`.

    A search has `start` here: the weight that it has chosen is no function of the epoch.
    """
    if schedule == "constant":
        return 1.0, 1.0
    if schedule == "linear":
        return 1.0, (epoch + 1) * alpha0
    if schedule == "exponential":
        return math.exp(-beta * (epoch + 1)), -math.expm1(-beta * (epoch + 1))
    alpha = start
    if schedule == "rebalance":
        alpha = min(1.0, max(0.0, start + change * (epoch // every)))
    return 1 - alpha, alpha
