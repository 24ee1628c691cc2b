"""Parameters of `boundary_f1`, checked while the Snakefile is parsed. Light: no NumPy."""

from __future__ import annotations

import math
from typing import Any

from pipeline.errors import ConfigError


def check(*, theta: list[Any], neighbours: int, empty: str) -> None:
    """ConfigError unless `theta` lists distances in pixels above 0, each once."""
    numbers = [t for t in theta if isinstance(t, int | float) and not isinstance(t, bool)]
    fit = len(numbers) == len(theta) and all(math.isfinite(t) and t > 0 for t in numbers)
    if not fit or not numbers or len(set(numbers)) < len(numbers):
        raise ConfigError(f"metric boundary_f1: theta must list distances in pixels above 0, each once, got {theta}")
