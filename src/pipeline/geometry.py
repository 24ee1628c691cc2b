"""Shapes in pixels of the grid: projected, and in pixel coordinates that shards and blocks share.

Nothing here depends on a shard, so that a shard's pixels equal the same pixels of one big run.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import Transformer

from pipeline.grid import Grid, Shard

Shapes = npt.NDArray[np.object_]

STEP_M = 200.0  # longest straight piece that is projected: its sagitta stays below 2 cm up to 85 degrees of latitude
STEP_DEG = STEP_M / 111_700.0  # at most STEP_M metres in either direction
# Keeps edges off pixel centres: a tie there could fall differently from one shard to the next.
NUDGE_PX = (1.3e-6, 0.7e-6)


@functools.lru_cache(maxsize=512)
def _transformer(source: str, target: str) -> Transformer:
    return Transformer.from_crs(source, target, always_xy=True)


def reproject(shapes: Shapes, source: str, target: str) -> Shapes:
    """Transform every vertex from one coordinate system to another (x east, y north)."""
    transformer = _transformer(source, target)

    def move(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.column_stack(transformer.transform(points[:, 0], points[:, 1]))

    return shapely.transform(shapes, move)  # type: ignore[no-any-return, unused-ignore]


def to_pixels(shapes: Shapes, grid: Grid, shard: Shard) -> Shapes:
    """Turn grid coordinates into (column, row) pixel coordinates of a shard, outer corner of its first pixel (0, 0).

    Pixel coordinates are computed on the whole grid and then shifted by whole pixels, which is exact, so that every
    shard sees the same vertices.
    """
    scale = np.array([1 / grid.res_x, -1 / grid.res_y])
    origin = np.array([grid.left, grid.top])
    corner = np.array([shard.col_px, shard.row_px], dtype=float)

    def move(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        moved: npt.NDArray[np.float64] = (points - origin) * scale + NUDGE_PX - corner
        return moved

    return shapely.transform(shapes, move)  # type: ignore[no-any-return, unused-ignore]
