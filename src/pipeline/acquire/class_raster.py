"""How a raster of classes is stored: uint8 with a colour table, tiled and deflated; and whether one fits a grid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rasterio

from pipeline.acquire.shards import open_raster
from pipeline.config import IGNORE, ClassScheme
from pipeline.errors import DataError
from pipeline.grid import Grid, Shard


def read_colour_table(scheme: ClassScheme) -> dict[int, tuple[int, int, int, int]]:
    """Colour table of a class raster: index → red, green, blue, alpha; 255 is transparent."""
    table = {index: (*colour, 255) for index, colour in enumerate(scheme.colours)}
    return table | {IGNORE: (0, 0, 0, 0)}


def class_profile(grid: Grid, shard: Shard, nodata: int | None) -> dict[str, Any]:
    """Creation options of a uint8 GeoTIFF with a colour table that covers `shard`: tiled 256 px, deflate."""
    return {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 1,
        "height": shard.height,
        "width": shard.width,
        "crs": grid.crs,
        "transform": rasterio.Affine(*grid.transform(shard.row_px, shard.col_px)),
        "nodata": nodata,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
        "photometric": "palette",
        "bigtiff": "if_safer",
    }


def keeps(raster: Any, profile: dict[str, Any], colours: Mapping[int, tuple[int, ...]]) -> bool:
    """Whether an open raster, read back, has the place, nodata and colours that it was written with.

    GDAL tells of no error that it meets while closing a file. Of colours red, green and blue count: the palette of a
    GeoTIFF has no alpha.
    """
    placed = bool(raster.crs) and raster.crs == profile["crs"] and raster.transform == profile["transform"]
    if not placed or raster.nodata != profile["nodata"]:
        return False
    try:
        table = raster.colormap(1)
    except ValueError:
        return False
    return all(table.get(index, ())[:3] == colour[:3] for index, colour in colours.items())


def lies_on(raster: Any, grid: Grid) -> bool:
    """Whether an open raster has the grid's size, and its corners to a hundredth of a pixel."""
    turned = raster.transform.b or raster.transform.d
    tolerance = 0.01 * min(grid.res_x, grid.res_y)
    apart = any(abs(found - wanted) > tolerance for found, wanted in zip(raster.bounds, grid.bounds, strict=True))
    return (raster.width, raster.height) == (grid.width, grid.height) and not turned and not apart


def check_on_grid(path: Path, grid: Grid) -> None:
    """DataError unless the raster at `path`, somebody's own, lies on the grid and has one band of uint8."""
    with open_raster(path) as raster:
        fits, bands, dtype = lies_on(raster, grid), raster.count, raster.dtypes[0]
    if not fits:
        left, bottom, right, top = grid.bounds
        raise DataError(
            f"{path} does not lie on the region's grid; bring it there with gdalwarp -t_srs {grid.crs} "
            f"-te {left} {bottom} {right} {top} -ts {grid.width} {grid.height} -r near"
        )
    if (bands, dtype) != (1, "uint8"):
        raise DataError(
            f"{path}: has {bands} bands of {dtype}; class rasters have one of uint8 (gdal_translate -ot Byte)"
        )
