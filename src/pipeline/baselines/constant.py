"""One class everywhere: the floor that any model must leave behind."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.dataset.joined import Joined
from pipeline.errors import ConfigError, choices

Array = np.ndarray[Any, np.dtype[Any]]


def build(*, label: str = "") -> Any:
    """A function (joined, seed) → predicted classes of val and test, uint8 [N, H, W].

    Args:
        label: the class; empty means the one with most pixels in the training chips.
    """

    def predict(joined: Joined, seed: int) -> dict[str, Array]:
        names = joined.classes
        if label and label not in names:
            raise ConfigError(f"baselines.constant.label: no class {label!r}; {choices(label, names)}")
        rows = joined.rows["train"].label
        pixels = [int(joined.labels.index[f"px_{name}"][rows].sum()) for name in names]
        index = names.index(label) if label else int(np.argmax(pixels))
        shape = (joined.images.chip_px, joined.images.chip_px)
        return {split: np.full((len(joined.rows[split]), *shape), index, np.uint8) for split in ("val", "test")}

    return predict
