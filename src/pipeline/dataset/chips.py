"""Cut a region's rasters into the packed chip store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pyproj import Transformer

from pipeline.acquire.class_raster import check_on_grid
from pipeline.acquire.shards import Mosaic
from pipeline.config import IGNORE, ChipConfig, ClassScheme, RegionConfig
from pipeline.dataset.store import StoreWriter, chip_id, positions, writing
from pipeline.errors import DataError
from pipeline.grid import Grid

Array = np.ndarray[Any, np.dtype[Any]]


def cut_image_chips(
    shards: dict[str, Path], grid: Grid, chips: ChipConfig, out: Path, source: str, log: Callable[[str], None]
) -> int:
    """Pack every chip with at least one valid pixel; returns their number.

    `shards` maps shard names to GeoTIFFs with a validity mask. Memory: one row of chips. Errors: DataError when no
    chip has data.
    """
    with Mosaic(shards, grid) as mosaic:
        meta = {"source": source, "gsd_m": grid.gsd_m, "kind": "image"}

        def keep(writer: StoreWriter, pixels: Array, valid: Array, place: dict[str, Any]) -> None:
            if valid.any():
                writer.append(pixels, valid, **place, valid_px=int(valid.sum()))

        with writing(out, mosaic.count, mosaic.dtype, chips.px, meta) as writer:
            _walk(mosaic, grid, chips, lambda *chip: keep(writer, *chip))
            log(f"{writer.count} chips of {chips.px} px from {source}")
        return writer.count


def cut_label_chips(
    shards: dict[str, Path],
    grid: Grid,
    chips: ChipConfig,
    scheme: ClassScheme,
    out: Path,
    source: str,
    log: Callable[[str], None],
) -> int:
    """Pack every chip with at least one labelled pixel, its class counts in the index; returns their number.

    Values outside the scheme are a DataError; 255 is ignored.
    """
    names = scheme.names
    with Mosaic(shards, grid) as mosaic:
        meta = {"source": source, "gsd_m": grid.gsd_m, "kind": "label", "classes": names, "colours": scheme.colours}

        def keep(writer: StoreWriter, pixels: Array, _: Array, place: dict[str, Any]) -> None:
            counts = np.bincount(pixels.ravel(), minlength=256)
            if counts[len(names) : IGNORE].any():
                strange = len(names) + int(np.flatnonzero(counts[len(names) : IGNORE])[0])
                raise DataError(f"{source} has the value {strange}, the class scheme ends at {len(names) - 1}")
            if counts[:IGNORE].any():
                per_class = {f"px_{name}": int(counts[index]) for index, name in enumerate(names)}
                labelled = pixels[0] != IGNORE
                writer.append(pixels, labelled, **place, valid_px=int(labelled.sum()), **per_class)

        with writing(out, 1, np.uint8, chips.px, meta) as writer:
            _walk(mosaic, grid, chips, lambda *chip: keep(writer, *chip))
            log(f"{writer.count} label chips of {chips.px} px from {source}")
        return writer.count


def _walk(mosaic: Mosaic, grid: Grid, chips: ChipConfig, keep: Callable[[Array, Array, dict[str, Any]], None]) -> None:
    """Read one row of chips at a time and hand out each chip with its place."""
    places = list(positions(grid.height, grid.width, chips.px, chips.margin_px, chips.drop_outer))
    if not places:
        raise DataError(f"a region of {grid.width} x {grid.height} px holds no chip of {chips.px} px")
    to_lonlat = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    rows: dict[int, list[int]] = {}
    for row, col in places:
        rows.setdefault(row, []).append(col)
    for row, cols in rows.items():
        first, last = cols[0], cols[-1] + chips.px
        pixels, valid = mosaic.read(row, first, chips.px, last - first)
        for col in cols:
            window = slice(col - first, col - first + chips.px)
            x = grid.left + (col + chips.px / 2) * grid.res_x
            y = grid.top - (row + chips.px / 2) * grid.res_y
            lon, lat = to_lonlat.transform(x, y)
            place = {
                "chip_id": chip_id(row, col, chips.px),
                "row_px": row,
                "col_px": col,
                "lon": float(lon - 360 if lon > 180 else lon),  # a grid across 180 degrees goes on beyond them
                "lat": float(lat),
            }
            keep(pixels[:, :, window], valid[:, window], place)


def cut_chips(
    region: RegionConfig,
    scheme: ClassScheme,
    place: Path,
    store: str,
    grid: Grid,
    out: Path,
    log: Callable[[str], None],
) -> int:
    """Cut the chip store called `store` of a region whose data lie in the folder `place`; returns the number of chips.

    `store` is a provider, a recipe, ``landcover-<source>`` or ``truth``.
    """
    names = region.shard_names()
    if store in region.imagery:
        shards = {name: place / "imagery" / store / f"{name}.tif" for name in names}
        return cut_image_chips(shards, grid, region.chips, out, store, log)
    if store == "truth" or store.startswith("landcover-"):
        path = region.truth if store == "truth" else place / "landcover" / f"{store.removeprefix('landcover-')}.tif"
        assert path is not None
        check_on_grid(path, grid)
        whole = replace(grid, shard_px=max(grid.width, grid.height))
        return cut_label_chips({"r00c00": path}, whole, region.chips, scheme, out, store, log)
    shards = {name: place / "labels" / store / f"{name}.tif" for name in names}
    return cut_label_chips(shards, grid, region.chips, scheme, out, store, log)
