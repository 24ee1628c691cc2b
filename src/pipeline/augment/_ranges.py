"""Ranges that several augmentations take, checked while the Snakefile is parsed; light."""

from __future__ import annotations

from pipeline.errors import ConfigError


def check_probability(augmentation: str, probability: float) -> None:
    """ConfigError for a probability outside 0 to 1."""
    if not 0 <= probability <= 1:
        raise ConfigError(f"augmentation {augmentation}: probability must be 0 to 1, got {probability}")


def check_scales(augmentation: str, noun: str, least: float, most: float) -> None:
    """ConfigError unless 0 < `least` ≤ `most`, which are the parameters ``<noun>_min`` and ``<noun>_max``."""
    if not 0 < least <= most:
        names = f"{noun}_min and {noun}_max"
        raise ConfigError(f"augmentation {augmentation}: {names} must be above 0 and in order, got {least} and {most}")
