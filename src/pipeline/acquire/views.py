"""An open raster seen on the region's grid: copied where it has the grid's own pixels, else warped to them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyproj
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from pipeline.acquire.osm_box import grid_box
from pipeline.acquire.shards import Pixels, Valid
from pipeline.acquire.world import world_width
from pipeline.errors import DataError
from pipeline.grid import Grid


def checked_crs(raster: Any, place: str) -> CRS:
    """The raster's coordinate system; DataError when it has none, or none of the Earth."""
    if not raster.crs:
        raise DataError(
            f"{place}: has no coordinate system; give it the right one, e.g. gdal_edit.py -a_srs EPSG:<code> {place}"
        )
    crs: CRS = raster.crs
    if not (crs.is_geographic or crs.is_projected):
        reason = "is neither geographic nor projected"
    else:
        try:
            pyproj.Transformer.from_crs(crs.to_wkt(), "EPSG:4326")
            return crs
        except pyproj.exceptions.ProjError:
            reason = "cannot be brought to longitude and latitude"
    raise DataError(
        f"{place}: its coordinate system {reason} ({crs_text(crs)[:60]}); give it the right one, "
        f"e.g. gdal_edit.py -a_srs EPSG:<code> {place}"
    )


def crs_text(crs: CRS) -> str:
    """An authority code where it means the same system, else WKT."""
    text = str(crs.to_string())
    return text if CRS.from_user_input(text) == crs else str(crs.to_wkt())


def reaches(raster: Any, place: str, grid: Grid) -> bool:
    """Whether the boxes in degrees of raster and grid overlap; also where that cannot be said.

    DataError when no transformation leads to the grid.
    """
    try:
        west, south, east, north = transform_bounds(raster.crs, CRS.from_epsg(4326), *raster.bounds)
        pyproj.Transformer.from_crs(raster.crs.to_wkt(), grid.crs)
    except (CRSError, pyproj.exceptions.ProjError) as error:
        raise DataError(f"{place}: cannot be brought to {grid.crs[:60]} ({error})") from None
    except RasterioError:
        return True
    return boxes_overlap((west, south, east, north), grid_box(grid))


def overview_level(raster: Any, grid: Grid) -> int | None:
    """The number of the coarsest overview whose pixels are not larger than the grid's, at the grid's centre; or None.

    All bands must have it. GDAL's warper would read every pixel of the full resolution instead.
    """
    factors = raster.overviews(1)
    if not factors or any(raster.overviews(band) != factors for band in raster.indexes):
        return None
    x, y = (grid.bounds[0] + grid.bounds[2]) / 2, (grid.bounds[1] + grid.bounds[3]) / 2
    xs, ys = [x, x + grid.res_x, x], [y, y, y + grid.res_y]
    if CRS.from_user_input(grid.crs) != raster.crs:
        transformer = pyproj.Transformer.from_crs(grid.crs, raster.crs.to_wkt(), always_xy=True)
        xs, ys = transformer.transform(xs, ys)
    pixels = [~raster.transform @ place for place in zip(xs, ys, strict=True)]
    ratio = min(math.dist(pixels[0], pixels[1]), math.dist(pixels[0], pixels[2]))
    fitting = [level for level, factor in enumerate(factors) if factor <= ratio * (1 + 1e-6)]
    return fitting[-1] if fitting and math.isfinite(ratio) else None


def boxes_overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    """Whether two boxes (west, south, east, north; degrees) overlap; west > east or east > 180 crosses 180 degrees."""
    if not all(map(math.isfinite, (*one, *other))):
        return True
    if one[1] >= other[3] or one[3] <= other[1]:
        return False
    (a0, a1), (b0, b1) = ((west, east if east > west else east + 360) for west, _, east, _ in (one, other))
    return any(a0 + turn < b1 and b0 < a1 + turn for turn in (-720, -360, 0, 360, 720))


