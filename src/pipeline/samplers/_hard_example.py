"""What `hard_example` takes."""

from __future__ import annotations

from pipeline.samplers._values import check_least, check_share


def check(*, share: float, hardest: float, chips: int | None) -> None:
    """ConfigError for parameters that do not fit."""
    check_share("hard_example", "share", share)
    check_share("hard_example", "hardest", hardest, zero=False)
    check_least("hard_example", "chips", chips)
