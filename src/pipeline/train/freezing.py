"""Which weights of a network learn."""

from __future__ import annotations

import torch

from pipeline.errors import RunError
from pipeline.schedules._stage import Part


def freeze(model: torch.nn.Module, part: Part) -> None:
    """Let `part` of a network in training mode learn, and nothing else; see `pipeline.schedules._stage.Stage`.

    Raises:
        RunError: for a network without an ``encoder``, where one is asked for.
    """
    if part != "all":
        raise RunError(f"part {part!r} is not there yet")
