"""Land cover from rasters, local or read by window from a server: the nearest source pixel under each grid pixel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import CRSError, RasterioError
from rasterio.windows import Window

from pipeline.acquire.legend import Codes, Legend, key_of
from pipeline.acquire.nearest import PixelMap, Pixels
from pipeline.config import LandcoverConfig
from pipeline.errors import DataError
from pipeline.grid import Grid

WINDOW_PX = 1 << 24  # most source pixels in memory at once


class Cover:
    """One raster as codes on the grid."""

    def __init__(self, raster: Any, place: str, config: LandcoverConfig, grid: Grid, legend: Legend) -> None:
        """Take an open raster; `place` opens errors. DataError when it cannot be a land cover."""
        self._raster, self._place, self._band, self._legend = raster, place, config.band, legend
        _check_raster(raster, place, config)
        try:
            self._map = PixelMap(grid, raster.crs, raster.transform, raster.height, raster.width)
        except CRSError as error:
            raise DataError(f"{place}: its coordinate system cannot be read ({error})") from None
        self._alpha = next((i for i, kind in enumerate(raster.colorinterp, 1) if kind == ColorInterp.alpha), None)

    def codes(self, row: int, col: int, height: int, width: int) -> Codes:
        """Codes under a window of the grid, uint16 [height, width]; 0 without data or beyond the raster."""
        out = np.zeros((height, width), dtype=np.uint16)
        self._gather(*self._map.locate(row, col, height, width), out)
        return out

    def _gather(self, rows: Pixels, cols: Pixels, out: Codes) -> None:
        """Fill `out`. Source windows above `WINDOW_PX` (coarse grid, seam of the world) are halved until they fit."""
        inside_rows, inside_cols = rows[rows >= 0], cols[cols >= 0]
        if not (inside_rows.size and inside_cols.size):
            return
        top, bottom = int(inside_rows.min()), int(inside_rows.max()) + 1
        left, right = int(inside_cols.min()), int(inside_cols.max()) + 1
        if (bottom - top) * (right - left) > WINDOW_PX and out.size > 1:
            for part in _halves(out.shape, by_row=self._split_rows(rows, cols, out.shape, bottom - top, right - left)):
                self._gather(_part(rows, part), _part(cols, part), out[part])
            return
        source = self._read(Window(left, top, right - left, bottom - top))
        if rows.shape[1] == 1 and cols.shape[0] == 1:
            wide = np.take(source, np.clip(cols[0] - left, 0, right - left - 1), axis=1)
            np.take(wide, np.clip(rows[:, 0] - top, 0, bottom - top - 1), axis=0, out=out)
            out[rows[:, 0] < 0] = 0
            out[:, cols[0] < 0] = 0
        else:
            place = (rows - top) * (right - left) + (cols - left)
            outside = (rows < 0) | (cols < 0)
            place[outside] = 0
            np.take(source.ravel(), place, out=out)
            out[outside] = 0

    @staticmethod
    def _split_rows(rows: Pixels, cols: Pixels, shape: tuple[int, ...], high: int, wide: int) -> bool:
        if rows.shape[1] == 1 and cols.shape[0] == 1:
            return shape[1] == 1 or (shape[0] > 1 and high > wide)
        return shape[0] >= shape[1]

    def _read(self, window: Window) -> Codes:
        try:
            band = self._raster.read(self._band, window=window)
            if self._alpha is None:  # GDAL's own mask of an alpha band is right for uint8 and uint16 alone
                valid = self._raster.read_masks(self._band, window=window) > 0
            else:
                valid = self._raster.read(self._alpha, window=window) != 0
        except RasterioError as error:
            text = " ".join(str(error.__cause__ or error).split())
            raise DataError(f"{self._place}: is damaged ({text}); get it again") from None
        return self._legend.codes(band, valid)


class Covers:
    """Several rasters, those on top first, as one."""

    def __init__(self, covers: list[Cover]) -> None:
        self._covers = covers

    def codes(self, row: int, col: int, height: int, width: int) -> Codes:
        """Codes under a window of the grid, uint16 [height, width]; 0 where no raster has data."""
        out = self._covers[0].codes(row, col, height, width)
        for cover in self._covers[1:]:
            missing = out == 0
            if not missing.any():
                break
            out[missing] = cover.codes(row, col, height, width)[missing]
        return out


@contextmanager
def local_cover(config: LandcoverConfig, path: Path, grid: Grid, legend: Legend) -> Iterator[tuple[Covers, Any]]:
    """The local raster `path` as codes, and what of it the summary says. DataError when it cannot be read."""
    if not path.is_file():
        raise DataError(f"the land cover {str(path)!r} does not exist; paths are relative to the Snakefile's folder")
    try:
        raster = rasterio.open(path)
    except RasterioError as error:
        raise DataError(f"{path}: cannot be read as a raster ({error})") from None
    with raster:
        yield Covers([Cover(raster, str(path), config, grid, legend)]), file_facts(path)


def file_facts(path: Path) -> dict[str, Any]:
    """What a summary says of a local file: path, bytes, date of its last change."""
    found = path.stat()
    changed = datetime.fromtimestamp(found.st_mtime, UTC).isoformat(timespec="seconds")
    return {"path": str(path), "bytes": found.st_size, "changed": changed}


def _check_raster(raster: Any, place: str, config: LandcoverConfig) -> None:
    if raster.crs is None:
        raise DataError(f"{place}: has no coordinate system; give it one with gdal_translate -a_srs")
    if not (raster.crs.is_geographic or raster.crs.is_projected):
        raise DataError(
            f"{place}: its coordinate system is neither geographic nor projected; "
            "give it the right one with gdal_translate -a_srs"
        )
    if config.band > raster.count:
        raise DataError(f"{place}: band {config.band} does not exist; it has 1 to {raster.count}")
    if raster.dtypes[config.band - 1].startswith("complex"):
        raise DataError(f"{place}: band {config.band} holds complex numbers, no land cover")
    nodata = raster.nodatavals[config.band - 1]
    named = {key_of(value): name for value, name in config.classes.items()}
    if nodata is not None and key_of(nodata) in named:
        raise DataError(
            f"{place}: value {nodata:g} is the file's nodata, not class {named[key_of(nodata)]!r}; "
            "take it out of `classes`, or out of the file's header with gdal_edit.py -unsetnodata"
        )


def _halves(shape: tuple[int, ...], *, by_row: bool) -> list[tuple[slice, slice]]:
    middle = shape[0 if by_row else 1] // 2
    parts = [slice(None, middle), slice(middle, None)]
    return [(part, slice(None)) if by_row else (slice(None), part) for part in parts]


def _part(places: Pixels, part: tuple[slice, slice]) -> Pixels:
    """A part of rows or columns, of which an axis of length 1 stands for all."""
    return places[tuple(slice(None) if size == 1 else cut for size, cut in zip(places.shape, part, strict=True))]
