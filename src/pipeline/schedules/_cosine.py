"""What `cosine` checks while the Snakefile is parsed."""

from __future__ import annotations

from typing import Any

from pipeline.schedules._ranges import check_annealing, fit_annealing


def check(*, epochs: int | None, warmup: int, min_lr: float) -> None:
    """ConfigError for a parameter out of range."""
    check_annealing("cosine", epochs=epochs, warmup=warmup, min_lr=min_lr)


def fits(train: dict[str, Any], **params: Any) -> None:
    """ConfigError where it does not fit the settings of the training."""
    fit_annealing("cosine", train, **params)
