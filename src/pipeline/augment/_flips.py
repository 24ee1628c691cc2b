"""What `flips` takes, checked while the Snakefile is parsed; light."""

from __future__ import annotations

from pipeline.augment._ranges import check_probability


def check(*, quarter_turns: bool, probability: float) -> None:
    """ConfigError for a probability outside 0 to 1."""
    check_probability("flips", probability)
