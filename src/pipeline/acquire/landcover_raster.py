"""Land cover from rasters, local or read by window from a server: the nearest source pixel under each grid pixel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pyproj import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import CRSError
from rasterio.windows import Window

from pipeline.acquire.answer import NotThere
from pipeline.acquire.cog import Opened, opened
from pipeline.acquire.fetch import Fetcher
from pipeline.acquire.http import Policy
from pipeline.acquire.legend import Codes, Legend, key_of
from pipeline.acquire.nearest import PixelMap, Pixels
from pipeline.acquire.views import box_of, checked_crs
from pipeline.acquire.world import Box, boxes_in
from pipeline.command import Log
from pipeline.config import LandcoverConfig
from pipeline.errors import DataError
from pipeline.grid import Grid
from pipeline.sources._base import PLACEHOLDER, SECRET

WINDOW_PX = 1 << 24  # most source pixels in memory at once
TILE3 = "{tile3}"


class Cover:
    """One raster as codes on the grid."""

    def __init__(self, file: Opened, place: str, config: LandcoverConfig, grid: Grid, legend: Legend) -> None:
        """Take an open raster; `place` opens errors. DataError when it cannot be a land cover."""
        self._file, self._raster, self._band, self._legend = file, file.raster, config.band, legend
        raster = self._raster
        _check_raster(raster, place, config)
        crs = checked_crs(raster, place)
        self._map = PixelMap(grid, crs, raster.transform, raster.height, raster.width)
        self._alpha = next((i for i, kind in enumerate(raster.colorinterp, 1) if kind == ColorInterp.alpha), None)

    @property
    def box(self) -> Box | None:
        """What the raster covers (west, south, east, north; degrees), None where that cannot be said."""
        try:
            return box_of(self._raster)
        except CRSError:
            return None

    def codes(self, row: int, col: int, height: int, width: int) -> Codes:
        """Codes under a window of the grid, uint16 [height, width]; 0 without data or beyond the raster."""
        out = np.zeros((height, width), dtype=np.uint16)
        self._gather(*self._map.locate(row, col, height, width), out)
        return out

    def _gather(self, rows: Pixels, cols: Pixels, out: Codes) -> None:
        """Fill `out`. Source windows above `WINDOW_PX` (coarse grid, seam of the world) are halved until they fit."""
        high, wide = _span(rows), _span(cols)
        if high is None or wide is None:
            return
        (top, bottom), (left, right) = high, wide
        if (bottom - top) * (right - left) > WINDOW_PX and out.size > 1:
            for part in _halves(out.shape, by_row=self._split_rows(rows, cols, out.shape, bottom - top, right - left)):
                self._gather(_part(rows, part), _part(cols, part), out[part])
            return
        source = self._read(Window(left, top, right - left, bottom - top))
        outside = (rows < 0) | (cols < 0) if min(rows.min(), cols.min()) < 0 else None
        if rows.shape[1] == 1 and cols.shape[0] == 1:
            lines = np.take(source, cols[0] - left, axis=1, mode="clip")
            np.take(lines, rows[:, 0] - top, axis=0, out=out, mode="clip")
        else:
            place = rows * np.int32(right - left)
            place += cols
            place -= top * (right - left) + left
            np.take(source.ravel(), place, out=out, mode="clip")
        if outside is not None:
            out[outside] = 0

    @staticmethod
    def _split_rows(rows: Pixels, cols: Pixels, shape: tuple[int, ...], high: int, wide: int) -> bool:
        if rows.shape[1] == 1 and cols.shape[0] == 1:
            return shape[1] == 1 or (shape[0] > 1 and high > wide)
        return shape[0] >= shape[1]

    def _read(self, window: Window) -> Codes:
        with self._file.reading():
            band = self._raster.read(self._band, window=window)
            if self._alpha is None:  # GDAL's own mask of an alpha band is right for uint8 and uint16 alone
                valid = self._raster.read_masks(self._band, window=window) > 0
            else:
                valid = self._raster.read(self._alpha, window=window) != 0
        return self._legend.codes(band, valid)


class Covers:
    """Several rasters, those on top first, as one."""

    def __init__(self, covers: list[Cover]) -> None:
        self._covers = covers

    @property
    def box(self) -> Box | None:
        """The box around all of them (west, south, east, north; degrees), None where one's cannot be said."""
        boxes = [cover.box for cover in self._covers]
        known = [box for box in boxes if box is not None]
        if not known or len(known) < len(boxes):
            return None
        west, south, east, north = zip(*known, strict=True)
        return min(west), min(south), max(east), max(north)

    def codes(self, row: int, col: int, height: int, width: int) -> Codes:
        """Codes under a window of the grid, uint16 [height, width]; 0 where no raster has data."""
        out = np.zeros((height, width), dtype=np.uint16)
        for cover in self._covers:
            missing = out == 0
            if not missing.any():
                break
            out[missing] = cover.codes(row, col, height, width)[missing]
        return out


