"""Shard GeoTIFFs: writing them, joining them, and cutting them from a local raster. Imports no HTTP client."""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from pipeline.command import Log
from pipeline.config import RasterSource
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
    head = {"bands": bands, "dtype": dtype, "height": shard.height, "width": shard.width}
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    top = valid_px = 0
    with atomic_file(out) as temporary, rasterio.Env(**GDAL_OPTIONS):
        with rasterio.open(temporary, "w", **profile) as target:
            for pixels, valid in strips:
                pixels = np.where(valid, pixels, np.zeros((), pixels.dtype))
                mask = valid.astype(np.uint8) * np.uint8(255)
                window = Window(0, top, shard.width, valid.shape[0])
                target.write(pixels, window=window)
                target.write_mask(mask, window=window)
                digest.update(pixels.tobytes())
                digest.update(mask.tobytes())
                top += valid.shape[0]
                valid_px += int(valid.sum())
        if top != shard.height:
            raise ValueError(f"strips of {top} rows for a shard of {shard.height}")
    return Written(digest.hexdigest(), valid_px)


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
                with _readable(self._paths[shard.name], _built_again):
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
        with _readable(path, _built_again):
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
    with _readable(path):
        return rasterio.open(path)


@contextmanager
def _readable(path: Path, advice: Callable[[Path], str] = lambda _: "it may be damaged or cut off") -> Iterator[None]:
    try:
        yield
    except RasterioError as error:
        text = " ".join(str(error.__cause__ or error).split())
        raise DataError(f"{path}: is not readable as a raster ({text}); {advice(path)}") from None


def raster_grid(path: Path, bbox: tuple[float, float, float, float] | None, shard_px: int) -> Grid:
    """The pixel grid of the raster at `path`, cropped to `bbox` (west, south, east, north; degrees), as one shard.

    The crop covers the box and ends at the raster's border. `shard_px` is the least edge of the shard; it grows to
    the longer side of the grid, so that the whole region is shard ``r00c00``.

    Raises:
        DataError: no coordinate system of the Earth, a rotated or south-up raster, or a box outside of it.
    """
    with open_raster(path) as source:
        crs, transform, height, width = _crs(source, path), source.transform, source.height, source.width
    if transform.b != 0 or transform.d != 0 or transform.a <= 0 or transform.e >= 0:
        raise DataError(
            f"{path}: its pixel axes are not east and south (transform {tuple(transform)[:6]}); "
            "a grid must be north-up: warp it with gdalwarp first"
        )
    row0, row1, col0, col1 = 0, height, 0, width
    if bbox is not None:
        left, bottom, right, top = transform_bounds(CRS.from_epsg(4326), crs, *bbox)
        col0 = max(0, math.floor((left - transform.c) / transform.a + 0.01))
        col1 = min(width, math.ceil((right - transform.c) / transform.a - 0.01))
        row0 = max(0, math.floor((top - transform.f) / transform.e + 0.01))
        row1 = min(height, math.ceil((bottom - transform.f) / transform.e - 0.01))
    if row1 <= row0 or col1 <= col0:
        west, south, east, north = transform_bounds(crs, CRS.from_epsg(4326), *_bounds(transform, height, width))
        raise DataError(
            f"bbox {list(bbox or ())} lies outside {path}, which covers "
            f"[{west:.6f}, {south:.6f}, {east:.6f}, {north:.6f}] (west, south, east, north)"
        )
    left, top = transform.c + col0 * transform.a, transform.f + row0 * transform.e
    centre = left + (col1 - col0) / 2 * transform.a, top + (row1 - row0) / 2 * transform.e
    gsd_x_m, gsd_y_m = _gsd_m(crs, centre, transform.a, -transform.e)
    return Grid(
        crs=_crs_text(crs),
        left=left,
        top=top,
        res_x=transform.a,
        res_y=-transform.e,
        width=col1 - col0,
        height=row1 - row0,
        gsd_x_m=gsd_x_m,
        gsd_y_m=gsd_y_m,
        shard_px=max(shard_px, row1 - row0, col1 - col0),
    )


def _bounds(transform: Affine, height: int, width: int) -> tuple[float, float, float, float]:
    return transform.c, transform.f + height * transform.e, transform.c + width * transform.a, transform.f


