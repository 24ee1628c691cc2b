"""A land-cover raster onto the region's grid, its values turned into class indices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from pipeline import command
from pipeline.config import IGNORE, ClassScheme, LandcoverConfig
from pipeline.errors import DataError
from pipeline.files import atomic_file, write_json
from pipeline.grid import Grid, Shard

BLOCK_PX = 2048

Log = Callable[[str], None]


def warp_landcover(
    config: LandcoverConfig, scheme: ClassScheme, grid: Grid, out: Path, summary: Path, *, log: Log
) -> dict[str, Any]:
    """Resample a land-cover raster (nearest) to the grid and map its values to classes.

    Memory stays flat: blocks of 2048 px are read, mapped and written one after the other.

    Args:
        config: the raster (its first band is read) and what its values mean.
        scheme: all classes.
        grid: the region's grid.
        out: GeoTIFF to write, uint8 [grid.height, grid.width]; 255 where the source has no data, an ignored value, or
            does not reach. With colour table, nodata 255.
        summary: JSON to write: the returned dict.
        log: takes lines for the user.

    Returns:
        ``values``: value in the raster → pixels and share of the grid; ``classes``: name → pixels and share;
        ``outside``: pixels without data.

    Raises:
        DataError: the raster is absent, unreadable, without coordinate system or away from the region, or it holds a
            value that is neither mapped nor ignored.
    """
    counts: Counter[float] = Counter()
    profile = class_profile(grid, Shard("all", 0, 0, grid.height, grid.width), IGNORE)
    with _open(config) as raster:
        _check_nodata(config, raster.nodata)
        with atomic_file(out) as temporary:
            with rasterio.open(temporary, "w", **profile) as target, _warped(raster, grid) as warped:
                target.write_colormap(1, read_colour_table(scheme))
                for done, window in enumerate(_windows(grid), start=1):
                    band, valid = _read(warped, window, raster.nodata, config.path)
                    target.write(_map_values(band, valid, config, scheme, counts), 1, window=window)
                    if isinstance(log, command.Log):
                        log.progress(f"{config.path.name}: {done} blocks of {BLOCK_PX} px")
            _check_values(counts, config, grid)
    found = _summary(counts, config, scheme, grid)
    write_json(summary, found)
    shares = ", ".join(f"{name} {entry['share']:.1%}" for name, entry in found["classes"].items())
    log(f"{config.path.name}: {shares}; without data {found['outside'] / (grid.width * grid.height):.1%}")
    return found


def read_colour_table(scheme: ClassScheme) -> dict[int, tuple[int, int, int, int]]:
    """Colour table of a class raster: index → red, green, blue, alpha; 255 is transparent."""
    table = {index: (*colour, 255) for index, colour in enumerate(scheme.colours)}
    return table | {IGNORE: (0, 0, 0, 0)}


def class_profile(grid: Grid, shard: Shard, nodata: int | None) -> dict[str, Any]:
    """Creation options of a uint8 GeoTIFF with a colour table that covers `shard`: tiled 256 px, deflate."""
    return {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 1,
        "height": shard.height,
        "width": shard.width,
        "crs": grid.crs,
        "transform": rasterio.Affine(*grid.transform(shard.row_px, shard.col_px)),
        "nodata": nodata,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
        "photometric": "palette",
        "bigtiff": "if_safer",
    }


def _open(config: LandcoverConfig) -> Any:
    if not config.path.is_file():
        raise DataError(
            f"the land cover {str(config.path)!r} does not exist; paths are relative to the Snakefile's folder"
        )
    try:
        raster = rasterio.open(config.path)
    except RasterioError as error:
        raise DataError(f"{config.path}: cannot be read as a raster ({error})") from None
    if raster.crs is None:
        raster.close()
        raise DataError(f"{config.path}: has no coordinate system; give it one with gdal_translate -a_srs")
    if not (raster.crs.is_geographic or raster.crs.is_projected):
        raster.close()
        raise DataError(
            f"{config.path}: its coordinate system is neither geographic nor projected; "
            "give it the right one with gdal_translate -a_srs"
        )
    return raster


def _check_nodata(config: LandcoverConfig, nodata: float | None) -> None:
    if nodata is not None and nodata in config.classes:
        raise DataError(
            f"{config.path}: value {nodata:g} is the file's nodata, not class {config.classes[int(nodata)]!r}; "
            "take it out of `classes`, or out of the file's header with gdal_edit.py -unsetnodata"
        )


def _warped(raster: Any, grid: Grid) -> Any:
    """The raster seen on the grid. Without a nodata value, an alpha band tells where it does not reach."""
    missing: dict[str, Any] = {"src_nodata": raster.nodata, "nodata": raster.nodata}
    if raster.nodata is None:
        missing = {"add_alpha": ColorInterp.alpha not in raster.colorinterp, "SRC_ALPHA_MAX": "1"}
    return WarpedVRT(
        raster,
        crs=grid.crs,
        transform=rasterio.Affine(*grid.transform()),
        width=grid.width,
        height=grid.height,
        resampling=Resampling.nearest,
        **missing,
    )


def _windows(grid: Grid) -> Iterator[Window]:
    for row in range(0, grid.height, BLOCK_PX):
        for col in range(0, grid.width, BLOCK_PX):
            yield Window(col, row, min(BLOCK_PX, grid.width - col), min(BLOCK_PX, grid.height - row))


def _read(
    warped: Any, window: Window, nodata: float | None, path: Path
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Values and validity of one window."""
    try:
        band = warped.read(1, window=window)
        if nodata is None:
            return band, warped.read(warped.colorinterp.index(ColorInterp.alpha) + 1, window=window) != 0
    except RasterioError as error:
        raise DataError(f"{path}: is damaged ({error}); get it again") from None
    return band, ~np.isnan(band) if np.isnan(nodata) else band != nodata


