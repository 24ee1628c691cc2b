"""Ranges that several augmentations take, checked while the Snakefile is parsed; light."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def check_between(augmentation: str, low: float, high: float, **values: float) -> None:
    """ConfigError for one of `values` that lies outside `low` to `high`, both ends included."""
    for name, value in values.items():
        if not low <= value <= high:
            raise ConfigError(f"augmentation {augmentation}: {name} {value:g} must be {low:g} to {high:g}")


def check_ordered(augmentation: str, **values: float) -> None:
    """ConfigError unless the first of two `values` is no more than the second."""
    (first, low), (second, high) = values.items()
    if low > high:
        raise ConfigError(f"augmentation {augmentation}: {first} {low:g} must be no more than {second} {high:g}")


def check_bands(augmentation: str, name: str, bands: Sequence[Any], count: int | None = None) -> None:
    """ConfigError unless `bands` are distinct whole numbers from 1 on, `count` of them where that is given."""
    whole = all(isinstance(band, int) and not isinstance(band, bool) and band >= 1 for band in bands)
    if not bands or not whole or len(set(bands)) != len(bands) or count not in (None, len(bands)):
        wanted = f"{count} different bands" if count else "different bands"
        raise ConfigError(f"augmentation {augmentation}: {name} must be {wanted}, counted from 1; got {list(bands)}")
