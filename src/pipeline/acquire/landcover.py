"""A land cover onto the region's grid, its values turned into class indices: from rasters, polygons or a service."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

from pipeline.acquire.class_raster import class_profile as class_profile
from pipeline.acquire.class_raster import keeps
from pipeline.acquire.class_raster import read_colour_table as read_colour_table
from pipeline.acquire.landcover_raster import local_cover, remote_covers
from pipeline.acquire.landcover_service import service_cover
from pipeline.acquire.landcover_vector import vector_cover
from pipeline.acquire.legend import Codes, Legend, shown
from pipeline.acquire.osm_box import grid_box
from pipeline.acquire.shards import GDAL_OPTIONS
from pipeline.acquire.views import box_text
from pipeline.acquire.world import Box
from pipeline.command import Log
from pipeline.config import IGNORE, ClassScheme, LandcoverConfig
from pipeline.errors import DataError
from pipeline.files import atomic_file, write_json
from pipeline.grid import Grid, Shard
from pipeline.schema import LandcoverSection, LandcoverService, LandcoverVector

BLOCK_PX = 2048


class Blocks(Protocol):
    """A land cover on the grid."""

    @property
    def box(self) -> Box | None:
        """What it covers (west, south, east, north; degrees), None where that is not known."""

    def codes(self, row: int, col: int, height: int, width: int) -> Codes:
        """Codes of a `Legend` under a window of the grid, uint16 [height, width]."""


def warp_landcover(
    name: str,
    config: LandcoverSection,
    scheme: ClassScheme,
    grid: Grid,
    cache: Path,
    out: Path,
    summary: Path,
    *,
    log: Log,
) -> dict[str, Any]:
    """Bring a land cover onto the grid and map its values to classes.

    A raster gives each pixel of the grid the value of the source pixel under its centre, exactly; polygons give theirs
    to the pixels whose centre lies inside, later features over earlier ones. Memory stays flat: blocks of 2048 px are
    read, mapped and written one after the other.

    Args:
        name: of the source in the region; opens lines and errors where the source has no path.
        config: the source and what its values mean.
        scheme: all classes.
        grid: the region's grid.
        cache: folder for what a server answers (``services/<name>``) and for prepared polygons.
        out: GeoTIFF to write, uint8 [grid.height, grid.width]; 255 where the source has no data, an ignored or
            unmapped value, or does not reach. With colour table, nodata 255.
        summary: JSON to write: the returned dict.
        log: takes lines for the user.

    Returns:
        ``values`` and ``ignored``: value in the source → pixels and share of the grid; ``unmapped``: the same as a
        list, the most frequent first; ``classes``: name → pixels and share; ``outside``: pixels without data;
        ``read``: the files or the service, with size and date; ``attribution`` and ``terms``.

    Raises:
        DataError: the source is absent, unreadable, without coordinate system or away from the region, or values that
            are neither mapped nor ignored cover more of it than ``max_unmapped``.
        DownloadError: a server that does not answer, or answers with an error.
    """
    place = _place(name, config)
    legend = Legend(config, scheme, place)
    total = grid.width * grid.height
    profile = class_profile(grid, Shard("all", 0, 0, grid.height, grid.width), IGNORE)
    colours = read_colour_table(scheme)
    with (
        rasterio.Env(**GDAL_OPTIONS),
        _opened(name, config, grid, legend, cache, log) as (cover, read),
        atomic_file(out) as temporary,
    ):
        try:
            with rasterio.open(temporary, "w", **profile) as target:
                target.write_colormap(1, colours)
                painted = _paint(cover, legend, grid, target, place, log)
            _read_back(temporary, profile, colours, painted)
        except RasterioError as error:
            raise DataError(f"{out}: cannot be written ({_one_line(error)}); is the disk full?") from None
        if legend.empty:
            raise DataError(f"{place}: has no data in the region {_apart(grid, cover.box)}")
        legend.check(config.max_unmapped, total)
    found = {
        "source": place.rpartition("/")[2],
        "kind": getattr(config, "kind", "raster"),
        "attribution": config.attribution,
        "terms": config.terms,
        "read": read,
        **legend.summary(total),
    }
    write_json(summary, found)
    _report(found, place, total, log)
    return found


def _apart(grid: Grid, covered: Box | None) -> str:
    """Where the region and the land cover lie, in degrees."""
    reach = "" if covered is None else f"; it covers {box_text(covered)}"
    return f"{box_text(grid_box(grid))} (west, south, east, north){reach}"


def _place(name: str, config: LandcoverSection) -> str:
    """What errors open with: the file, else the source's name."""
    path = getattr(config, "path", None)
    return f"landcover {name!r}" if path is None else str(path)


def _opened(
    name: str, config: LandcoverSection, grid: Grid, legend: Legend, cache: Path, log: Log
) -> AbstractContextManager[tuple[Blocks, Any]]:
    scratch = cache / "landcover" / name
    if isinstance(config, LandcoverVector):
        return vector_cover(config, grid, legend, scratch)
    if isinstance(config, LandcoverService):
        return service_cover(name, config, grid, legend, cache, log)
    assert isinstance(config, LandcoverConfig)
    if config.path is None:
        return remote_covers(name, config, grid, legend, cache, log)
    return local_cover(config, config.path, grid, legend)


def _paint(cover: Blocks, legend: Legend, grid: Grid, target: Any, place: str, log: Log) -> int:
    """Write all blocks; return the CRC-32 of their classes, block after block."""
    painted = 0
    for done, window in enumerate(_windows(grid), start=1):
        classes = legend.paint(cover.codes(window.row_off, window.col_off, window.height, window.width))
        target.write(classes, 1, window=window)
        painted = _crc(classes, painted)
        log.progress(f"{place}: {done} blocks of {BLOCK_PX} px")
    return painted


def _crc(classes: npt.NDArray[np.uint8], before: int) -> int:
    return zlib.crc32(classes.tobytes(), before)


def _read_back(path: Path, profile: dict[str, Any], colours: dict[int, Any], painted: int) -> None:
    """RasterioError unless the file is what was written: GDAL tells of no error that it meets while closing one."""
    with rasterio.open(path) as raster:
        found = 0
        for window in _windows(raster):
            found = _crc(raster.read(1, window=window), found)
        if found != painted or not keeps(raster, profile, colours):
            raise RasterioError("what was written does not read back")


def _windows(area: Any) -> Iterator[Window]:
    """Blocks of a grid or raster, row by row."""
    for row in range(0, area.height, BLOCK_PX):
        for col in range(0, area.width, BLOCK_PX):
            yield Window(col, row, min(BLOCK_PX, area.width - col), min(BLOCK_PX, area.height - row))


def _report(found: dict[str, Any], place: str, total: int, log: Log) -> None:
    shares = ", ".join(f"{name} {entry['share']:.1%}" for name, entry in found["classes"].items())
    log(f"{place}: {shares}; without data {found['outside'] / total:.1%}")
    if found["unmapped"]:
        listed = ", ".join(f"{shown(entry['value'])} {entry['share']:.2%}" for entry in found["unmapped"][:10])
        log(f"{place}: {len(found['unmapped'])} values are unmapped and became 255: {listed}")
    left_out = {what: found["read"].get(what) for what in ("without_value", "without_area")}
    if any(left_out.values()):
        counts = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in left_out.items() if count)
        log(f"{place}: of {found['read']['features']} features some were left out: {counts}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error.__cause__ or error).split())
