"""What values parameters of samplers may have, checked while the Snakefile is parsed; the standard library alone."""

from __future__ import annotations

from pipeline.errors import ConfigError


def check_least(sampler: str, name: str, value: int | None) -> None:
    """ConfigError for a number below 1; None is in order."""
    if value is not None and value < 1:
        raise ConfigError(f"sampler {sampler}: {name} {value} must be 1 or more")


def check_share(sampler: str, name: str, value: float, *, zero: bool = True) -> None:
    """ConfigError for what is no share, 0 to 1, and for 0 unless it is in order."""
    if not 0 <= value <= 1 or not (value or zero):
        raise ConfigError(f"sampler {sampler}: {name} {value} must be {'0 to 1' if zero else 'above 0, at most 1'}")


def check_names(sampler: str, classes: list[str] | None) -> None:
    """ConfigError for a list of classes that is empty or names one twice; None is in order."""
    if classes is not None and (not classes or len(set(map(str, classes))) != len(classes)):
        raise ConfigError(f"sampler {sampler}: classes must name one class or more, none twice; got {classes}")
