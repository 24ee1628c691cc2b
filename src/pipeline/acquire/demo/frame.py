"""The demo's ground frame, its rasters and its noise.

Geometry lives in *ground metres*: x east and y **south** of the region's top-left corner. The EPSG:3857 pixel grid is
that frame divided by the ground size of a pixel, which over 2 km varies by less than 0.04 %.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image
from rasterio.features import rasterize
from rasterio.transform import Affine

from pipeline.errors import ConfigError
from pipeline.grid import MERCATOR_HALF_M, TILE_PX, mercator_gsd_m, mercator_lonlat

FloatArray = NDArray[np.float32]
LEAST_M, MOST_M = 700.0, 4500.0  # edges between which the landscape holds all it should


@dataclass(frozen=True)
class Frame:
    """A square of x/y/z tiles: `tiles` × `tiles` from (`tile_x`, `tile_y`) at `zoom`, 256 px each."""

    zoom: int
    tile_x: int
    tile_y: int
    tiles: int

    def __post_init__(self) -> None:
        if not 16 <= self.zoom <= 20:
            raise ConfigError(f"zoom is {self.zoom}: the demo's roads and roofs need a zoom from 16 to 20")
        if not LEAST_M <= self.extent_m <= MOST_M:
            raise ConfigError(
                f"tiles is {self.tiles}: at zoom {self.zoom} that is {self.extent_m:.0f} m on the ground; "
                f"the demo's landscape needs {LEAST_M:.0f} to {MOST_M:.0f} m"
            )

    @property
    def size_px(self) -> int:
        """Edge of the region, pixels."""
        return self.tiles * TILE_PX

    @property
    def gsd(self) -> tuple[float, float]:
        """(east-west, north-south) metres on the ground of one pixel."""
        _, lat = mercator_lonlat(0.0, self.tile_y * TILE_PX + self.size_px / 2, self.zoom)
        return mercator_gsd_m(self.zoom, lat)

    @property
    def extent_m(self) -> float:
        """Edge of the region, metres on the ground (mean of both axes)."""
        return self.size_px * sum(self.gsd) / 2

    @property
    def mercator_transform(self) -> Affine:
        """Pixel to EPSG:3857."""
        res = 2 * MERCATOR_HALF_M / (TILE_PX * 2**self.zoom)
        return Affine(
            res,
            0.0,
            -MERCATOR_HALF_M + self.tile_x * TILE_PX * res,
            0.0,
            -res,
            MERCATOR_HALF_M - self.tile_y * TILE_PX * res,
        )

    def ground_transform(self, pad_px: int = 0, factor: int = 1) -> Affine:
        """Pixel of the grid, padded by `pad_px` and `factor` times finer, to ground metres."""
        gsd_x, gsd_y = self.gsd
        return Affine(gsd_x / factor, 0.0, -pad_px * gsd_x, 0.0, gsd_y / factor, -pad_px * gsd_y)

    def lonlat(self, x_m: float, y_m: float) -> tuple[float, float]:
        """WGS84 (lon, lat) of a ground point."""
        gsd_x, gsd_y = self.gsd
        x_px, y_px = self.tile_x * TILE_PX + x_m / gsd_x, self.tile_y * TILE_PX + y_m / gsd_y
        return mercator_lonlat(x_px, y_px, self.zoom)

    @property
    def bbox_wgs84(self) -> tuple[float, float, float, float]:
        """(west, south, east, north), degrees."""
        last_x, last_y = (self.size_px * gsd for gsd in self.gsd)
        return (*self.lonlat(0.0, last_y), *self.lonlat(last_x, 0.0))

    def burn(
        self,
        shapes: Iterable[tuple[shapely.Geometry, int]],
        *,
        pad_px: int = 0,
        factor: int = 1,
        fill: int = 0,
        dtype: str = "uint8",
    ) -> NDArray[Any]:
        """Rasterise (geometry in ground metres, value) pairs, later ones on top, by pixel centres."""
        size = (self.size_px + 2 * pad_px) * factor
        listed = [(shape, value) for shape, value in shapes if not shape.is_empty]
        if not listed:
            return np.full((size, size), fill, dtype)
        transform = self.ground_transform(pad_px, factor)
        return np.asarray(rasterize(listed, (size, size), fill=fill, transform=transform, dtype=dtype))


def noise(rng: np.random.Generator, size: int, cell_px: float) -> FloatArray:
    """Smooth value noise [size, size] with features of about `cell_px` pixels, mean 0, deviation 1."""
    coarse = max(4, round(size / cell_px) + 3)
    values = rng.standard_normal((coarse, coarse)).astype(np.float32)
    edge = min(float(coarse), size / cell_px)
    shift = (coarse - edge) / 2
    image = Image.fromarray(values).resize(
        (size, size), Image.Resampling.BICUBIC, box=(shift, shift, shift + edge, shift + edge)
    )
    out = np.asarray(image, np.float32)
    return np.asarray((out - out.mean()) / (out.std() + 1e-6), np.float32)


def coverage(fine: NDArray[np.bool_]) -> FloatArray:
    """Share of set subpixels, [2H, 2W] bool to [H, W] float32."""
    count = fine[::2, ::2].astype(np.uint8)
    count += fine[1::2, ::2]
    count += fine[::2, 1::2]
    count += fine[1::2, 1::2]
    return count.astype(np.float32) * np.float32(0.25)
