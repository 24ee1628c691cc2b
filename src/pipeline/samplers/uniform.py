"""Every training chip once per epoch, or a random few of them, in random order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.samplers._chips import Array, Chips, cycled


def build(*, chips: int | None = None) -> Callable[[Chips, np.random.Generator], Array]:
    """Chips drawn without replacement, evenly.

    Args:
        chips: how many an epoch shows, drawn anew for each; None shows all once. Of more than there are each comes
            again after all have come. A subset that is the same in every epoch is the study's ``data.train_subset``.

    Raises:
        ConfigError: when chips is below 1.
    """
    return lambda known, rng: cycled(np.arange(len(known)), chips or len(known), rng)
