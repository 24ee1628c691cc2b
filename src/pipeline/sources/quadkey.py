"""Tiles of the world's pyramid named by quadkeys, as Bing does: one digit per zoom, 0 to 3, the coarsest first.

Digit i says in which quarter of the tile of zoom i − 1 the tile lies: its bit 0 is x's, its bit 1 y's. So tile (3, 5)
of zoom 3 is "213" (Microsoft, Bing Maps Tile System).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.grid import TILE_PX, Grid
from pipeline.sources._base import Layout, Tile, TiledSource
from pipeline.sources._pyramid import pyramid_layout
from pipeline.sources._template import fill


class Source(TiledSource):
    """Quadkey tiles over HTTP."""

    required = ("{quadkey}",)
    kind: Literal["quadkey"]
    url: str = Field(description="template with {quadkey}; a literal ${NAME} is taken from the environment")
    min_zoom: int = Field(1, ge=1, le=23)

    def layout(self, name: str, grid: Grid, zoom: int | None) -> Layout:
        """The pyramid's own."""
        return pyramid_layout(self, name, grid, zoom, TILE_PX)

    def address(self, tile: Tile, layout: Layout, grid: Grid) -> str:
        """The template, filled in."""
        return fill(self.url, {"quadkey": quadkey(*tile), **self.parts(tile)})


def quadkey(zoom: int, x: int, y: int) -> str:
    """The quadkey of tile (`x`, `y`) of `zoom`, `zoom` digits long."""
    return "".join(str((x >> bit & 1) + 2 * (y >> bit & 1)) for bit in reversed(range(zoom)))