@dataclass(frozen=True)
class View:
    """A raster on the grid.

    Attributes:
        raster: rasterio dataset.
        row, col: where the grid's top-left pixel lies in it, pixels.
        warped: whether its pixels are resampled.
    """

    raster: Any
    row: int
    col: int
    warped: bool

    def read(self, bands: list[int], row_px: int, col_px: int, height: int, width: int) -> tuple[Pixels, Valid]:
        """A window of the grid: pixels [bands, height, width], 0 outside of the raster, and valid [height, width].

        A pixel is valid where the raster's mask or alpha says so, else where not all of its bands equal the declared
        nodata; a NaN in a taken band is never valid.
        """
        raster = self.raster
        # Below an alpha band GDAL's own mask is right for uint8 and uint16 alone.
        alpha = next((band for band, kind in enumerate(raster.colorinterp, 1) if kind == ColorInterp.alpha), None)
        top, left = self.row + row_px, self.col + col_px
        r0, r1 = max(0, top), min(raster.height, top + height)
        c0, c1 = max(0, left), min(raster.width, left + width)
        pixels = np.zeros((len(bands), height, width), dtype=raster.dtypes[bands[0] - 1])
        valid = np.zeros((height, width), dtype=bool)
        if r1 > r0 and c1 > c0:
            window = Window(c0, r0, c1 - c0, r1 - r0)
            part = (slice(r0 - top, r1 - top), slice(c0 - left, c1 - left))
            pixels[(slice(None), *part)] = raster.read(bands, window=window)
            if alpha is None:
                valid[part] = raster.dataset_mask(window=window) > 0
            else:
                valid[part] = raster.read(alpha, window=window) != 0
        if pixels.dtype.kind == "f":
            valid &= ~np.isnan(pixels).any(axis=0)
        return pixels, valid


@contextmanager
def views_of(raster: Any, place: str, grid: Grid) -> Iterator[list[View]]:
    """The raster on the grid: one view, or several where it or the grid lies across the world's seam at 180 degrees."""
    crs = checked_crs(raster, place)
    with ExitStack() as stack:
        views = []
        for transform in _copies(raster, crs, grid):
            offset = _own_offset(transform, crs, grid)
            if offset is not None:
                views.append(View(raster, *offset, warped=False))
            else:
                views.append(View(stack.enter_context(_warped(raster, transform, grid)), 0, 0, warped=True))
        yield views


def _copies(raster: Any, crs: CRS, grid: Grid) -> list[Affine]:
    """The raster's transform, and those of its copies one world to the west and east where GDAL would not find them.

    GDAL turns x of EPSG:3857 and longitudes around the world when it projects them, but takes a raster's own as they
    are: what lies beyond 180 degrees in a raster, or in a grid of the same coordinate system, it does not find.
    """
    own: Affine = raster.transform
    world = world_width(pyproj.CRS.from_user_input(crs.to_wkt()))
    if world is None or raster.gcps[0]:
        return [own]
    left, _, right, _ = raster.bounds
    spans = [(left, right)]
    if CRS.from_user_input(grid.crs) == crs:
        spans.append((grid.bounds[0], grid.bounds[2]))
    pixel = abs(own.a)
    if all(west >= -world / 2 - pixel and east <= world / 2 + pixel for west, east in spans):
        return [own]
    return [Affine.translation(turn * world, 0) @ own for turn in (0, -1, 1)]


def _own_offset(transform: Affine, crs: CRS, grid: Grid) -> tuple[int, int] | None:
    """(row, column) of the grid's corner in the raster when both share one lattice of pixels, else None."""
    t = transform
    if CRS.from_user_input(grid.crs) != crs or t.b != 0 or t.d != 0 or t.a <= 0 or t.e >= 0:
        return None
    # A difference in pixel size must stay below a thousandth of a pixel over the whole grid.
    if max(abs(t.a / grid.res_x - 1) * grid.width, abs(-t.e / grid.res_y - 1) * grid.height) > 1e-3:
        return None
    row, col = (grid.top - t.f) / t.e, (grid.left - t.c) / t.a
    if abs(row - round(row)) > 1e-3 or abs(col - round(col)) > 1e-3:
        return None
    return round(row), round(col)


def _warped(raster: Any, transform: Affine, grid: Grid) -> WarpedVRT:
    has_alpha = ColorInterp.alpha in raster.colorinterp
    moved = {} if transform == raster.transform else {"src_transform": transform}
    return WarpedVRT(
        raster,
        crs=CRS.from_user_input(grid.crs),
        transform=Affine(*grid.transform()),
        height=grid.height,
        width=grid.width,
        resampling=Resampling.bilinear,
        add_alpha=not has_alpha,
        UNIFIED_SRC_NODATA="YES",
        SRC_ALPHA_MAX="1",  # any alpha but 0 is imagery, also 1 in a band of 16 bits
        **moved,
    )
