"""Chips drawn so that each class is asked for equally often, however rare it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.errors import RunError
from pipeline.samplers._chips import Array, Chips


def build(*, power: float = 1.0, chips: int | None = None) -> Callable[[Chips, np.random.Generator], Array]:
    """Chips drawn with replacement, chip i with probability p_i = Σ_c q_c n_ic / N_c.

    n_ic are the pixels of class c in chip i and N_c = Σ_i n_ic. So each draw asks for a class c with probability q_c
    and takes a chip in proportion to the class's pixels in it. With f_c = N_c / Σ_k N_k, the class's frequency,
    q_c = f_c^(1 − power) / Σ_k f_k^(1 − power). A chip brings its other classes with it: only where chips hold one
    class each does every class get the same pixels. Absent classes are left out, and so are chips without a labelled
    pixel. Pixels are those of the label chips as they were cut, also where there is no imagery.

    Args:
        power: 0 to 1: 1 asks for all classes alike, 0 for each as often as it is, which draws chips in proportion to
            their labelled pixels.
        chips: draws of an epoch; None takes the number of training chips.

    Raises:
        ConfigError: when power or chips is out of range.
        RunError: while sampling, when no chip has a labelled pixel.
    """

    def sample(known: Chips, rng: np.random.Generator) -> Array:
        total = known.counts.sum(axis=0)
        present = total > 0
        if not present.any():
            raise RunError("train.sampler: class_balanced: no training chip has a labelled pixel")
        asked = (total[present] / total.sum()) ** (1 - power)
        weights = known.counts[:, present] / total[present] @ asked
        return rng.choice(len(known), chips or len(known), p=weights / weights.sum())

    return sample