@contextmanager
def local_cover(config: LandcoverConfig, path: Path, grid: Grid, legend: Legend) -> Iterator[tuple[Covers, Any]]:
    """The local raster `path` as codes, and what of it the summary says. DataError when it cannot be read."""
    with opened(str(path), None, None) as file:
        yield Covers([Cover(file, str(path), config, grid, legend)]), file_facts(path)


@contextmanager
def remote_covers(
    name: str, config: LandcoverConfig, grid: Grid, legend: Legend, cache: Path, log: Log
) -> Iterator[tuple[Covers, Any]]:
    """The files of `config.url` as codes, read by window, and what of each the summary says.

    Raises:
        DownloadError: a file that is not there or could not be fetched; one that ``{tile3}`` names may be absent.
        DataError: a file that is no land cover.
    """
    covers, facts, absent = [], [], []
    with ExitStack() as stack:
        fetcher = stack.enter_context(Fetcher(f"landcover {name!r}", Policy(), log, turns=cache.parent))
        for place, needed in _places(config, grid):
            try:
                file = stack.enter_context(opened(place, fetcher, cache / "files" / f"landcover-{name}"))
            except NotThere:
                if needed:
                    raise
                absent.append(fetcher.public(place))
                continue
            shown = fetcher.public(place)
            covers.append(Cover(file, shown, config, grid, legend))
            if file.remote is not None:
                head = file.remote.head
                facts.append({"url": shown, "bytes": head.size, "version": head.validator, "fetched": head.fetched})
        if absent:
            listed = ", ".join(absent[:3]) + (", …" if len(absent) > 3 else "")
            log(f"landcover {name!r}: {len(absent)} files that the server does not have are without data: {listed}")
        yield Covers(covers), {"files": facts, "absent": absent}


def _places(config: LandcoverConfig, grid: Grid) -> list[tuple[str, bool]]:
    """Urls of the files, and whether each must be there."""
    urls = [config.url] if isinstance(config.url, str) else list(config.url or [])
    places = []
    for url in urls:
        if unknown := sorted(set(PLACEHOLDER.findall(SECRET.sub("", url))) - {TILE3}):
            raise DataError(f"unknown placeholder {unknown[0]} in the url {url}; there is {TILE3}")
        names = tiles3(grid) if TILE3 in url else [None]
        places += [(url if tile is None else url.replace(TILE3, tile), tile is None) for tile in names]
    return places


def tiles3(grid: Grid) -> list[str]:
    """Names of the squares of 3 degrees that the grid touches, by their south-west corner: ``N48E006``."""
    corners = {
        (south, west)
        for left, bottom, right, top in boxes_in(grid, CRS.from_epsg(4326))
        for south in range(math.floor(bottom / 3) * 3, math.ceil(top), 3)
        for west in range(math.floor(left / 3) * 3, math.ceil(right), 3)
    }
    return [
        f"{'N' if south >= 0 else 'S'}{abs(south):02d}{'E' if west >= 0 else 'W'}{abs(west):03d}"
        for south, west in sorted(corners)
    ]


def file_facts(path: Path) -> dict[str, Any]:
    """What a summary says of a local file: path, bytes, date of its last change."""
    found = path.stat()
    changed = datetime.fromtimestamp(found.st_mtime, UTC).isoformat(timespec="seconds")
    return {"path": str(path), "bytes": found.st_size, "changed": changed}


def _check_raster(raster: Any, place: str, config: LandcoverConfig) -> None:
    if config.band > raster.count:
        raise DataError(f"{place}: band {config.band} does not exist; it has 1 to {raster.count}")
    if raster.dtypes[config.band - 1].startswith("complex"):
        raise DataError(f"{place}: band {config.band} holds complex numbers, no land cover")
    if raster.transform.determinant == 0:
        raise DataError(f"{place}: its pixels have no size (transform {tuple(raster.transform)[:6]}); get it again")
    nodata = raster.nodatavals[config.band - 1]
    named = {key_of(value): name for value, name in config.classes.items()}
    if nodata is not None and key_of(nodata) in named:
        raise DataError(
            f"{place}: value {nodata:g} is the file's nodata, not class {named[key_of(nodata)]!r}; "
            "take it out of `classes`, or out of the file's header with gdal_edit.py -unsetnodata"
        )


def _span(places: Pixels) -> tuple[int, int] | None:
    """First and one past the last pixel, those outside of the source apart; None when all are."""
    low, high = int(places.min()), int(places.max()) + 1
    if low < 0 < high:
        low = int(places[places >= 0].min())
    return (low, high) if high > 0 else None


def _halves(shape: tuple[int, ...], *, by_row: bool) -> list[tuple[slice, slice]]:
    middle = shape[0 if by_row else 1] // 2
    parts = [slice(None, middle), slice(middle, None)]
    return [(part, slice(None)) if by_row else (slice(None), part) for part in parts]


def _part(places: Pixels, part: tuple[slice, slice]) -> Pixels:
    """A part of rows or columns, of which an axis of length 1 stands for all."""
    return places[tuple(slice(None) if size == 1 else cut for size, cut in zip(places.shape, part, strict=True))]
