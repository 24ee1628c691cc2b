"""What `reduce_on_plateau` checks while the Snakefile is parsed."""

from __future__ import annotations

from typing import Any

from pipeline.schedules._ranges import fit_floor, require

NAME = "reduce_on_plateau"


def check(
    *,
    monitor: str,
    factor: float,
    patience: int,
    reductions: int | None,
    threshold: float,
    cooldown: int,
    min_lr: float,
) -> None:
    """ConfigError for a parameter out of range."""
    require(NAME, 0 < factor < 1, f"factor {factor} must be above 0 and below 1")
    require(NAME, patience >= 1, f"patience {patience} is below 1")
    require(NAME, reductions is None or reductions >= 1, f"reductions {reductions} is below 1; null sets no limit")
    for name, value in (("threshold", threshold), ("cooldown", cooldown), ("min_lr", min_lr)):
        require(NAME, value >= 0, f"{name} {value} is below 0")


def fits(train: dict[str, Any], *, monitor: str, patience: int, threshold: float, min_lr: float, **_: Any) -> None:
    """ConfigError where the rate could never fall: the early stop, watching the same column, would come first."""
    stops = train["patience"] <= patience and train["monitor"] == monitor and not threshold
    require(
        NAME,
        not stops,
        f"the early stop's patience {train['patience']} ends the run before the rate falls: set the patience of train "
        f"above the schedule's {patience}",
    )
    fit_floor(NAME, train, min_lr)
