"""What the references of the overlap losses share: probabilities and truths pixel by pixel, float64, no torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

Pixel = tuple[np.ndarray, np.ndarray]  # probabilities and one-hot truth, [C] each


def pixels(logits: np.ndarray, target: np.ndarray) -> Iterator[tuple[int, Pixel]]:
    """(sample, pixel) of every pixel that counts."""
    n, c, h, w = logits.shape
    for i, y, x in itertools.product(range(n), range(h), range(w)):
        label = target[i, y, x]
        if label == 255:
            continue
        z = logits[i, :, y, x].astype(np.float64)
        if c == 1:
            yield i, (1 / (1 + np.exp(-z)), np.array([float(label)]))
        else:
            e = np.exp(z - z.max())
            yield i, (e / e.sum(), np.eye(c)[label])


def groups(logits: np.ndarray, target: np.ndarray, per: str) -> list[list[Pixel]]:
    """The pixels that each ratio runs over: all of them, or those of each sample that has any."""
    found: dict[int, list[Pixel]] = {}
    for i, pixel in pixels(logits, target):
        found.setdefault(0 if per == "batch" else i, []).append(pixel)
    return list(found.values())


def case(classes: int, seed: int = 0, ignored: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Random logits [3, classes, 5, 4] and target [3, 5, 4] of which the last sample is ignored altogether."""
    rng = np.random.default_rng(10 * seed + classes)
    logits = rng.normal(0, 2, (3, classes, 5, 4))
    target = rng.integers(0, max(2, classes), (3, 5, 4))
    target[rng.random(target.shape) < ignored] = 255
    target[2] = 255
    return logits, target
