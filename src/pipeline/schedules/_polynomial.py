"""What `polynomial` checks while the Snakefile is parsed."""

from __future__ import annotations

from typing import Any

from pipeline.schedules._ranges import check_annealing, fit_annealing, require


def check(*, power: float, **others: Any) -> None:
    """ConfigError for a parameter out of range."""
    require("polynomial", power > 0, f"power {power} is not above 0")
    check_annealing("polynomial", **others)


def fits(train: dict[str, Any], *, power: float, **others: Any) -> None:
    """ConfigError where it does not fit the settings of the training."""
    fit_annealing("polynomial", train, **others)
