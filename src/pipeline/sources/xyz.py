"""Tiles of the world's x/y/z pyramid (EPSG:3857) from a template such as ``https://host/{z}/{x}/{y}.jpg``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.grid import Grid
from pipeline.sources._base import Layout, Tile, TiledSource
from pipeline.sources._pyramid import pyramid_layout
from pipeline.sources._template import fill


class Source(TiledSource):
    """x/y/z tiles over HTTP."""

    required = ("{z}", "{x}")
    optional = ("{y}", "{-y}")
    kind: Literal["xyz"]
    url: str = Field(
        description="template with {z}, {x}, {y} (counted from the north) or {-y} (TMS, from the south); a literal "
        "${NAME} is taken from the environment"
    )
    zoom: int | None = Field(None, ge=0, le=23, description="zoom whose 256 px tiles have the grid's pixels")
    tile_px: Literal[256, 512, 1024] = Field(
        256, description="edge of a tile: @2x tiles of 512 px at zoom z have the pixels of zoom z + 1"
    )

    def lacking(self, found: list[str]) -> list[str]:
        """With the row, of either kind."""
        return super().lacking(found) + ([] if {"y", "-y"} & set(found) else ["{y} or {-y}"])

    def layout(self, name: str, grid: Grid, zoom: int | None) -> Layout:
        """The pyramid's own."""
        return pyramid_layout(self, name, grid, self.zoom if zoom is None else zoom, self.tile_px)

    def address(self, tile: Tile, layout: Layout, grid: Grid) -> str:
        """The template, filled in."""
        z, x, y = tile
        return fill(self.url, {"z": z, "x": x, "y": y, "-y": 2**z - 1 - y, **self.parts(tile)})
