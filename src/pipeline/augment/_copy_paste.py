"""What the augmentation `copy_paste` checks while the Snakefile is parsed; light."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.augment._ranges import check_probability
from pipeline.errors import ConfigError


def check(
    *,
    classes: Sequence[Any] | None,
    surroundings_px: int,
    probability: float,
    donors: int | None,
    shift_px: int,
    **_: Any,
) -> None:
    """ConfigError for a number out of range and for classes that are no names, or none."""
    check_probability("copy_paste", probability)
    for name, value, least in (
        ("surroundings_px", surroundings_px, 0),
        ("shift_px", shift_px, 0),
        ("donors", donors, 1),
    ):
        if value is not None and value < least:
            raise ConfigError(f"augmentation copy_paste: {name} {value} must be {least} or more")
    if classes is not None:
        names = all(isinstance(name, str) for name in classes)
        if not classes or not names or len(set(classes)) != len(classes):
            wanted = "must be names of different classes (leave it out for the rarest)"
            raise ConfigError(f"augmentation copy_paste: classes {wanted}; got {list(classes)}")
