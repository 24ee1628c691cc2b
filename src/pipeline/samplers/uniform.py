"""Every training chip once per epoch, in random order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.samplers._chips import Array, Chips


def build() -> Callable[[Chips, np.random.Generator], Array]:
    """Return the sampler that permutes all chips."""
    return lambda chips, rng: rng.permutation(len(chips))
