"""What the augmentation `blur` checks while the Snakefile is parsed; light."""

from __future__ import annotations

from pipeline.augment._ranges import check_between, check_ordered, check_probability


def check(*, sigma_min_px: float, sigma_max_px: float, probability: float) -> None:
    """ConfigError for a number out of range."""
    check_between("blur", 0, 100, sigma_min_px=sigma_min_px, sigma_max_px=sigma_max_px)
    check_ordered("blur", sigma_min_px=sigma_min_px, sigma_max_px=sigma_max_px)
    check_probability("blur", probability)
