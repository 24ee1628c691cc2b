"""The land-cover raster itself as the prediction: what one has without any training."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.dataset.joined import IGNORE, Joined
from pipeline.dataset.store import ChipStore
from pipeline.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]


def build(*, source: str = "", fallback: str = "") -> Any:
    """A function (joined, seed) → predicted classes of val and test, uint8 [N, H, W].

    Args:
        source: name of the region's land cover; empty means its only one.
        fallback: class where the land cover has none; empty means the class with most pixels in the training chips.
    """

    def predict(joined: Joined, seed: int) -> dict[str, Array]:
        store = ChipStore.open(joined.labels.folder.parent / f"landcover-{source}")
        names = joined.classes
        rows = joined.rows["train"].label
        pixels = [int(joined.labels.index[f"px_{name}"][rows].sum()) for name in names]
        if fallback and fallback not in names:
            raise DataError(f"baselines.landcover.fallback: no class {fallback!r}; choices: {', '.join(names)}")
        other = names.index(fallback) if fallback else int(np.argmax(pixels))
        predicted = {}
        for split in ("val", "test"):
            classes = np.array(store.chips[store.rows_of(joined.rows[split].chip_ids)][:, 0])
            classes[classes == IGNORE] = other
            predicted[split] = classes
        return predicted

    return predict
