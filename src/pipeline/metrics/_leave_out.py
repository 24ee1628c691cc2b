"""Classes that a mean leaves out, checked while the Snakefile is parsed. Light: no NumPy."""

from __future__ import annotations

from typing import Any

from pipeline.errors import ConfigError


def checked(metric: str, leave_out: list[Any] | None) -> tuple[str, ...]:
    """Names of classes as a tuple; ConfigError unless they are text and differ."""
    names = tuple(leave_out or ())
    if not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"metric {metric}: leave_out must be names of classes, got {leave_out}")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"metric {metric}: leave_out names {twice[0]!r} twice")
    return names
