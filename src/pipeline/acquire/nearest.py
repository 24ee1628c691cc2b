"""Which pixel of a raster lies under each pixel of the grid: exactly, for every coordinate system, and fast.

GDAL's warper interpolates coordinates along rows with an error of up to an eighth of a source pixel; here the choice is
that of its exact mode (``gdalwarp -et 0 -r near``) for every pixel.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from affine import Affine
from pyproj import CRS as PyprojCRS
from pyproj import Transformer
from rasterio.crs import CRS

from pipeline.acquire.world import world_width
from pipeline.grid import Grid

Places = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.int32]

OUTSIDE = -1
STEP_PX = 32  # spacing of exactly projected points
MOST_ERROR_PX = 0.05  # above it, interpolating between them saves nothing
TIE = 1e-10  # source pixels; GDAL's own
FAR_PX = 2.0**30  # beyond it, 32 bits do not count pixels


class PixelMap:
    """Rows and columns of a source raster under windows of a grid."""

    def __init__(self, grid: Grid, crs: CRS, transform: Affine, height: int, width: int) -> None:
        """Take the grid and the source's coordinate system, affine transform and size in pixels."""
        self._grid, self._size = grid, (height, width)
        self._inverse = ~transform
        target = CRS.from_user_input(grid.crs)
        self._transformer = (
            None if target == crs else Transformer.from_crs(target.to_wkt(), crs.to_wkt(), always_xy=True)
        )
        upright = transform.b == 0 and transform.d == 0
        # Between longitude, latitude and EPSG:3857 a column depends on x alone, a row on y alone.
        self._separable = upright and (target == crs or {target.to_epsg(), crs.to_epsg()} <= {4326, 3857})
        world = world_width(PyprojCRS.from_user_input(crs.to_wkt()))
        self._world_px = world / abs(transform.a) if world and upright else None

    def locate(self, row: int, col: int, height: int, width: int) -> tuple[Pixels, Pixels]:
        """Source rows and columns under a window of the grid, int32; -1 where the source does not reach.

        Both have shape [height, width], or [height, 1] and [1, width] where rows and columns do not depend on each
        other.
        """
        x: Places = np.arange(col, col + width, dtype=np.float64) + 0.5
        y: Places = np.arange(row, row + height, dtype=np.float64) + 0.5
        if self._separable:
            cols, _ = self._exact(x, np.full(width, y[0]))
            _, rows = self._exact(np.full(height, x[0]), y)
            return self._rows(rows)[:, None], self._cols(cols)[None, :]
        return self._interpolated(x, y)

    def _exact(self, x: Places, y: Places) -> tuple[Places, Places]:
        """Source columns and rows, fractional, of places in pixels of the grid; inf where there are none."""
        east = self._grid.left + x * self._grid.res_x
        north = self._grid.top - y * self._grid.res_y
        if self._transformer is not None:
            east, north = self._transformer.transform(east, north)
        a = self._inverse
        return a.c + east * a.a + north * a.b, a.f + east * a.d + north * a.e

    def _exact_mesh(self, x: Places, y: Places) -> tuple[Places, Places]:
        cols, rows = self._exact(*(side.ravel() for side in np.meshgrid(x, y)))
        return cols.reshape(len(y), len(x)), rows.reshape(len(y), len(x))

    def _interpolated(self, x: Places, y: Places) -> tuple[Pixels, Pixels]:
        """Bilinear between exact points; whatever comes close to an edge of a source pixel is projected itself."""
        at_x, at_y = _lattice(len(x)), _lattice(len(y))
        knots = self._exact_mesh(x[at_x], y[at_y])
        error = self._error_px(x[at_x], y[at_y], knots)
        turns = self._turns(knots[0])
        if not error <= MOST_ERROR_PX or turns is None:  # also where it is no number: a seam, or nothing to project
            cols, rows = self._exact_mesh(x, y)
            return self._rows(rows), self._cols(cols)
        knots[0][:] += turns
        pixels = np.empty((2, len(y), len(x)), np.int32)
        wide = [np.stack([np.interp(x, x[at_x], line) for line in knot]) for knot in knots]
        buffers = np.empty((2, STEP_PX + 1, len(x)))
        for i, (top, bottom) in enumerate(itertools.pairwise(at_y)):
            strip = slice(top, bottom + (bottom == at_y[-1]))
            share = ((y[strip] - y[top]) / (y[bottom] - y[top]))[:, None]
            at, floor = buffers[:, : len(share)]
            doubtful = []
            for lines, axis in zip(wide, pixels, strict=True):
                np.multiply(share, lines[i + 1] - lines[i], out=at)
                at += lines[i]
                axis[strip] = np.floor(at, out=floor)
                at -= floor
                at -= 0.5
                doubtful.append(np.flatnonzero(np.abs(at, out=at) > 0.5 - error))
            row, col = np.divmod(np.concatenate(doubtful), len(x))
            cols, rows = self._exact(x[col], y[strip][row])
            pixels[:, top + row, col] = np.floor([cols + turns + TIE, rows + TIE])
        return tuple(_within(*side) for side in zip(pixels[::-1], knots[::-1], self._size, strict=True))  # type: ignore[return-value]

    def _turns(self, cols: Places) -> float | None:
        """Pixels to add to columns of one side of the world's seam so that they are the source's; None for both."""
        low, high = cols.min(), cols.max()
        if not max(abs(low), abs(high)) < FAR_PX:
            return None
        if self._world_px is None or (low >= 0 and high < self._size[1]):
            return 0.0
        if high < 0:
            return self._world_px
        return -self._world_px if low >= self._size[1] else None

    def _error_px(self, x: Places, y: Places, knots: tuple[Places, Places]) -> float:
        """A bound of the interpolation's error, source pixels: twice the sum of what shows between knots both ways."""
        if len(x) < 2 or len(y) < 2:
            return float("inf")
        along = self._exact_mesh((x[:-1] + x[1:]) / 2, y)
        across = self._exact_mesh(x, (y[:-1] + y[1:]) / 2)
        error = 0.0
        with np.errstate(invalid="ignore"):
            for knot, beside, below in zip(knots, along, across, strict=True):
                error = max(
                    error,
                    float(np.abs(beside - (knot[:, :-1] + knot[:, 1:]) / 2).max())
                    + float(np.abs(below - (knot[:-1] + knot[1:]) / 2).max()),
                )
                if not np.isfinite(knot).all():
                    return float("inf")
        return 2 * error + 1e-8

    def _rows(self, rows: Places) -> Pixels:
        return _floor(rows, self._size[0])

    def _cols(self, cols: Places) -> Pixels:
        """Columns; beyond the source's edge, those of the same meridian a world further."""
        width = self._size[1]
        if self._world_px is not None and not (cols.min() >= 0 and cols.max() < width):
            cols = np.where(cols < 0, cols + self._world_px, np.where(cols >= width, cols - self._world_px, cols))
        return _floor(cols, width)


def _within(pixels: Pixels, knots: Places, size: int) -> Pixels:
    """Whole pixels, -1 for those outside of the source; `knots` are fractional ones that enclose them."""
    if knots.min() < 1 or knots.max() > size - 1:
        pixels[(pixels < 0) | (pixels >= size)] = OUTSIDE
    return pixels


def _lattice(pixels: int) -> npt.NDArray[np.intp]:
    return np.unique(np.append(np.arange(0, pixels, STEP_PX), pixels - 1))


def _floor(places: Places, size: int) -> Pixels:
    """Whole pixels from 0 to size - 1; -1 elsewhere."""
    with np.errstate(invalid="ignore"):
        pixels = np.floor(places + TIE)
        return np.where((pixels >= 0) & (pixels < size), pixels, OUTSIDE).astype(np.int32)
