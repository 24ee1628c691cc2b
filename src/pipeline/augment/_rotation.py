"""What `rotation` takes, checked while the Snakefile is parsed; light."""

from __future__ import annotations

from pipeline.augment._ranges import check_probability, check_scales
from pipeline.errors import ConfigError


def check(*, max_degrees: float, zoom_min: float, zoom_max: float, centre: str, probability: float) -> None:
    """ConfigError for angles, zooms or a probability out of range."""
    if not 0 <= max_degrees <= 180:
        raise ConfigError(f"augmentation rotation: max_degrees must be 0 to 180, got {max_degrees}")
    check_scales("rotation", "zoom", zoom_min, zoom_max)
    check_probability("rotation", probability)
