"""A random forest on single pixels: what colour alone can tell, without texture or context."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.dataset.joined import IGNORE, Joined

Array = np.ndarray[Any, np.dtype[Any]]


def build(*, trees: int = 40, max_depth: int = 14, pixels_per_class: int = 20000) -> Any:
    """A function (joined, seed) → predicted classes of val and test, uint8 [N, H, W].

    Args:
        trees: number of trees.
        max_depth: of a tree.
        pixels_per_class: times the number of classes, how many training pixels are drawn (at most); classes keep their
            own shares of them.
    """

    def predict(joined: Joined, seed: int) -> dict[str, Array]:
        from sklearn.ensemble import RandomForestClassifier

        rng = np.random.default_rng(seed)
        pixels, classes = _sample(joined, pixels_per_class, rng)
        forest = RandomForestClassifier(
            trees, max_depth=max_depth, min_samples_leaf=5, random_state=seed, n_jobs=1, class_weight=None
        )
        forest.fit(pixels, classes)
        return {split: _classify(forest, joined, split) for split in ("val", "test")}

    return predict


def _sample(joined: Joined, per_class: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Labelled training pixels, drawn in the classes' true proportions up to `per_class` times the classes in all."""
    rows = joined.rows["train"]
    share = min(1.0, per_class * len(joined.classes) / (len(rows) * joined.images.chip_px**2))
    pixels, classes = [], []
    for start in range(0, len(rows), 32):
        images, targets = joined.batch(rows.take(np.arange(start, min(start + 32, len(rows)))))
        chosen = (targets != IGNORE) & (rng.random(targets.shape) < share)
        pixels.append(np.moveaxis(images, 1, -1)[chosen])
        classes.append(targets[chosen])
    return np.concatenate(pixels), np.concatenate(classes)


def _classify(forest: Any, joined: Joined, split: str) -> Array:
    """Classes of every pixel; equal colours are classified once."""
    rows = joined.rows[split]
    predicted = []
    for start in range(0, len(rows), 32):
        images, _ = joined.batch(rows.take(np.arange(start, min(start + 32, len(rows)))))
        flat = np.moveaxis(images, 1, -1).reshape(-1, images.shape[1])
        colours, place = np.unique(flat, axis=0, return_inverse=True)
        classes = forest.predict(colours).astype(np.uint8)
        predicted.append(classes[place.ravel()].reshape(len(images), *images.shape[2:]))
    return np.concatenate(predicted)