def _crs(source: Any, path: Path) -> CRS:
    if not source.crs:
        raise DataError(
            f"{path}: has no coordinate system; give it the right one, e.g. gdal_edit.py -a_srs EPSG:<code> {path}"
        )
    crs: CRS = source.crs
    if not (crs.is_geographic or crs.is_projected):
        reason = "is neither geographic nor projected"
    else:
        try:
            pyproj.Transformer.from_crs(crs.to_wkt(), "EPSG:4326")
            return crs
        except pyproj.exceptions.ProjError:
            reason = "cannot be brought to longitude and latitude"
    raise DataError(
        f"{path}: its coordinate system {reason} ({_crs_text(crs)[:60]}); give it the right one, "
        f"e.g. gdal_edit.py -a_srs EPSG:<code> {path}"
    )


def _crs_text(crs: CRS) -> str:
    """An authority code where it means the same system, else WKT."""
    text = str(crs.to_string())
    return text if CRS.from_user_input(text) == crs else str(crs.to_wkt())


def _gsd_m(crs: CRS, centre: tuple[float, float], res_x: float, res_y: float) -> tuple[float, float]:
    """Geodesic metres on WGS84 of one pixel around `centre`, along both axes of the grid."""
    to_wgs84 = pyproj.Transformer.from_crs(crs.to_wkt(), "EPSG:4326", always_xy=True)
    geod = pyproj.Geod(ellps="WGS84")
    lengths = []
    for dx, dy in ((res_x / 2, 0.0), (0.0, res_y / 2)):
        lon0, lat0 = to_wgs84.transform(centre[0] - dx, centre[1] - dy)
        lon1, lat1 = to_wgs84.transform(centre[0] + dx, centre[1] + dy)
        lengths.append(float(geod.inv(lon0, lat0, lon1, lat1)[2]))
    return lengths[0], lengths[1]


def download_raster(name: str, source: RasterSource, grid: Grid, shard: Shard, out: Path, log: Log) -> dict[str, Any]:
    """Cut one shard from a local raster and write it to `out`; return the manifest.

    A raster on the region's own grid is copied, any other one is warped to it (bilinear). A pixel is valid where the
    raster's mask or alpha says so, else where not all of its bands equal the declared nodata; a NaN in a taken band
    is never valid. Memory stays at one strip of 256 rows.

    Raises:
        DataError: unreadable raster, no coordinate system, a band it does not have, or no overlap with the grid.
    """
    with open_raster(source.path) as raster:
        bands = _bands(name, source, raster)
        dtypes = {raster.dtypes[band - 1] for band in bands}
        if len(dtypes) > 1:
            raise DataError(f"{source.path}: bands {bands} differ in dtype ({', '.join(sorted(dtypes))}); take fewer")
        dtype = dtypes.pop()
        offset = _own_offset(raster, _crs(raster, source.path), grid)
        with _readable(source.path):
            if offset is not None:
                _check_overlap(name, source.path, raster, grid)
                written = write_shard(out, grid, shard, len(bands), dtype, _strips(raster, bands, shard, offset))
            else:
                _check_overlap(name, source.path, raster, grid)
                with _warped(raster, grid) as warped:
                    written = write_shard(out, grid, shard, len(bands), dtype, _strips(warped, bands, shard, (0, 0)))
    share_missing = 1 - written.valid_px / (shard.height * shard.width)
    how = "copied from its own grid" if offset is not None else "warped onto the grid (bilinear)"
    log(f"{name}, shard {shard.name}: {how}, {share_missing:.1%} of the pixels without imagery")
    return {
        "source": name,
        "kind": "raster",
        "path": str(source.path),
        "attribution": source.attribution,
        "terms": source.terms,
        "shard": shard.name,
        "resampled": offset is None,
        "bands": len(bands),
        "dtype": dtype,
        "height": shard.height,
        "width": shard.width,
        "share_missing": round(share_missing, 6),
        "sha256": written.sha256,
    }


