"""What `scale_jitter` takes, checked while the Snakefile is parsed; light."""

from __future__ import annotations

from pipeline.augment._ranges import check_probability, check_scales


def check(*, scale_min: float, scale_max: float, centre: str, probability: float) -> None:
    """ConfigError for scales or a probability out of range."""
    check_scales("scale_jitter", "scale", scale_min, scale_max)
    check_probability("scale_jitter", probability)
