"""What `delayed_exponential` checks while the Snakefile is parsed."""

from __future__ import annotations

from pipeline.schedules._ranges import require

NAME = "delayed_exponential"


def check(*, start: int, every: int, gamma: float, counted_from: str) -> None:
    """ConfigError for a parameter out of range."""
    require(NAME, start >= 1, f"start {start} is below 1")
    require(NAME, every >= 1, f"every {every} is below 1")
    require(NAME, 0 < gamma <= 1, f"gamma {gamma} must be above 0 and at most 1")