def _map_values(
    band: npt.NDArray[Any],
    valid: npt.NDArray[np.bool_],
    config: LandcoverConfig,
    scheme: ClassScheme,
    counts: Counter[float],
) -> npt.NDArray[np.uint8]:
    """Class indices of one block; adds the values seen to `counts`. Unknown values become 255 and are caught later."""
    mapped = np.full(band.shape, IGNORE, dtype=np.uint8)
    values, positions, numbers = np.unique(band[valid], return_inverse=True, return_counts=True)
    table = np.full(len(values), IGNORE, dtype=np.uint8)
    for position, (value, number) in enumerate(zip(values.tolist(), numbers.tolist(), strict=True)):
        counts[value] += number
        if value in config.classes:
            table[position] = scheme.index(config.classes[value])
    mapped[valid] = table[positions]
    return mapped


def _check_values(counts: Counter[float], config: LandcoverConfig, grid: Grid) -> None:
    if not counts:
        raise DataError(
            f"{config.path}: has no data in the region {tuple(round(v, 6) for v in grid.bounds)} ({grid.crs})"
        )
    total = grid.width * grid.height
    unknown = [(value, counts[value]) for value in sorted(counts) if value not in {*config.classes, *config.ignore}]
    if unknown:
        listed = ", ".join(f"{value:g} ({number / total:.2%} of the region)" for value, number in unknown[:10])
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        raise DataError(f"{config.path}: no class for value {listed}{more}; add each to `classes` or `ignore`")


def _summary(counts: Counter[float], config: LandcoverConfig, scheme: ClassScheme, grid: Grid) -> dict[str, Any]:
    total = grid.width * grid.height
    classes: Counter[str] = Counter(dict.fromkeys(scheme.names, 0))
    for value, number in counts.items():
        if value in config.classes:
            classes[config.classes[int(value)]] += number
    return {
        "source": config.path.name,
        "values": {f"{value:g}": _share(counts[value], total) for value in sorted(counts)},
        "classes": {name: _share(classes[name], total) for name in scheme.names},
        "outside": total - sum(counts.values()),
    }


def _share(number: int, total: int) -> dict[str, Any]:
    return {"pixels": number, "share": number / total}
