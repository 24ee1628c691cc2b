"""A Web Map Tile Service, RESTful (a template with {TileMatrix}) or by parameters (KVP).

Its tile matrix set is the world's pyramid under whatever name (GoogleMapsCompatible, PM, google3857, EPSG:900913), or
one in the grid's own coordinate system, which `matrices` describes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.errors import DataError
from pipeline.grid import Grid
from pipeline.section import Section
from pipeline.sources._base import Layout, Tile
from pipeline.sources._ogc import STANDARD_PIXEL_M, ServiceSource, metres_per_unit
from pipeline.sources._pyramid import pyramid_layout, values_key
from pipeline.sources._template import fill, placeholders, shown

PLACES = ("{tilematrix}", "{tilerow}", "{tilecol}")
FIT_PX = 0.01  # how far from a tile's pixels the grid's may lie at its borders


class Matrix(Section):
    """One zoom of a tile matrix set that is not the world's; both corners count in x, y, whatever the axes' order."""

    resolution: float | None = Field(None, gt=0, description="units of the coordinate system per pixel")
    scale: float | None = Field(None, gt=0, description="ScaleDenominator of the capabilities, in full")
    origin: tuple[float, float] | None = Field(None, description="x, y of the top-left corner; default: the set's")
    tile_px: int | None = Field(None, ge=64, le=4096, description="default: the set's")

    @model_validator(mode="after")
    def _one(self) -> Matrix:
        if (self.resolution is None) == (self.scale is None):
            raise ValueError("give either `resolution` or `scale`")
        return self


class Source(ServiceSource):
    """Tiles of a WMTS."""

    reserved = (
        *("service", "request", "version", "layer", "style", "format"),
        *("tilematrixset", "tilematrix", "tilerow", "tilecol"),
    )
    optional = (*PLACES, "{layer}", "{style}", "{tilematrixset}")
    kind: Literal["wmts"]
    url: str = Field(description="the template of a RESTful service, or the address of one that takes parameters")
    layer: str = Field("", description="name of the layer; a template may hold it already")
    style: str = "default"
    format: str = "image/jpeg"
    tile_matrix_set: str = "GoogleMapsCompatible"
    matrix: str = Field("{z}", description="name of the matrix of zoom z, in the world's set; such as EPSG:3857:{z}")
    zoom_offset: int = Field(0, ge=-23, le=23, description="added to {z} in `matrix`")
    dimensions: dict[str, str] = Field(default_factory=dict, description="further dimensions, such as {Time: current}")
    matrices: dict[str, Matrix] = Field(
        default_factory=dict, description="the set's matrices by name, where it is not the world's"
    )
    origin: tuple[float, float] | None = Field(None, description="x, y of the matrices' top-left corner")
    tile_px: int = Field(256, ge=64, le=4096, description="edge of a tile; 256, 512 or 1024 in the world's set")

    @model_validator(mode="after")
    def _check_set(self) -> Source:
        found = [place for place in PLACES if place[1:-1] in placeholders(self.url)]
        if found and found != list(PLACES):
            missing = ", ".join(place for place in PLACES if place not in found)
            raise ValueError(f"the url {shown(self.url)!r} lacks {missing} (a template needs all three or none)")
        if not self.layer and (not found or "layer" in placeholders(self.url)):
            raise ValueError("`layer` is missing")
        if "{z}" not in self.matrix:
            raise ValueError(f"matrix {self.matrix!r} lacks {{z}}")
        if not self.matrices and self.tile_px not in (256, 512, 1024):
            raise ValueError(f"tile_px {self.tile_px}: the world's set has tiles of 256, 512 or 1024 px")
        bare = [name for name, matrix in self.matrices.items() if (matrix.origin or self.origin) is None]
        if bare:
            raise ValueError(f"matrices.{bare[0]}: has no `origin`")
        return self

    def own_names(self) -> set[str]:
        """With the dimensions."""
        return super().own_names() | {name.lower() for name in self.dimensions}

    def parts(self, tile: Tile) -> dict[str, object]:
        """The common ones, and what a template of this kind takes from the config."""
        own = {"layer": self.layer, "style": self.style, "tilematrixset": self.tile_matrix_set}
        return {**super().parts(tile), **own, **{name.lower(): value for name, value in self.dimensions.items()}}

    def layout(self, name: str, grid: Grid, zoom: int | None) -> Layout:
        """The world's pyramid, or the matrix whose pixels are the grid's."""
        asked = {"values": self.values, "dimensions": self.dimensions, "style": self.style, "format": self.format}
        key = values_key({**asked, "layer": self.layer, "set": self.tile_matrix_set, "matrix": self._naming()})
        if not self.matrices:
            return pyramid_layout(self, name, grid, zoom, self.tile_px, key)
        for index, matrix in enumerate(self.matrices.values()):
            res, px = self._resolution(matrix, grid), matrix.tile_px or self.tile_px
            edges = self._edges(matrix, res, grid)
            if all(abs(edge - round(edge)) < FIT_PX for edge in edges) and round(edges[2] - edges[0]) == grid.width:
                if min(edges[:2]) < -FIT_PX:
                    raise DataError(f"imagery {name!r}: the region reaches beyond the corner of the tile matrices")
                return Layout(index, px, round(edges[1]), round(edges[0]), key=key)
        raise DataError(self._no_fit(name, grid))

    def address(self, tile: Tile, layout: Layout, grid: Grid) -> str:
        """The template filled in, or a GetTile request."""
        z, col, row = tile
        matrix = list(self.matrices)[z] if self.matrices else self.matrix.replace("{z}", str(z + self.zoom_offset))
        if "tilematrix" in placeholders(self.url):
            return fill(self.url, {"tilematrix": matrix, "tilerow": row, "tilecol": col, **self.parts(tile)})
        asked = {
            "SERVICE": "WMTS",
            "REQUEST": "GetTile",
            "VERSION": "1.0.0",
            "LAYER": self.layer,
            "STYLE": self.style,
            "FORMAT": self.format,
            "TILEMATRIXSET": self.tile_matrix_set,
            "TILEMATRIX": matrix,
            "TILEROW": row,
            "TILECOL": col,
        }
        return self.query({**asked, **self.dimensions}, tile)

    def _naming(self) -> object:
        """What the tiles' keys stand for."""
        if not self.matrices:
            return [self.matrix, self.zoom_offset, self.tile_px]
        return [[name, *matrix.model_dump().values()] for name, matrix in self.matrices.items()] + [self.origin]

    def _resolution(self, matrix: Matrix, grid: Grid) -> float:
        if matrix.resolution is not None:
            return matrix.resolution
        assert matrix.scale is not None
        return matrix.scale * STANDARD_PIXEL_M / metres_per_unit(grid.crs)

    def _edges(self, matrix: Matrix, res: float, grid: Grid) -> tuple[float, float, float, float]:
        """The grid's left, top, right and bottom in pixels of the matrix."""
        origin = matrix.origin or self.origin
        assert origin is not None
        left, bottom, right, top = grid.bounds
        return (left - origin[0]) / res, (origin[1] - top) / res, (right - origin[0]) / res, (origin[1] - bottom) / res

    def _no_fit(self, name: str, grid: Grid) -> str:
        """Which resolution and corner would do."""
        own = {key: self._resolution(matrix, grid) for key, matrix in self.matrices.items()}
        nearest = min(own, key=lambda key: abs(own[key] / grid.res_x - 1))
        matrix, res = self.matrices[nearest], own[nearest]
        origin = matrix.origin or self.origin
        assert origin is not None
        col, row, *_ = self._edges(matrix, res, grid)
        corner = f"{origin[0] + round(col) * res:.12g}, {origin[1] - round(row) * res:.12g}"
        wanted = f"crs: {grid.crs[:40]}, resolution: {res!r}, origin: [{origin[0]!r}, {origin[1]!r}]"
        return (
            f"imagery {name!r}: the grid ({grid.res_x:.12g} per pixel, corner {grid.left:.12g}, {grid.top:.12g}) does "
            f"not lie on the pixels of a tile matrix; the nearest, {nearest!r}, has {res:.12g} per pixel and a corner "
            f"at {corner}: give the region grid: {{{wanted}}}"
        )
