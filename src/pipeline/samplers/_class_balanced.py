"""What `class_balanced` takes."""

from __future__ import annotations

from pipeline.samplers._values import check_least, check_share


def check(*, power: float, chips: int | None) -> None:
    """ConfigError for parameters that do not fit."""
    check_share("class_balanced", "power", power)
    check_least("class_balanced", "chips", chips)
