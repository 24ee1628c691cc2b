"""A Web Map Service (1.1.1, 1.3.0): images rendered for a box, in the region's own coordinate system.

Every image covers exactly the pixels that it is asked for, so that nothing is resampled here. Images lie on a lattice
anchored at the coordinate system's origin (the corner of the world on x/y/z grids): shards, and regions of one
resolution, ask for the same boxes.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Literal

from pydantic import Field, StrictBool, model_validator

from pipeline.errors import DataError
from pipeline.grid import TILE_PX, Grid, tile_of_grid
from pipeline.sources._base import Layout, Tile
from pipeline.sources._ogc import ServiceSource, axis_order, same_system
from pipeline.sources._pyramid import check_zoom, pyramid_zoom, values_key

WORLD = "CRS:84"  # longitude first, whatever the version
MERCATOR_ALIASES = ("EPSG:900913", "EPSG:102100", "EPSG:102113", "EPSG:3785")


class Source(ServiceSource):
    """Images of a WMS."""

    reserved = (
        *("service", "request", "version", "layers", "styles", "format", "transparent"),
        *("srs", "crs", "bbox", "width", "height"),
    )
    kind: Literal["wms"]
    url: str = Field(description="the service's address without the parameters of WMS; `?map=…` may stay")
    version: Literal["1.1.1", "1.3.0"] = "1.3.0"
    layers: str = Field(min_length=1, description="the service's names, parted by commas")
    styles: str = ""
    format: str = "image/jpeg"
    transparent: StrictBool = Field(False, description="where the service has no imagery: clear (PNG) or a colour")
    crs: str | None = Field(
        None, description="the service's name for the grid's coordinate system (EPSG:900913, CRS:84); default: its own"
    )
    axis_order: Literal["xy", "yx"] | None = Field(
        None, description="for a service that does not keep to the standard; default: what the standard says"
    )
    tile_px: int = Field(1024, ge=64, le=4096, description="edge of an image; a service has its own maximum")
    params: dict[str, str] = Field(default_factory=dict, description="further parameters, such as {TIME: 2020}")
    tile_kb: float = Field(250.0, gt=0, description="usual size of an image, for the plan of a download")

    @model_validator(mode="after")
    def _check_params(self) -> Source:
        twice = [key for key in self.params if key.lower() in self.reserved]
        if twice:
            raise ValueError(f"params.{twice[0]}: is written for each image; take the key of that name instead")
        return self

    def layout(self, name: str, grid: Grid, zoom: int | None) -> Layout:
        """Squares of `tile_px` from the coordinate system's origin, or the world's corner, on."""
        crs = self._crs(name, grid)
        key = values_key({**self._fixed(crs), "url": self.values, "axis_order": self.axis_order})
        if zoom is None:
            col, row = round(grid.left / grid.res_x), round(-grid.top / grid.res_y)
            phase = [round(grid.left / grid.res_x - col, 4) + 0.0, round(-grid.top / grid.res_y - row, 4) + 0.0]
            return Layout(0, self.tile_px, row, col, key=f"{key} {grid.res_x!r} {grid.res_y!r} {phase}")
        check_zoom(self, name, pyramid_zoom(name, grid, zoom))
        col, row = tile_of_grid(grid, zoom)
        columns, rest = divmod(TILE_PX * 2**zoom, self.tile_px)
        if rest and col + grid.width > TILE_PX * 2**zoom:
            raise DataError(f"imagery {name!r}: a region across 180 degrees needs a tile_px that is a power of two")
        return Layout(zoom, self.tile_px, row, col, columns=None if rest else columns, key=key)

    def address(self, tile: Tile, layout: Layout, grid: Grid) -> str:
        """A GetMap request for exactly the tile's pixels, its corners written to a millionth of a pixel."""
        _, x, y = tile
        left = grid.left + (x * layout.tile_px - layout.col) * grid.res_x
        top = grid.top - (y * layout.tile_px - layout.row) * grid.res_y
        width, height = layout.tile_px * grid.res_x, layout.tile_px * grid.res_y
        digits = max(0, math.ceil(6 - math.log10(min(grid.res_x, grid.res_y))))
        box = [_number(value, digits) for value in (left, top - height, left + width, top)]
        crs = self._crs("", grid)
        if self._order(crs) == "yx":
            box = [box[1], box[0], box[3], box[2]]
        return self.query({**self._fixed(crs), "BBOX": ",".join(box)}, tile)

    def _order(self, crs: str) -> str:
        """1.1.1 writes x first whatever the system; 1.3.0 follows the system's authority."""
        if self.axis_order is not None:
            return self.axis_order
        if self.version == "1.1.1" or crs.upper() in (WORLD, *MERCATOR_ALIASES):
            return "xy"
        return axis_order(crs)

    def _crs(self, name: str, grid: Grid) -> str:
        """The service's name for the grid's coordinate system."""
        plain = "[" not in grid.crs  # no WKT
        if self.crs is None and not plain:
            raise DataError(
                f"imagery {name!r}: the grid's coordinate system has no code ({grid.crs[:40]}…); give imagery.{name} "
                "the service's name for it, crs: …"
            )
        if self.crs is not None and plain and not same_system(self.crs, grid.crs):
            raise DataError(
                f"imagery {name!r}: crs {self.crs} is not the grid's ({grid.crs}), and images are not resampled; "
                f"give the region grid: {{crs: {self.crs}, resolution: …}}, or drop crs"
            )
        return self.crs or grid.crs

    def _fixed(self, crs: str) -> dict[str, object]:
        """The parameters that are the same for every image."""
        return {
            "SERVICE": "WMS",
            "REQUEST": "GetMap",
            "VERSION": self.version,
            "LAYERS": self.layers,
            "STYLES": self.styles,
            "CRS" if self.version == "1.3.0" else "SRS": crs,
            "WIDTH": self.tile_px,
            "HEIGHT": self.tile_px,
            "FORMAT": self.format,
            "TRANSPARENT": "TRUE" if self.transparent else "FALSE",
            **self.params,
        }


def _number(value: float, digits: int) -> str:
    """`value` with at most `digits` decimals, without an exponent or a negative zero."""
    text = f"{Decimal(repr(value)):.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text
