"""What `staged_unfreezing` checks while the Snakefile is parsed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, get_args

from pipeline.errors import ConfigError, choices
from pipeline.schedules._stage import Part

KEYS = ("part", "lr", "epochs")


def check(*, stages: Sequence[Any]) -> dict[str, Any]:
    """The parameters with all keys of every stage; ConfigError for what is no stage."""
    if not stages:
        raise _mistake("stages is empty: list one or more")
    found = [_stage(raw, f"stage {number}") for number, raw in enumerate(stages, 1)]
    for number, stage in enumerate(found[:-1], 1):
        if stage["epochs"] is None:
            raise _mistake(f"stage {number} needs epochs: only the last may go on to the run's end")
    return {"stages": found}


def parts(*, stages: Sequence[dict[str, Any]]) -> list[str]:
    """The parts of a network that learn alone in some stage, besides all."""
    return sorted({stage["part"] for stage in stages} - {"all"})


def begins(stages: Sequence[dict[str, Any]]) -> list[int]:
    """The first epoch of each stage, counted from 0."""
    return list(itertools.accumulate((stage["epochs"] for stage in stages[:-1]), initial=0))


def fits(train: dict[str, Any], *, stages: Sequence[dict[str, Any]]) -> None:
    """ConfigError where the run's epochs end before the last stage begins."""
    begin, last = begins(stages)[-1], stages[-1]["epochs"]
    if train["epochs"] <= begin:
        enough = f"{begin + 1} or more" if last is None else f"{begin + last}"
        raise _mistake(
            f"the run's {train['epochs']} epochs end before stage {len(stages)} begins; set epochs to {enough}, or "
            "shorten the stages"
        )


def _stage(raw: Any, place: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise _mistake(f"{place} must be a mapping of {', '.join(KEYS)}, got {raw!r}")
    for key in raw:
        if key not in KEYS:
            raise _mistake(f"{place} has no key {key!r}; {choices(str(key), KEYS)}")
    part, lr, epochs = raw.get("part", "all"), raw.get("lr"), raw.get("epochs")
    if part not in get_args(Part):
        raise _mistake(f"{place}: no part {part!r}; {choices(str(part), get_args(Part))}")
    if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 < lr < math.inf:
        raise _mistake(f"{place}: lr must be a number above 0, got {lr!r}")
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1):
        raise _mistake(f"{place}: epochs must be a whole number of 1 or more, got {epochs!r}")
    return {"part": part, "lr": float(lr), "epochs": epochs}


def _mistake(text: str) -> ConfigError:
    return ConfigError(f"schedule staged_unfreezing: {text}")
