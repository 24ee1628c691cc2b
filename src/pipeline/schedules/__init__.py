"""Learning-rate schedules: one file each, made by name with `create`. The standard library alone.

A schedule is a function without state of (epoch, lr, history), so that a resumed run, or one that a weight search has
set back, goes on as an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline import variants

if TYPE_CHECKING:
    from pipeline.schedules._stage import Stage

History = list[dict[str, float]]


def create(name: str, **params: Any) -> Callable[[int, float, History], Stage]:
    """Make schedule `name`.

    Args:
        name: a file of src/pipeline/schedules/ with a `build`.
        params: its parameters; the rest take their defaults.

    Returns:
        A function of the epoch that begins (counted from 0), the run's `lr`, and the history of the epochs before (a
        dict per epoch: ``epoch`` counted from 1, ``lr``, ``train_loss``, ``val_loss``, ``val_accuracy``, …), which
        gives the `Stage` of the epoch.

    Raises:
        ConfigError: for an unknown schedule or parameter, or a wrong value.
    """
    resolved = variants.check("schedules", name, params, "schedules.create")
    schedule: Callable[[int, float, History], Stage] = variants.load("schedules", name).build(**resolved)
    return schedule
