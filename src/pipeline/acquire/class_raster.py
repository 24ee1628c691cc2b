"""How a raster of classes is stored: uint8 with a colour table, tiled and deflated."""

from __future__ import annotations

from typing import Any

import rasterio

from pipeline.config import IGNORE, ClassScheme
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
