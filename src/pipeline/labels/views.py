"""What a picture of two label rasters shows: the whole region thinned, and the part with most pixels that differ."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.acquire.shards import Mosaic
from pipeline.config import IGNORE
from pipeline.grid import Grid

OVERVIEW_PX = 900  # longest edge of the thinned picture of the whole region
CLOSE_UP_PX = 320  # edge of the part that is shown pixel by pixel

Array = npt.NDArray[Any]
Band = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class View:
    """Both sides thinned to cells of `step` x `step` pixels, for a picture.

    Attributes:
        row_px, col_px: of the first cell's first pixel, on the grid.
        step: edge of a cell in pixels; 1 shows every pixel.
        a, b: uint8 [rows, cols], the class of each cell's middle pixel; 255 is ignored.
        differ: float [rows, cols], share of a cell's pixels to which both give a class, and not the same.
        one: float [rows, cols], share of a cell's pixels that one alone gives a class.
        image: [bands, rows, cols], the imagery at the middle pixels, 0 where there is none; None without imagery.
        seen: bool [rows, cols], whether the middle pixels have imagery; None without imagery.
    """

    row_px: int
    col_px: int
    step: int
    a: Band
    b: Band
    differ: Array
    one: Array
    image: Array | None = None
    seen: Array | None = None

    def window(self) -> dict[str, int]:
        """Where a view of single pixels lies, and how many of them differ."""
        height, width = self.a.shape
        place = {"row_px": self.row_px, "col_px": self.col_px, "height": height, "width": width}
        return place | {"differing_pixels": int(self.differ.sum())}


class Thinner:
    """Gathers a `View` of the whole grid, at most `OVERVIEW_PX` cells high and wide, from strips in any order."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.step = grid, -(-max(grid.height, grid.width) // OVERVIEW_PX)
        self.rows, self.cols = (middles(size, self.step) for size in (grid.height, grid.width))
        shape = (len(self.rows), len(self.cols))
        self.a, self.b = np.full(shape, IGNORE, np.uint8), np.full(shape, IGNORE, np.uint8)
        self.differ, self.one = np.zeros(shape, np.int64), np.zeros(shape, np.int64)

    def add(self, row_px: int, col_px: int, a: Band, b: Band) -> None:
        """Take a strip [rows, cols] of both sides, its first pixel at (`row_px`, `col_px`) of the grid."""
        height, width = a.shape
        row_cells, row_starts = _cells(row_px, height, self.step)
        col_cells, col_starts = _cells(col_px, width, self.step)
        in_a, in_b = a != IGNORE, b != IGNORE
        at = np.ix_(row_cells, col_cells)
        for mask, total in (((a != b) & in_a & in_b, self.differ), (in_a != in_b, self.one)):
            if mask.any():
                down = np.add.reduceat(mask, row_starts, axis=0, dtype=np.int32)
                total[at] += np.add.reduceat(down, col_starts, axis=1)
        rows = np.flatnonzero((self.rows >= row_px) & (self.rows < row_px + height))
        cols = np.flatnonzero((self.cols >= col_px) & (self.cols < col_px + width))
        inside = np.ix_(self.rows[rows] - row_px, self.cols[cols] - col_px)
        for strip, kept in ((a, self.a), (b, self.b)):
            kept[np.ix_(rows, cols)] = strip[inside]

    def view(self) -> View:
        """The whole grid."""
        heights = np.minimum(self.step, self.grid.height - np.arange(len(self.rows)) * self.step)
        widths = np.minimum(self.step, self.grid.width - np.arange(len(self.cols)) * self.step)
        area = np.outer(heights, widths)
        return View(0, 0, self.step, self.a, self.b, self.differ / area, self.one / area)

    def worst(self) -> tuple[int, int, int, int] | None:
        """Row, column, height and width of the window with most pixels that differ, the topmost of equal ones."""
        grid = self.grid
        if max(grid.height, grid.width) < 2 * CLOSE_UP_PX or not self.differ.any():
            return None
        cells = [min(max(1, CLOSE_UP_PX // self.step), size) for size in self.differ.shape]
        sums = np.pad(self.differ.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        high, wide = cells
        found = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
        row, col = np.unravel_index(int(found.argmax()), found.shape)
        height, width = min(CLOSE_UP_PX, grid.height), min(CLOSE_UP_PX, grid.width)
        return (
            min(int(row) * self.step, grid.height - height),
            min(int(col) * self.step, grid.width - width),
            height,
            width,
        )


def middles(size: int, step: int) -> npt.NDArray[np.int64]:
    """The pixel in the middle of each cell of `step` pixels along an axis of `size` pixels."""
    return np.minimum(np.arange(0, size, step) + step // 2, size - 1)


def _cells(first: int, count: int, step: int) -> tuple[Array, Array]:
    """Cells that `count` pixels from `first` on fall into, and the offset at which each begins."""
    cell = (first + np.arange(count)) // step
    starts = np.flatnonzero(np.diff(cell, prepend=-1))
    return cell[starts], starts


def close_up_of(left: Mosaic, right: Mosaic, row: int, col: int, height: int, width: int) -> View:
    """The pixels of a window of the grid, its top-left one at (`row`, `col`)."""
    a, b = (side.read(row, col, height, width)[0][0] for side in (left, right))
    in_a, in_b = a != IGNORE, b != IGNORE
    return View(row, col, 1, a, b, ((a != b) & in_a & in_b).astype(float), (in_a != in_b).astype(float))


def with_image(folder: Path, grid: Grid, overview: View, close_up: View | None) -> tuple[View, View | None]:
    """Both views with the imagery whose shards lie in `folder`; DataError when one is absent or unreadable."""
    paths = {shard.name: folder / f"{shard.name}.tif" for shard in grid.shards()}
    rows, cols = (middles(size, overview.step) for size in (grid.height, grid.width))
    with Mosaic(paths, grid) as mosaic:
        lines = [
            (image[:, 0, cols], valid[0, cols])
            for image, valid in (mosaic.read(int(row), 0, 1, grid.width) for row in rows)
        ]
        image, seen = (np.stack(parts, axis=-2) for parts in zip(*lines, strict=True))
        overview = replace(overview, image=image, seen=seen)
        if close_up is not None:
            height, width = close_up.a.shape
            image, seen = mosaic.read(close_up.row_px, close_up.col_px, height, width)
            close_up = replace(close_up, image=image, seen=seen)
    return overview, close_up
