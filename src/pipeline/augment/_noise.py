"""What the augmentation `noise` checks while the Snakefile is parsed; light."""

from __future__ import annotations

from pipeline.augment._ranges import check_between, check_ordered, check_probability


def check(*, std_min: float, std_max: float, salt_and_pepper: float, probability: float) -> None:
    """ConfigError for a number out of range."""
    check_between("noise", 0, 1, std_min=std_min, std_max=std_max, salt_and_pepper=salt_and_pepper)
    check_ordered("noise", std_min=std_min, std_max=std_max)
    check_probability("noise", probability)
