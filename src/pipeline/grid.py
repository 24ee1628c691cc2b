"""The region's pixel grid: coordinates, shards and metres on the ground. Imports no GDAL."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.files import read_json, write_json

MERCATOR_HALF_M = 20037508.342789244  # half the width of the EPSG:3857 world, metres
MERCATOR_MAX_LAT = 85.05112877980659
TILE_PX = 256


@dataclass(frozen=True)
class Shard:
    """A rectangle of the grid that one job processes: `name` is ``r00c00``; offsets and sizes in pixels."""

    name: str
    row_px: int
    col_px: int
    height: int
    width: int


@dataclass(frozen=True)
class Grid:
    """A north-up pixel grid.

    Attributes:
        crs: authority code or WKT of the coordinate system.
        left, top: coordinates of the outer corner of pixel (0, 0), CRS units.
        res_x, res_y: size of a pixel, CRS units, both positive.
        width, height: size in pixels.
        gsd_x_m, gsd_y_m: metres on the ground (WGS84 ellipsoid) of one pixel at the grid's centre.
        shard_px: edge of a shard in pixels.
    """

    crs: str
    left: float
    top: float
    res_x: float
    res_y: float
    width: int
    height: int
    gsd_x_m: float
    gsd_y_m: float
    shard_px: int

    @property
    def gsd_m(self) -> float:
        """Metres on the ground per pixel at the grid's centre, mean of both axes."""
        return (self.gsd_x_m + self.gsd_y_m) / 2

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) in CRS units."""
        return (
            self.left,
            self.top - self.height * self.res_y,
            self.left + self.width * self.res_x,
            self.top,
        )

    def transform(self, row_px: int = 0, col_px: int = 0) -> tuple[float, float, float, float, float, float]:
        """Affine coefficients (a, b, c, d, e, f) of the window that starts at (`row_px`, `col_px`)."""
        return (
            self.res_x,
            0.0,
            self.left + col_px * self.res_x,
            0.0,
            -self.res_y,
            self.top - row_px * self.res_y,
        )

    def shards(self) -> list[Shard]:
        """Every shard, row by row; the last row and column may be smaller."""
        return [
            Shard(
                f"r{row // self.shard_px:02d}c{col // self.shard_px:02d}",
                row,
                col,
                min(self.shard_px, self.height - row),
                min(self.shard_px, self.width - col),
            )
            for row in range(0, self.height, self.shard_px)
            for col in range(0, self.width, self.shard_px)
        ]

    def shard(self, name: str) -> Shard:
        """The shard called `name`; ConfigError when the grid has none of that name."""
        shards = self.shards()
        for shard in shards:
            if shard.name == name:
                return shard
        raise ConfigError(
            f"the grid has no shard {name!r}; it has {len(shards)}, row by row from {shards[0].name} to "
            f"{shards[-1].name}"
        )

    def save(self, path: Path) -> None:
        """Write the grid as JSON."""
        write_json(path, asdict(self) | {"gsd_m": self.gsd_m, "shards": [s.name for s in self.shards()]})

    @staticmethod
    def load(path: Path) -> Grid:
        """Read a grid written by `save`."""
        raw: dict[str, Any] = read_json(path)
        return Grid(**{name: raw[name] for name in Grid.__dataclass_fields__})


def mercator_px(lon: float, lat: float, zoom: int) -> tuple[float, float]:
    """Global (column, row) pixel coordinates of a WGS84 point at an x/y/z zoom, 256 px tiles."""
    size = TILE_PX * 2**zoom
    lat = max(-MERCATOR_MAX_LAT, min(MERCATOR_MAX_LAT, lat))
    x = (lon + 180.0) / 360.0 * size
    y = (1.0 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2.0 * size
    return x, y


def mercator_lonlat(x_px: float, y_px: float, zoom: int) -> tuple[float, float]:
    """(lon, lat) of a global pixel coordinate, the inverse of `mercator_px`."""
    size = TILE_PX * 2**zoom
    lon = x_px / size * 360.0 - 180.0
    lat = math.degrees(math.atan(math.sinh(math.pi * (1.0 - 2.0 * y_px / size))))
    return lon, lat


def web_mercator_grid(bbox: tuple[float, float, float, float], zoom: int, shard_px: int) -> Grid:
    """The EPSG:3857 grid of x/y/z pixels at `zoom` that covers `bbox` (west, south, east, north; degrees).

    West > east is a box across 180 degrees: the grid begins within the world and ends beyond its right edge.
    Pixels are those of the world's tile pyramid, so that a tile's pixel is a grid's pixel, unresampled.
    A pixel edge within a hundredth of a pixel of the box counts as lying on it.
    """
    west, south, east, north = bbox
    x0, y0 = mercator_px(west, north, zoom)
    x1, y1 = mercator_px(east + (360.0 if west > east else 0.0), south, zoom)
    col0, row0 = math.floor(x0 + 0.01), math.floor(y0 + 0.01)
    col1, row1 = math.ceil(x1 - 0.01), math.ceil(y1 - 0.01)
    if col0 >= TILE_PX * 2**zoom:  # the box begins at 180 degrees: the world's left edge
        col0, col1 = col0 - TILE_PX * 2**zoom, col1 - TILE_PX * 2**zoom
    res = 2 * MERCATOR_HALF_M / (TILE_PX * 2**zoom)
    _, lat = mercator_lonlat(0, (row0 + row1) / 2, zoom)
    gsd_x, gsd_y = mercator_gsd_m(zoom, lat)
    return Grid(
        crs="EPSG:3857",
        left=-MERCATOR_HALF_M + col0 * res,
        top=MERCATOR_HALF_M - row0 * res,
        res_x=res,
        res_y=res,
        width=col1 - col0,
        height=row1 - row0,
        gsd_x_m=gsd_x,
        gsd_y_m=gsd_y,
        shard_px=shard_px,
    )


def mercator_gsd_m(zoom: int, lat: float) -> tuple[float, float]:
    """(east-west, north-south) metres on the WGS84 ellipsoid of one pixel of the x/y/z pyramid at latitude `lat`.

    EPSG:3857 projects ellipsoidal latitudes as if on a sphere, so the two differ a little (0.67 % at the equator):
    nominal · cos φ · N/a east-west and nominal · cos φ · M/a north-south, with the radii of curvature N and M.
    """
    e2 = 0.0066943799901413165
    nominal = 2 * MERCATOR_HALF_M / (TILE_PX * 2**zoom)
    phi = math.radians(lat)
    w = math.sqrt(1 - e2 * math.sin(phi) ** 2)
    return nominal * math.cos(phi) / w, nominal * math.cos(phi) * (1 - e2) / w**3


def tile_of_grid(grid: Grid, zoom: int) -> tuple[int, int]:
    """Global (column, row) pixel of the grid's top-left corner in the pyramid of `zoom`."""
    res = 2 * MERCATOR_HALF_M / (TILE_PX * 2**zoom)
    return round((grid.left + MERCATOR_HALF_M) / res), round((MERCATOR_HALF_M - grid.top) / res)
