"""Sets of pixels that shapes are compared by, and exact Euclidean distances between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from pipeline.errors import RunError

IGNORE = 255
TREE_SHARE = 6  # a tree asks each point for about as long as a distance transform takes for this many pixels

Array = np.ndarray[Any, Any]


def class_masks(truth: Array, predicted: Array, classes: int) -> Iterator[tuple[Array, Array, Array]]:
    """The masks of each class in turn: truth, prediction, and what counts, [H, W] bool.

    Ignored pixels (255 in `truth`) are in no mask, of the prediction neither.

    Raises:
        RunError: for shapes that differ or are not [H, W], no whole numbers, or a class outside 0 to C − 1.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.ndim != 2 or truth.shape != predicted.shape:
        raise RunError(f"metrics: truth {list(truth.shape)} and prediction {list(predicted.shape)} are not both [H, W]")
    known = truth != IGNORE
    for name, values in (("truth", truth), ("prediction", predicted)):
        if not np.issubdtype(values.dtype, np.integer):
            raise RunError(f"metrics: {name} must be class indices, got {values.dtype}")
        if values.size and not 0 <= values.min() <= values.max() < classes:
            inside = values[known]
            if inside.size and not 0 <= inside.min() <= inside.max() < classes:
                beyond = f"classes {inside.min()} to {inside.max()}"
                raise RunError(f"metrics: {name} has {beyond}, but there are only 0 to {classes - 1}")
    for index in range(classes):
        yield truth == index, (predicted == index) & known, known


def boundary(mask: Array, known: Array, neighbours: int = 8) -> Array:
    """Coordinates [n, 2] int64 (row, column) of a mask's boundary: its pixels that touch one that is not of it.

    Pixels touch along edges, with 8 `neighbours` at corners too. Ignored pixels and what lies outside the image are
    unknown: they make no boundary.

    Args:
        mask: [H, W] bool.
        known: [H, W] bool, pixels that are not ignored.
        neighbours: 4 or 8.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return np.zeros((0, 2), np.int64)
    top, left = max(0, rows[0] - 1), max(0, columns[0] - 1)
    window = np.s_[top : rows[-1] + 2, left : columns[-1] + 2]
    mask = mask[window]
    other = known[window] & ~mask
    upright = other.copy()
    upright[1:] |= other[:-1]
    upright[:-1] |= other[1:]
    sideways = upright if neighbours == 8 else other
    touched = upright.copy()
    touched[:, 1:] |= sideways[:, :-1]
    touched[:, :-1] |= sideways[:, 1:]
    found: Array = np.argwhere(mask & touched) + np.array([top, left])
    return found


def distances(points: Array, others: Array, within: float = np.inf) -> Array:
    """Distance in pixels from each of `points` to the nearest of `others`, exact, [n] float64.

    By a distance transform over the box that holds both sets, or, where they are sparse in it, by a tree: the square
    root of the same whole number.

    Args:
        points: [n, 2] integers.
        others: [m, 2] integers; without one all distances are infinite.
        within: distances of this and more may be given as infinity, which is faster.
    """
    if not len(points) or not len(others):
        return np.full(len(points), np.inf)
    nearest: Array
    low = np.minimum(points.min(axis=0), others.min(axis=0))
    shape = np.maximum(points.max(axis=0), others.max(axis=0)) - low + 1
    if (len(points) + len(others)) * TREE_SHARE < shape.prod():
        tree = cKDTree(others, balanced_tree=False, compact_nodes=False)
        nearest = tree.query(points, distance_upper_bound=within)[0]
        return nearest
    absent = np.ones(shape, dtype=bool)
    absent[tuple((others - low).T)] = False
    nearest = ndimage.distance_transform_edt(absent)[tuple((points - low).T)]
    return nearest


def percentile_distances(points: Array, others: Array, share: float, memory: int = 1 << 22) -> Array:
    """Quantile `share` of the distances from each of `points` to all of `others`, [n] float64.

    Between two distances it is linear, as NumPy's default is. Takes n·m steps.

    Args:
        points: [n, 2] integers.
        others: [m, 2] integers; without one the result is infinite.
        share: 0 to 1.
        memory: pairs at a time.
    """
    if not len(points) or not len(others):
        return np.full(len(points), np.inf)
    place = share * (len(others) - 1)
    low = int(place)
    high = min(low + 1, len(others) - 1)
    found = np.empty(len(points))
    step = max(1, memory // len(others))
    rows, columns = others.T.astype(np.int32)
    for start in range(0, len(points), step):
        part = points[start : start + step].astype(np.int32)
        squared = np.subtract.outer(part[:, 0], rows) ** 2
        squared += np.subtract.outer(part[:, 1], columns) ** 2
        squared.partition((low, high), axis=1)
        near, far = np.sqrt(squared[:, low]), np.sqrt(squared[:, high])
        found[start : start + step] = near + (far - near) * (place - low)
    return found
