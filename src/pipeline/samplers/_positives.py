"""What `positives` takes."""

from __future__ import annotations

from pipeline.samplers._values import check_least, check_names, check_share


def check(*, classes: list[str] | None, min_px: int, min_share: float, chips: int | None) -> None:
    """ConfigError for parameters that do not fit."""
    check_names("positives", classes)
    check_least("positives", "min_px", min_px)
    check_share("positives", "min_share", min_share)
    check_least("positives", "chips", chips)
