"""The frozen defaults of a run's settings, and which variants its training names. The standard library alone.

A run's spec may lack settings that came later: `train_settings` fills them in. A new setting's default means "as
before"; changing a default needs a new SPEC_VERSION (`pipeline.runs`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

FROZEN_DATA: dict[str, Any] = {"normalize": "none", "train_subset": None, "val_subset": None, "resize_px": None}
FROZEN_TRAIN: dict[str, Any] = {
    "optimizer": "rmsprop",
    "lr": 1e-3,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "schedule": {"name": "constant", "params": {}},
    "batch_size": 32,
    "micro_batch": None,
    "epochs": 30,
    "patience": 5,
    "monitor": "val_loss",
    "checkpoints": ["val_accuracy", "val_jaccard_coefficient"],
    "sampler": {"name": "uniform", "params": {}},
    "flips": False,
    "augment": [],
    "clip_norm": None,
    "ema": None,
    "precision": "fp32",
    "threads": 1,
    "devices": 1,
    "sync_batch_norm": False,
    "deterministic": False,
    "compile": False,
}
"""Of a study's `train`; `pipeline.study_schema` says what each means."""


def train_settings(spec: dict[str, Any]) -> dict[str, Any]:
    """All settings of a run's training: those of its spec, frozen defaults for the rest."""
    return FROZEN_TRAIN | dict(spec["train"])


def train_variants(settings: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(family, ``{"name": …, "params": …}``) of all variants that the settings of a training name."""
    settings = FROZEN_TRAIN | settings
    yield "schedules", settings["schedule"]
    yield "samplers", settings["sampler"]
    for entry in settings["augment"]:
        yield "augment", entry
    if not isinstance(settings["monitor"], str):
        yield "metrics", settings["monitor"]
