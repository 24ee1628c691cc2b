"""Shard GeoTIFFs: writing them, opening rasters, and reading shards as one image. Imports no HTTP client."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from pipeline.errors import DataError
from pipeline.files import atomic_file
from pipeline.grid import Grid, Shard

BLOCK_PX = 256
OPEN_FILES = 64  # shard files that a Mosaic keeps open at once
GDAL_OPTIONS = {"GDAL_TIFF_INTERNAL_MASK": True, "GDAL_CACHEMAX": 64 << 20, "GDAL_PAM_ENABLED": False}

Pixels = npt.NDArray[Any]
Valid = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Written:
    """What `write_shard` wrote: the hash of its content (shape, dtype, pixels, mask) and the count of valid pixels."""

    sha256: str
    valid_px: int


def write_shard(
    out: Path, grid: Grid, shard: Shard, bands: int, dtype: str, strips: Iterable[tuple[Pixels, Valid]]
) -> Written:
    """Write one shard as a tiled, deflated GeoTIFF with an internal mask band (255 valid, 0 missing), atomically.

    Args:
        out: path of the file.
        grid, shard: the window that the file covers.
        bands, dtype: shape and NumPy type of the pixels.
        strips: from top to bottom, strips of `BLOCK_PX` rows (the last may be lower): pixels [bands, rows, width] and
            valid [rows, width]. Pixels that are not valid are written as 0, whatever the strip holds there.

    One strip is in memory at a time.
    """
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "crs": CRS.from_user_input(grid.crs),
        "transform": Affine(*grid.transform(shard.row_px, shard.col_px)),
        "height": shard.height,
        "width": shard.width,
        "count": bands,
        "dtype": dtype,
        "tiled": True,
        "blockxsize": BLOCK_PX,
        "blockysize": BLOCK_PX,
        "compress": "deflate",
        "predictor": 3 if np.dtype(dtype).kind == "f" else 2,
        "photometric": "RGB" if bands == 3 and dtype == "uint8" else "MINISBLACK",
        "BIGTIFF": "IF_SAFER",
    }
    content = _Content(bands, dtype, shard)
    top = valid_px = 0
    with atomic_file(out) as temporary, rasterio.Env(**GDAL_OPTIONS):
        with _writable(out):
            target = rasterio.open(temporary, "w", **profile)
        with target:
            for pixels, valid in strips:
                pixels = np.where(valid, pixels, np.zeros((), pixels.dtype)).astype(dtype, copy=False)
                mask = valid.astype(np.uint8) * np.uint8(255)
                window = Window(0, top, shard.width, valid.shape[0])
                with _writable(out):
                    target.write(pixels, window=window)
                    target.write_mask(mask, window=window)
                content.add(pixels, mask)
                top += valid.shape[0]
                valid_px += int(valid.sum())
        if top != shard.height:
            raise ValueError(f"strips of {top} rows for a shard of {shard.height}")
        with _writable(out):
            _read_back(temporary, profile, _Content(bands, dtype, shard), content.sha256)
    return Written(content.sha256, valid_px)


class _Content:
    """The hash of a shard's shape, dtype, pixels and mask, strip by strip."""

    def __init__(self, bands: int, dtype: str, shard: Shard) -> None:
        head = {"bands": bands, "dtype": dtype, "height": shard.height, "width": shard.width}
        self._digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())

    def add(self, pixels: Pixels, mask: Pixels) -> None:
        """Take the next strip: pixels [bands, rows, width], mask uint8 [rows, width]."""
        self._digest.update(pixels.tobytes())
        self._digest.update(mask.tobytes())

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def _read_back(path: Path, profile: dict[str, Any], content: _Content, sha256: str) -> None:
    """RasterioError unless the file is what was written: GDAL tells of no error that it meets while closing one."""
    with rasterio.open(path) as raster:
        for top in range(0, raster.height, BLOCK_PX):
            window = Window(0, top, raster.width, min(BLOCK_PX, raster.height - top))
            content.add(raster.read(window=window), raster.read_masks(1, window=window))
        placed = (raster.crs, raster.transform) == (profile["crs"], profile["transform"])
        if content.sha256 != sha256 or not placed or MaskFlags.per_dataset not in raster.mask_flag_enums[0]:
            raise RasterioError("what was written does not read back")


@contextmanager
def _writable(out: Path) -> Iterator[None]:
    """Turn what rasterio says when it cannot write into a DataError of one line."""
    try:
        yield
    except RasterioError as error:
        text = " ".join(str(error.__cause__ or error).split())
        raise DataError(f"{out}: cannot be written ({text}): is the disk full? make room and run again") from None


