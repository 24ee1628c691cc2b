"""Tiles of the world's x/y/z pyramid (EPSG:3857) from a template such as ``https://host/{z}/{x}/{y}.jpg``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.grid import TILE_PX, Grid
from pipeline.sources._base import Layout, Tile, TiledSource
from pipeline.sources._pyramid import pyramid_layout


class Source(TiledSource):
    """x/y/z tiles over HTTP."""

    required = ("{z}", "{x}", "{y}")
    kind: Literal["xyz"]
    url: str = Field(description="template with {z}, {x}, {y}; a literal ${NAME} is taken from the environment")
    zoom: int | None = Field(None, ge=0, le=23, description="zoom of the tiles; default: the grid's")

    def layout(self, name: str, grid: Grid, zoom: int | None) -> Layout:
        """The pyramid's own."""
        return pyramid_layout(self, name, grid, self.zoom if zoom is None else zoom, TILE_PX)

    def address(self, tile: Tile, layout: Layout, grid: Grid) -> str:
        """The template, filled in."""
        z, x, y = tile
        parts = {"{z}": z, "{x}": x, "{y}": y, "{s}": self.subdomain(tile)}
        text = self.url
        for part, value in parts.items():
            text = text.replace(part, str(value))
        return text
