"""How a run uses the machine: part of no run, so that an edit retrains nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pipeline.errors import ConfigError

RESIDENCIES = ("auto", "device", "memory", "disk")


@dataclass(frozen=True)
class Options:
    """What ``engine:`` in config/config.yaml says.

    Attributes:
        residency: where chips wait: on the ``device``, in main ``memory``, in their files on ``disk``, or ``auto``.
        runs_per_gpu: runs that share a GPU.
        loggers: where the history of each epoch goes besides history.csv: tensorboard, mlflow, dvclive.
    """

    residency: str = "auto"
    runs_per_gpu: int = 1
    loggers: tuple[str, ...] = ()

    @staticmethod
    def of(text: str) -> Options:
        """From JSON, as the rules pass it; ConfigError for what it cannot be."""
        try:
            given = json.loads(text)
            options = Options(**{**given, "loggers": tuple(given.get("loggers", ()))})
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"--engine must be a JSON object of residency, runs_per_gpu, loggers: {error}") from None
        if options.residency not in RESIDENCIES:
            raise ConfigError(f"--engine: residency must be one of {', '.join(RESIDENCIES)}; got {options.residency!r}")
        return options
