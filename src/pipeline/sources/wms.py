"""A Web Map Service (1.1.1, 1.3.0): images rendered for a box, in the region's own coordinate system.

Every image covers exactly the pixels that it is asked for, so that nothing is resampled here. Images lie on a lattice
anchored at the coordinate system's origin (the corner of the world on x/y/z grids): shards, and regions of one
resolution, ask for the same boxes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, StrictBool, model_validator

from pipeline.errors import DataError
from pipeline.grid import Grid
from pipeline.sources._base import Layout, Tile
from pipeline.sources._lattice import lattice, tile_box
from pipeline.sources._ogc import ServiceSource, axis_order, same_system
from pipeline.sources._pyramid import values_key

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
        key = values_key({**self._fixed(self._crs(name, grid)), "url": self.values, "axis_order": self.axis_order})
        return lattice(self, name, grid, zoom, self.tile_px, key)

    def address(self, tile: Tile, layout: Layout, grid: Grid) -> str:
        """A GetMap request for exactly the tile's pixels."""
        left, bottom, right, top = tile_box(tile, layout, grid)
        crs = self._crs("", grid)
        box = (left, bottom, right, top) if self._order(crs) == "xy" else (bottom, left, top, right)
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
