"""Local rasters: the grid of one, and a shard of imagery cut or warped from one. Imports no HTTP client."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import CRSError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from pipeline.acquire.shards import BLOCK_PX, Pixels, Valid, open_raster, readable, write_shard
from pipeline.command import Log
from pipeline.config import RasterSource
from pipeline.errors import DataError
from pipeline.grid import Grid, Shard


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
        with readable(source.path):
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
