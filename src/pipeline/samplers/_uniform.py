"""What `uniform` takes."""

from __future__ import annotations

from pipeline.samplers._values import check_least


def check(*, chips: int | None) -> None:
    """ConfigError for parameters that do not fit."""
    check_least("uniform", "chips", chips)
