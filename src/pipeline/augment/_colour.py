"""What the augmentation `colour` checks while the Snakefile is parsed; light."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.augment._ranges import check_bands, check_between, check_probability


def check(
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue_degrees: float,
    probability: float,
    bands: Sequence[Any] | None,
    rgb: Sequence[Any],
) -> None:
    """ConfigError for a number out of range and for bands that are none."""
    check_between("colour", 0, 1, brightness=brightness, contrast=contrast, saturation=saturation)
    check_between("colour", 0, 180, hue_degrees=hue_degrees)
    check_probability("colour", probability)
    check_bands("colour", "rgb", rgb, 3)
    if bands is not None:
        check_bands("colour", "bands", bands)