class Mosaic:
    """Read windows of a region's grid across its shard files; a context manager.

    Attributes:
        count: bands of the shard files.
        dtype: NumPy type of their pixels.

    Files are opened when a window first touches them. One object serves one thread.
    """

    def __init__(self, paths: dict[str, Path], grid: Grid) -> None:
        """Take the shard files by shard name (``r00c00``); DataError when there is none or the first is unreadable."""
        if not paths:
            raise DataError("no shard files to read")
        self._paths = {name: Path(path) for name, path in paths.items()}
        self._grid = grid
        self._shards = {(shard.row_px, shard.col_px): shard for shard in grid.shards()}
        self._files: OrderedDict[str, Any] = OrderedDict()
        with self._open_file(next(iter(self._paths.values()))) as first:
            self.count = int(first.count)
            self.dtype = str(first.dtypes[0])

    def __enter__(self) -> Mosaic:
        return self

    def __exit__(self, *_: object) -> None:
        while self._files:
            self._files.popitem()[1].close()

    def read(self, row_px: int, col_px: int, height: int, width: int) -> tuple[Pixels, Valid]:
        """The window whose top-left pixel is (`row_px`, `col_px`) of the grid, sizes in pixels.

        Returns:
            pixels [count, height, width] in `dtype`, and valid bool [height, width] (the files' mask band; files
            without one are valid wherever they have no nodata).

        Raises:
            DataError: the window reaches beyond the grid, a shard file is absent, unreadable, or does not fit.
        """
        grid, step = self._grid, self._grid.shard_px
        if row_px < 0 or col_px < 0 or row_px + height > grid.height or col_px + width > grid.width:
            raise DataError(
                f"window at row {row_px}, column {col_px} of {height} × {width} px reaches beyond the grid "
                f"of {grid.height} × {grid.width} px"
            )
        pixels = np.zeros((self.count, height, width), dtype=self.dtype)
        valid = np.zeros((height, width), dtype=bool)
        for top in range(row_px // step * step, row_px + height, step):
            for left in range(col_px // step * step, col_px + width, step):
                shard = self._shards[top, left]
                r0, r1 = max(top, row_px), min(top + shard.height, row_px + height)
                c0, c1 = max(left, col_px), min(left + shard.width, col_px + width)
                window = Window(c0 - left, r0 - top, c1 - c0, r1 - r0)
                part = (slice(r0 - row_px, r1 - row_px), slice(c0 - col_px, c1 - col_px))
                file = self._open(shard)
                with readable(self._paths[shard.name], _built_again):
                    pixels[(slice(None), *part)] = file.read(window=window)
                    valid[part] = file.dataset_mask(window=window) > 0
        return pixels, valid

    def _open(self, shard: Shard) -> Any:
        if shard.name in self._files:
            self._files.move_to_end(shard.name)
            return self._files[shard.name]
        if shard.name not in self._paths:
            raise DataError(f"no file for shard {shard.name!r}; there are {', '.join(sorted(self._paths))}")
        path = self._paths[shard.name]
        file = self._open_file(path)
        found = (file.height, file.width, file.count, file.dtypes[0])
        if found != (shard.height, shard.width, self.count, self.dtype):
            file.close()
            raise DataError(
                f"{path}: height, width, bands, dtype are {found}, expected "
                f"{(shard.height, shard.width, self.count, self.dtype)}; {_built_again(path)}"
            )
        self._files[shard.name] = file
        if len(self._files) > OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        return file

    @staticmethod
    def _open_file(path: Path) -> Any:
        if not path.exists():
            raise DataError(f"{path}: the raster does not exist; {_built_again(path)}")
        with readable(path, _built_again):
            return rasterio.open(path)


def _built_again(path: Path) -> str:
    """How to have a shard file made again: rules look at its manifest, so deleting the raster alone does nothing."""
    manifests = [path.with_suffix(".json"), path.with_name(f"{path.stem}_stats.json")]
    files = [file for file in (path, *manifests) if file.exists()] or [path]
    return f"delete {' and '.join(map(str, files))} and run again"


def open_raster(path: Path) -> Any:
    """Open a raster for reading; DataError in one line when it is absent or unreadable."""
    if not Path(path).exists():
        raise DataError(f"{path}: the raster does not exist")
    with readable(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # said by whoever needs a coordinate system
        return rasterio.open(path)


@contextmanager
def readable(path: Path, advice: Callable[[Path], str] = lambda _: "it may be damaged or cut off") -> Iterator[None]:
    """Turn what rasterio says about a broken file into a DataError of one line that ends in `advice`."""
    try:
        yield
    except RasterioError as error:
        text = " ".join(str(error.__cause__ or error).split())
        raise DataError(f"{path}: is not readable as a raster ({text}); {advice(path)}") from None