def _bands(name: str, source: RasterSource, raster: Any) -> list[int]:
    kinds = dict(enumerate(raster.colorinterp, start=1))
    for band in source.bands or ():
        if band not in kinds:
            raise DataError(f"imagery {name!r}: bands: {band} does not exist; {source.path} has 1 to {raster.count}")
    bands = source.bands or [band for band, kind in kinds.items() if kind != ColorInterp.alpha]
    for band in bands:
        if kinds[band] == ColorInterp.palette:
            raise DataError(
                f"imagery {name!r}: {source.path}: band {band} holds numbers of a colour table, no brightness; "
                f"make colours of it: gdal_translate -expand rgb {source.path} <new>.tif"
            )
    return list(bands)


def _own_offset(raster: Any, crs: CRS, grid: Grid) -> tuple[int, int] | None:
    """(row, column) of the grid's corner in the raster when both share one lattice of pixels, else None."""
    t = raster.transform
    if CRS.from_user_input(grid.crs) != crs or t.b != 0 or t.d != 0 or t.a <= 0 or t.e >= 0:
        return None
    # A difference in pixel size must stay below a thousandth of a pixel over the whole grid.
    if max(abs(t.a / grid.res_x - 1) * grid.width, abs(-t.e / grid.res_y - 1) * grid.height) > 1e-3:
        return None
    row, col = (grid.top - t.f) / t.e, (grid.left - t.c) / t.a
    if abs(row - round(row)) > 1e-3 or abs(col - round(col)) > 1e-3:
        return None
    return round(row), round(col)


def _check_overlap(name: str, path: Path, raster: Any, grid: Grid) -> None:
    try:
        left, bottom, right, top = transform_bounds(raster.crs, CRS.from_user_input(grid.crs), *raster.bounds)
    except CRSError as error:
        raise DataError(f"{path}: cannot be brought to {grid.crs[:60]} ({error})") from None
    west, south, east, north = grid.bounds
    if left >= east or right <= west or bottom >= north or top <= south:
        raise DataError(
            f"imagery {name!r}: {path} lies outside the region: it covers {[round(v, 6) for v in raster.bounds]} in "
            f"{raster.crs.to_string()[:60]}; check the region's bbox"
        )


def _warped(raster: Any, grid: Grid) -> WarpedVRT:
    has_alpha = ColorInterp.alpha in raster.colorinterp
    return WarpedVRT(
        raster,
        crs=CRS.from_user_input(grid.crs),
        transform=Affine(*grid.transform()),
        height=grid.height,
        width=grid.width,
        resampling=Resampling.bilinear,
        add_alpha=not has_alpha,
        UNIFIED_SRC_NODATA="YES",
        SRC_ALPHA_MAX="1",  # any alpha but 0 is imagery, also 1 in a band of 16 bits
    )


def _strips(raster: Any, bands: list[int], shard: Shard, offset: tuple[int, int]) -> Iterator[tuple[Pixels, Valid]]:
    """Strips of the shard from a dataset in which the grid's corner is at `offset` (row, column)."""
    # Below an alpha band GDAL's own mask is right for uint8 and uint16 alone.
    alpha = next((band for band, kind in enumerate(raster.colorinterp, 1) if kind == ColorInterp.alpha), None)
    left = offset[1] + shard.col_px
    c0, c1 = max(0, left), min(raster.width, left + shard.width)
    for start in range(0, shard.height, BLOCK_PX):
        rows = min(BLOCK_PX, shard.height - start)
        top = offset[0] + shard.row_px + start
        r0, r1 = max(0, top), min(raster.height, top + rows)
        pixels = np.zeros((len(bands), rows, shard.width), dtype=raster.dtypes[bands[0] - 1])
        valid = np.zeros((rows, shard.width), dtype=bool)
        if r1 > r0 and c1 > c0:
            window = Window(c0, r0, c1 - c0, r1 - r0)
            part = (slice(r0 - top, r1 - top), slice(c0 - left, c1 - left))
            pixels[(slice(None), *part)] = raster.read(bands, window=window)
            if alpha is None:
                valid[part] = raster.dataset_mask(window=window) > 0
            else:
                valid[part] = raster.read(alpha, window=window) != 0
        if pixels.dtype.kind == "f":
            valid &= ~np.isnan(pixels).any(axis=0)
        yield pixels, valid
