"""What a region's box and grid may be: checks in one line, before any job. As light as the config."""

from __future__ import annotations

import functools

from pipeline.crs_grid import Bbox, crs_grid, unit_of
from pipeline.errors import ConfigError, PipelineError
from pipeline.grid import MERCATOR_MAX_LAT, Grid, web_mercator_grid
from pipeline.sources._base import ImagerySource, TiledSource

MAX_PIXELS = 10**12
MAX_SHARDS = 100_000
MAX_SHARD_PX = 65536
COARSE_M, TOO_COARSE_M = 1_000.0, 10_000.0  # pixels on the ground of unlikely imagery, and of none
ORDER = "the order is west, south, east, north"


@functools.lru_cache(maxsize=64)
def grid_of(
    bbox: Bbox,
    zoom: int | None,
    crs: str | None,
    resolution: float,
    shard_px: int,
    origin: tuple[float, float] = (0.0, 0.0),
) -> Grid:
    """The grid over a box: x/y/z pixels of `zoom`, or pixels of `resolution` in `crs`, from `origin` on,
    where `zoom` is None.

    Raises:
        ConfigError: no such box on Earth, one that the coordinate system does not hold, a grid without a pixel, or one
            too big to be meant.
    """
    check_bbox(bbox)
    if zoom is None:
        assert crs is not None
        grid = crs_grid(bbox, crs, resolution, shard_px, origin)
    elif max(abs(bbox[1]), abs(bbox[3])) > MERCATOR_MAX_LAT:
        raise ConfigError(f"bbox reaches beyond {MERCATOR_MAX_LAT:.2f} degrees of latitude, where x/y/z tiles end")
    else:
        grid = web_mercator_grid(bbox, zoom, shard_px)
    check_size(grid)
    return grid


def check_bbox(bbox: Bbox) -> None:
    """ConfigError unless `bbox` is a box on Earth; west > east is one across 180 degrees, at most 180 wide."""
    west, south, east, north = bbox
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= 90 and -90 <= north <= 90):
        raise ConfigError(f"bbox {list(bbox)} is not west, south, east, north in degrees")
    if west == east or south == north:
        side = "width: west and east are both" if west == east else "height: south and north are both"
        raise ConfigError(f"bbox {list(bbox)} is empty, it has no {side} {west if west == east else south}")
    if south > north:
        raise ConfigError(f"bbox: south {south} is not below north {north}; {ORDER}")
    if west > east and east + 360 - west > 180:
        raise ConfigError(f"bbox: west {west} is not left of east {east}; {ORDER}")


def check_size(grid: Grid) -> None:
    """ConfigError for a grid without a pixel, and for one too big to be meant: over 10^12 pixels or 100,000 shards."""
    if grid.width < 1 or grid.height < 1:
        raise ConfigError(f"bbox: the box is smaller than a pixel of {grid.gsd_m:.3g} m; make it larger")
    size = f"bbox: the grid would have {grid.width:,} x {grid.height:,} = {grid.width * grid.height:.2g} pixels"
    if grid.width * grid.height > MAX_PIXELS:
        raise ConfigError(
            f"{size} of {grid.gsd_m:.3g} m, at most {MAX_PIXELS:,} make a region; make the box smaller, or the "
            "pixels larger (a lower zoom, a coarser resolution)"
        )
    if _shards(grid, grid.shard_px) > MAX_SHARDS:
        enough = grid.shard_px
        while _shards(grid, enough) > MAX_SHARDS and enough < MAX_SHARD_PX:
            enough = min(2 * enough, MAX_SHARD_PX)
        raise ConfigError(
            f"{size} in {_shards(grid, grid.shard_px):,} shards of {grid.shard_px} px, at most {MAX_SHARDS:,} make a "
            f"region; set shard_px: {enough}, or make the box smaller"
        )


def check_pixels(grid: Grid | None, crs: str | None, resolution: float | None, zoom: int | None, chip_px: int) -> None:
    """ConfigError for pixels that were hardly meant: above 10 km on the ground, or above 1 km and not one chip full.

    Such are metres taken for degrees. `grid` (None: that of a raster) is by `crs` and `resolution`, or by `zoom`.
    """
    if grid is None:
        return
    few = max(grid.width, grid.height) < chip_px
    if grid.gsd_m <= (COARSE_M if few else TOO_COARSE_M):
        return
    found = f"pixels of {grid.gsd_m / 1000:.3g} km on the ground, {grid.width:,} x {grid.height:,} of them"
    found += f", less than a chip of {chip_px} px" if few else ""
    if crs is None:
        raise ConfigError(f"grid.zoom: {zoom} means {found}; take a higher zoom")
    unit = unit_of(crs)
    way_out = "" if unit == "metres" else ", or take a crs in metres"
    raise ConfigError(
        f"grid.resolution: {resolution:g} is in {unit} of {crs[:60]}: {found}; write {unit} per pixel{way_out}"
    )


def _shards(grid: Grid, shard_px: int) -> int:
    return -(-grid.width // shard_px) * -(-grid.height // shard_px)


def check_source(name: str, source: ImagerySource, grid: Grid | None, zoom: int | None) -> None:
    """ConfigError unless tiles of source `name` lie on `grid` (None: that of a raster), whose x/y/z zoom is `zoom`."""
    if not isinstance(source, TiledSource):
        return
    own = getattr(source, "zoom", None)
    if zoom is not None and own is not None and own != zoom:
        raise ConfigError(f"imagery.{name}: zoom {own} differs from the grid's {zoom}")
    if grid is None:
        if source.kind in ("xyz", "quadkey"):
            raise ConfigError(f"imagery.{name}: x/y/z tiles need a grid by zoom")
        return
    try:
        source.layout(name, grid, zoom)
    except PipelineError as error:
        raise ConfigError(f"imagery.{name}: {str(error).removeprefix(f'imagery {name!r}: ')}") from None
