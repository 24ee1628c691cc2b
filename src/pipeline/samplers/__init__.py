"""Samplers: which training chips an epoch shows, and in which order; one file each, made by name with `create`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline import variants

if TYPE_CHECKING:
    import numpy as np

    from pipeline.samplers._chips import Chips

    Sampler = Callable[[Chips, np.random.Generator], np.ndarray[Any, np.dtype[np.int64]]]


def create(name: str, **params: Any) -> Sampler:
    """Make sampler `name`.

    Args:
        name: a file of src/pipeline/samplers/ with a `build`.
        params: its parameters; the rest take their defaults.

    Returns:
        A function without state of `Chips`, what is known of the training chips, and a random generator seeded by
        (seed, epoch), which gives the positions [M] int64 (within the training split) of the chips that the epoch
        shows, in order; a chip may be shown several times. M is the epoch's length.

    Raises:
        ConfigError: for an unknown sampler or parameter, or a wrong value.
    """
    resolved = variants.check("samplers", name, params, "samplers.create")
    sampler: Sampler = variants.load("samplers", name).build(**resolved)
    return sampler


def needs_errors(name: str) -> bool:
    """Whether sampler `name` asks for the share of wrong pixels per chip: its file's NEEDS has ``errors``."""
    return "errors" in variants.declared("samplers", name, "NEEDS", ())
