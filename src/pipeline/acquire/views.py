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
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from pipeline.acquire.osm_box import grid_box
from pipeline.acquire.shards import Pixels, Valid
from pipeline.acquire.world import Box, world_width
from pipeline.errors import DataError
from pipeline.grid import Grid

MAX_BRIGHTNESS = 65535  # of a pixel of 16 bits


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
        box = box_of(raster)
        pyproj.Transformer.from_crs(raster.crs.to_wkt(), grid.crs)
    except (CRSError, pyproj.exceptions.ProjError) as error:
        raise DataError(f"{place}: cannot be brought to {grid.crs[:60]} ({error})") from None
    return box is None or boxes_overlap(box, grid_box(grid))


def box_of(raster: Any) -> Box | None:
    """What the raster covers (west, south, east, north; degrees); None where that cannot be said."""
    try:
        found: Box = transform_bounds(raster.crs, CRS.from_epsg(4326), *raster.bounds)
    except RasterioError:
        return None
    return found


def box_text(box: Box) -> str:
    """A box (west, south, east, north; degrees) as lines for people show it."""
    return f"[{', '.join(f'{side:.6f}' for side in box)}]"


def overview_level(raster: Any, grid: Grid) -> int | None:
    """The number of the coarsest overview whose pixels are not larger than the grid's, at the grid's centre; or None.

    All bands must have it. GDAL's warper would read every pixel of the full resolution instead.
    """
    factors = raster.overviews(1)
    if not factors or any(raster.overviews(band) != factors for band in raster.indexes):
        return None
    east, south = _steps(raster, raster.transform, grid, 0.5, 0.5)
    ratio = min(math.hypot(*east), math.hypot(*south))
    fitting = [level for level, factor in enumerate(factors) if factor <= ratio * (1 + 1e-6)]
    return fitting[-1] if fitting and math.isfinite(ratio) else None


def _steps(
    raster: Any, transform: Affine, grid: Grid, across: float, down: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """What one pixel of the grid to the east, and one to the south, are in pixels (column, row) of the raster.

    At the point of the grid that lies (`across`, `down`) of its width and height from its top-left corner; not finite
    where the raster's coordinate system does not hold that point.
    """
    left, bottom, right, top = grid.bounds
    x, y = left + across * (right - left), top - down * (top - bottom)
    xs, ys = [x, x + grid.res_x, x], [y, y, y - grid.res_y]
    if CRS.from_user_input(grid.crs) != raster.crs:
        transformer = pyproj.Transformer.from_crs(grid.crs, raster.crs.to_wkt(), always_xy=True)
        xs, ys = transformer.transform(xs, ys)
    (col, row), *ends = [~transform @ place for place in zip(xs, ys, strict=True)]
    east, south = ((end[0] - col, end[1] - row) for end in ends)
    return east, south


def boxes_overlap(one: Box, other: Box) -> bool:
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
        nodata; one whose taken bands hold a NaN, or a nodata that can be no brightness (see `hole_value`), is not.
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
            hole = hole_value(raster)
            if alpha is not None:
                valid[part] = raster.read(alpha, window=window) != 0
            elif hole is not None:
                valid[part] = (pixels[(slice(None), *part)] != hole).all(axis=0)
            else:
                valid[part] = raster.dataset_mask(window=window) > 0
        if pixels.dtype.kind == "f":
            valid &= ~np.isnan(pixels).any(axis=0)
        return pixels, valid


def hole_value(raster: Any) -> float | None:
    """The declared nodata of all bands where it can be no brightness: below 0 or above 16 bits, as height models have.

    It is a hole in whichever band it stands. One within 0 to 65535 may be a pixel's true value in some of the bands.
    None for such a one, and where an alpha or mask band says what is valid.
    """
    values, dtypes = set(raster.nodatavals), {np.dtype(dtype).kind for dtype in raster.dtypes}
    value = values.pop()
    if values or value is None or not dtypes <= {"i", "f"} or not (value < 0 or value > MAX_BRIGHTNESS):
        return None
    return None if any(MaskFlags.nodata not in flags for flags in raster.mask_flag_enums) else float(value)


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
    hole = hole_value(raster)
    holes = {"add_alpha": ColorInterp.alpha not in raster.colorinterp, "UNIFIED_SRC_NODATA": "YES"}
    if hole is not None:  # each band around its own holes, which stay holes
        holes = {"nodata": hole, "UNIFIED_SRC_NODATA": "NO"}
    moved = {} if transform == raster.transform else {"src_transform": transform}
    return WarpedVRT(
        raster,
        crs=CRS.from_user_input(grid.crs),
        transform=Affine(*grid.transform()),
        height=grid.height,
        width=grid.width,
        resampling=Resampling.bilinear,
        SRC_ALPHA_MAX="1",  # any alpha but 0 is imagery, also 1 in a band of 16 bits
        **holes,
        **_scales(raster, transform, grid),
        **moved,
    )


def _scales(raster: Any, transform: Affine, grid: Grid) -> dict[str, str]:
    """How many pixels of the grid there are per pixel of the raster, along the raster's columns and rows.

    GDAL would take it from the shapes of a block of the grid and of the window around it in the raster, which is the
    wider the more the two are turned against each other (far from a zone's meridian, or in a rotated raster), and
    would blur by as much. {}, and so GDAL's way, where it differs over the grid by more than a tenth.
    """
    places = [(0.5, 0.5), (0, 0), (1, 0), (0, 1), (1, 1)]
    steps = [_steps(raster, transform, grid, *place) for place in places]
    found = {}
    for axis, name in enumerate(("XSCALE", "YSCALE")):
        spans = [math.hypot(east[axis], south[axis]) for east, south in steps]
        if not all(map(math.isfinite, spans)) or min(spans) <= 0 or max(spans) > 1.1 * min(spans):
            return {}
        found[name] = f"{1 / spans[0]:.6f}"
    return found
