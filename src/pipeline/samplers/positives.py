"""Only the training chips that hold pixels of certain classes, as the medical thesis kept patches of its slides."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.errors import RunError
from pipeline.samplers._chips import Array, Chips, cycled


def build(
    *, classes: list[str] | None = None, min_px: int = 1, min_share: float = 0.0, chips: int | None = None
) -> Callable[[Chips, np.random.Generator], Array]:
    """Chips with enough pixels of the positive classes, each once per epoch, in random order.

    A chip is kept when the positive classes together have at least `min_px` of its pixels and at least `min_share` of
    its labelled ones. The thesis cut whole slides into patches and kept those with any positive pixel: the defaults.
    Pixels are those of the label chips as they were cut, also where there is no imagery. Validation and test keep all
    their chips.

    Args:
        classes: names of the positive classes; None takes all but the first, which is the background where there is
            one.
        min_px: pixels of a kept chip, 1 or more.
        min_share: share of a kept chip's labelled pixels, 0 to 1.
        chips: how many an epoch shows, drawn anew for each; None shows all that are kept once.

    Raises:
        ConfigError: when a value is out of range, or for a class that is none; while sampling.
        RunError: while sampling, when no chip is kept.
    """

    def sample(known: Chips, rng: np.random.Generator) -> Array:
        named = known.classes[1:] if classes is None else classes
        positive = known.counts[:, known.columns(named)].sum(axis=1)
        labelled = known.counts.sum(axis=1)
        kept = np.flatnonzero((positive >= min_px) & (positive >= min_share * labelled))
        if not len(kept):
            wanted = f"{min_px} px" + (f" and {min_share:.0%} of the labelled pixels" if min_share else "")
            raise RunError(
                f"train.sampler: positives: none of {len(known)} training chips has {wanted} of "
                f"{', '.join(named) or 'any class but the first'}; lower min_px or min_share, or name other classes"
            )
        return cycled(kept, chips or len(kept), rng)

    return sample
