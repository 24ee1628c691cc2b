"""What `random_crop` takes, checked while the Snakefile is parsed; light."""

from __future__ import annotations

from pipeline.errors import ConfigError


def check(*, px: int) -> None:
    """ConfigError for a side below 1 px."""
    if px < 1:
        raise ConfigError(f"augmentation random_crop: px must be 1 or more, got {px}")
