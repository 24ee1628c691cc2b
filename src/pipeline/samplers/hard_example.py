"""Chips on which the network was most often wrong are shown more often."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.samplers._chips import Array, Chips, cycled

NEEDS = ("errors",)


def build(
    *, share: float = 0.5, hardest: float = 0.25, chips: int | None = None
) -> Callable[[Chips, np.random.Generator], Array]:
    """A share of the epoch from the hardest chips, the rest evenly from the others, in random order.

    A chip is as hard as the share of its pixels that were wrong in training when it was last shown. Chips never shown
    are harder than any other and count as hardest, however many they are: an epoch that knows of none, such as the
    first, shows all alike. Both parts are drawn without replacement; where one is larger than there are chips to draw
    from, each comes again after all have come. With the defaults a chip of the hardest quarter is shown twice per
    epoch, another two times in three.

    Args:
        share: of the epoch, 0 to 1, from the hardest chips; 0 shows all alike.
        hardest: share of the training chips that are the hardest, above 0, at most 1; one chip at least.
        chips: how many an epoch shows; None takes the number of training chips.

    Raises:
        ConfigError: when a value is out of range.
    """

    def sample(known: Chips, rng: np.random.Generator) -> Array:
        size = chips or len(known)
        unseen = np.isnan(known.errors)
        shuffled = rng.permutation(len(known))  # so that ties fall at random
        ranked = shuffled[np.argsort(-np.where(unseen, np.inf, known.errors)[shuffled], kind="stable")]
        pool = ranked[: max(1, round(hardest * len(known)), int(unseen.sum()))]
        hard = cycled(pool, round(share * size), rng)
        others = np.setdiff1d(ranked, hard)
        rest = cycled(others if len(others) else ranked, size - len(hard), rng)
        return rng.permutation(np.concatenate([hard, rest]))

    return sample
