"""What a sampler knows of the training chips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import ConfigError, choices

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Chips:
    """The training chips of a run, in index order.

    Attributes:
        counts: pixels per class of each chip's label, [N, C] int64, from the index of the label chips: those of the
            chips as they were cut, pixels without imagery among them. A chip without a label has zeros.
        classes: names of the C classes.
        errors: share of wrong pixels of each chip when it was last shown, [N] float32, NaN before that; all NaN unless
            the sampler's NEEDS has ``errors``.
    """

    counts: Array
    classes: list[str]
    errors: Array

    def __len__(self) -> int:
        return len(self.counts)

    def columns(self, names: list[str]) -> list[int]:
        """Indices of the classes `names`; ConfigError for one that is none."""
        for name in names:
            if name not in self.classes:
                raise ConfigError(f"train.sampler: no class {name!r}; {choices(name, self.classes)}")
        return [self.classes.index(name) for name in names]


def cycled(positions: Array, size: int, rng: np.random.Generator) -> Array:
    """`size` of `positions` [n] int64, n above 0, in random order; none comes again before all others have come."""
    rounds = max(1, -(-size // len(positions)))
    order = np.concatenate([rng.permutation(len(positions)) for _ in range(rounds)])
    shown: Array = positions[order[:size]]
    return shown
