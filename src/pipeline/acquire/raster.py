"""The grid of a local raster. Imports no HTTP client."""

from __future__ import annotations

import math
from pathlib import Path

import pyproj
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform_bounds

from pipeline.acquire.shards import open_raster
from pipeline.acquire.views import checked_crs, crs_text
from pipeline.crs_grid import pixel_on_ground_m
from pipeline.errors import DataError
from pipeline.extent import check_size
from pipeline.grid import Grid


def raster_grid(path: Path, bbox: tuple[float, float, float, float] | None, shard_px: int) -> Grid:
    """The pixel grid of the raster at `path`, cropped to `bbox` (west, south, east, north; degrees; west > east:
    across 180 degrees), as one shard.

    The crop covers the box and ends at the raster's border. `shard_px` is the least edge of the shard; it grows to
    the longer side of the grid, so that the whole region is shard ``r00c00``.

    Raises:
        DataError: no coordinate system of the Earth, a rotated or south-up raster, or a box outside of it.
    """
    with open_raster(path) as source:
        crs, transform, height, width = checked_crs(source, str(path)), source.transform, source.height, source.width
    if transform.b != 0 or transform.d != 0 or transform.a <= 0 or transform.e >= 0:
        raise DataError(
            f"{path}: its pixel axes are not east and south (transform {tuple(transform)[:6]}); "
            "a grid must be north-up: warp it with gdalwarp first"
        )
    row0, row1, col0, col1 = 0, height, 0, width
    if bbox is not None:
        west, south, east, north = bbox
        east += 360.0 if west > east else 0.0
        left, bottom, right, top = transform_bounds(CRS.from_epsg(4326), crs, west, south, east, north)
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
    gsd_x_m, gsd_y_m = pixel_on_ground_m(pyproj.CRS.from_user_input(crs.to_wkt()), centre, transform.a, -transform.e)
    grid = Grid(
        crs=crs_text(crs),
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
    check_size(grid)
    return grid


def _bounds(transform: Affine, height: int, width: int) -> tuple[float, float, float, float]:
    return transform.c, transform.f + height * transform.e, transform.c + width * transform.a, transform.f
