"""Class rasters, written band after band: none is left behind unless all of them are whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.windows import Window

from pipeline.acquire.class_raster import class_profile, keeps
from pipeline.errors import DataError
from pipeline.files import atomic_file
from pipeline.grid import Grid, Shard

Band = npt.NDArray[np.uint8]
Colours = dict[int, tuple[int, int, int, int]]

BLOCK_PX = 256
BAND_PX = 1024  # rows of a band, at most
BAND_PIXELS = 1024 * 16384
BAND_KM2 = 150.0  # ground under a band: what its features take is in memory at once
# The cache holds what waits to be compressed; reading a raster back needs no more.
GDAL_OPTIONS = {"GDAL_CACHEMAX": 64 << 20, "GDAL_PAM_ENABLED": False}


@dataclass(frozen=True)
class RasterFile:
    """A raster to write: its path, colours by value, tags, and the value of pixels without data."""

    path: Path
    colours: Colours
    tags: dict[str, str] = field(default_factory=dict)
    nodata: int | None = None


def bands_of(grid: Grid, shard: Shard) -> list[Shard]:
    """The shard from top to bottom in bands of whole blocks of 256 rows, at most 1024 rows or about 150 km² each."""
    area_km2 = shard.width * grid.gsd_x_m * grid.gsd_y_m / 1e6  # of one row
    rows = int(min(BAND_PX, BAND_PIXELS // shard.width, BAND_KM2 / area_km2)) // BLOCK_PX * BLOCK_PX
    rows = max(rows, BLOCK_PX)
    return [
        Shard(shard.name, shard.row_px + row, shard.col_px, min(rows, shard.height - row), shard.width)
        for row in range(0, shard.height, rows)
    ]


class RasterWriter:
    """One raster that is being written; `sha256` is that of the pixels so far, row by row."""

    def __init__(self, target: Any, file: RasterFile, shard: Shard) -> None:
        self._target = target
        self._file = file
        self._shard = shard
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Hex digest of all pixels written, in row-major order."""
        return self._digest.hexdigest()

    def write(self, band: Shard, pixels: Band) -> None:
        """Write the next band; DataError when the disk does not take it."""
        window = Window(0, band.row_px - self._shard.row_px, band.width, band.height)
        with _writable(self._file.path):
            self._target.write(pixels, 1, window=window)
        self._digest.update(np.ascontiguousarray(pixels).data)


@contextmanager
def open_rasters(
    files: Sequence[RasterFile],
    grid: Grid,
    shard: Shard,
    threads: int = 1,
    options: Mapping[str, Any] = GDAL_OPTIONS,
) -> Iterator[list[RasterWriter]]:
    """Writers of uint8 GeoTIFFs that cover a shard: tiled 256 px, deflated by `threads` threads, colour tables.

    GDAL's `options` hold for the whole block.

    When the block succeeds, each file is read back and compared with what was written (GDAL closes a file on a full
    disk without a word), then all are renamed to their paths. Otherwise none is left.

    Raises:
        DataError: a file cannot be written, the disk being full for example.
    """
    with ExitStack() as stack, rasterio.Env(**options):
        temporaries = [stack.enter_context(atomic_file(file.path)) for file in files]
        writers = []
        with ExitStack() as targets:
            for file, temporary in zip(files, temporaries, strict=True):
                profile = class_profile(grid, shard, file.nodata) | {"num_threads": threads}
                with _writable(file.path):
                    target = targets.enter_context(_closing(rasterio.open(temporary, "w", **profile), file.path))
                    target.write_colormap(1, file.colours)
                    target.update_tags(**file.tags)
                writers.append(RasterWriter(target, file, shard))
            yield writers
        for writer, file, temporary in zip(writers, files, temporaries, strict=True):
            _check(temporary, file, grid, shard, writer.sha256)


@contextmanager
def _closing(target: Any, path: Path) -> Iterator[Any]:
    try:
        yield target
    finally:
        with _writable(path):
            target.close()


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # rasterio's and GDAL's own have no public root in common
        text = " ".join(str(error.__cause__ or error).split())
        raise DataError(f"{path}: cannot be written ({text}); is there space on the disk?") from None


def _check(temporary: Path, file: RasterFile, grid: Grid, shard: Shard, sha256: str) -> None:
    digest, kept = hashlib.sha256(), False
    try:
        with rasterio.open(temporary) as raster:
            kept = keeps(raster, class_profile(grid, shard, file.nodata), file.colours)
            for band in bands_of(grid, shard):
                window = Window(0, band.row_px - shard.row_px, band.width, band.height)
                digest.update(raster.read(1, window=window).data)
    except rasterio.errors.RasterioError:
        pass  # damaged: the digest tells
    if not kept or digest.hexdigest() != sha256:
        raise DataError(f"{file.path}: what was written cannot be read back; is there space on the disk?")
