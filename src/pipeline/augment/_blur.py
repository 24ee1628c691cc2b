"""What the augmentation `blur` checks while the Snakefile is parsed; light."""

from __future__ import annotations

from pipeline.augment._colour_ranges import check_between, check_ordered


def check(*, sigma_min_px: float, sigma_max_px: float, probability: float) -> None:
    """ConfigError for a number out of range."""
    check_between("blur", 0, 100, sigma_min_px=sigma_min_px, sigma_max_px=sigma_max_px)
    check_ordered("blur", sigma_min_px=sigma_min_px, sigma_max_px=sigma_max_px)
    check_between("blur", 0, 1, probability=probability)
