"""What several schedules check of their parameters while the Snakefile is parsed."""

from __future__ import annotations

from typing import Any

from pipeline.errors import ConfigError


def require(schedule: str, fine: bool, text: str) -> None:
    """ConfigError that names `schedule` and says `text`, unless `fine`."""
    if not fine:
        raise ConfigError(f"schedule {schedule}: {text}")


def check_annealing(schedule: str, *, epochs: int | None, warmup: int, min_lr: float) -> None:
    """ConfigError for values of a schedule that falls over all epochs, `pipeline.schedules._annealing`."""
    require(schedule, warmup >= 0, f"warmup {warmup} is below 0")
    fine = epochs is None or epochs > warmup
    require(schedule, fine, f"epochs {epochs} must be more than the {warmup} epochs of warmup")
    require(schedule, min_lr >= 0, f"min_lr {min_lr} is below 0")


def fit_annealing(schedule: str, train: dict[str, Any], *, epochs: int | None, warmup: int, min_lr: float) -> None:
    """ConfigError where such a schedule does not fit the settings of the training."""
    if epochs is None:
        check_annealing(schedule, epochs=train["epochs"], warmup=warmup, min_lr=min_lr)
    fit_floor(schedule, train, min_lr)


def fit_floor(schedule: str, train: dict[str, Any], min_lr: float) -> None:
    """ConfigError unless the lowest rate is below the run's."""
    require(schedule, min_lr < train["lr"], f"min_lr {min_lr:g} must be below the run's lr {train['lr']:g}")
