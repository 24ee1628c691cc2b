"""Paint a label recipe onto one shard of the grid: the class of each pixel, and the layer that it came from."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import command
from pipeline.acquire.class_raster import read_colour_table
from pipeline.config import IGNORE, ClassScheme, RecipeConfig
from pipeline.files import write_json
from pipeline.grid import Grid, Shard
from pipeline.labels.painting import Painter
from pipeline.labels.rasters import Colours, RasterFile, bands_of, open_rasters

Log = Callable[[str], None]
Counts = npt.NDArray[np.int64]

LAYERS_TAG = "layers"


def rasterize_labels(
    recipe: RecipeConfig,
    scheme: ClassScheme,
    grid: Grid,
    shard: Shard,
    layers_gpkg: Path | None,
    landcover: Mapping[str, Path],
    out: Path,
    source_out: Path,
    stats: Path,
    *,
    log: Log,
    threads: int = 1,
) -> dict[str, Any]:
    """Paint the recipe's layers by priority, those of equal priority in their order, later ones over earlier ones.

    A pixel belongs to an area or a widened line when its centre lies inside (`all_touched` areas: when they touch it by
    more than a hundredth of a pixel). Line widths and buffers are metres on the ground. Lines with `pixel_m` are
    painted on pixels of about that size, a whole number of grid pixels that counts from the region's corner. Tunnels
    are left out and bridges painted; the ``layer`` tag is ignored on purpose. A shard's pixels equal those of one run
    over the whole grid, and two runs give equal pixels. Memory holds a band of the shard, see `bands_of`.

    Args:
        recipe: layers and background.
        scheme: all classes.
        grid: the region's grid.
        shard: the part of it to paint.
        layers_gpkg: layers made by `pipeline.acquire.osm.extract_osm`; None when the recipe needs none.
        landcover: source name → class raster on the grid, made by `pipeline.acquire.landcover.warp_landcover`.
        out: GeoTIFF to write, uint8 [shard.height, shard.width], class indices; 255 where nothing is painted and the
            recipe has no background. With colour table, nodata 255.
        source_out: GeoTIFF to write, uint8 of the same shape: 0 for background or nothing, else 1 + the position of
            the layer in the recipe as it is written. Its tag ``layers`` is a JSON list of names by value.
        stats: JSON to write: the returned dict.
        log: takes lines for the user.
        threads: threads that compress; the pixels do not depend on them.

    Returns:
        ``shard``; ``pixels``; ``classes``: name (and ``ignored``) → pixels and share of the shard; ``sources``: layer
        (and ``none``) → pixels, share of the shard, and ``classes``: name → pixels, of those it has; ``features``:
        OSM layer → ``painted``, how many reach into the shard, ``left_out`` by reason, both without the features that
        lie off the shard (one in two shards counts in both), and ``absent``: the ``key=value`` that the recipe names
        and none of these features has; ``sha256``: ``classes`` and ``sources``, of the pixels of both rasters. All
        pixels count, with or without imagery.

    Raises:
        DataError: an input is missing or does not fit the grid, or the disk is full. Nothing is written then.
    """
    names = ["none", *recipe.layers]
    files = [
        RasterFile(out, read_colour_table(scheme), nodata=IGNORE),
        RasterFile(source_out, _layer_colours(len(recipe.layers)), {LAYERS_TAG: json.dumps(names)}),
    ]
    counts = np.zeros((len(names), IGNORE + 1), dtype=np.int64)
    with Painter(recipe, scheme, grid, layers_gpkg, landcover) as painter:
        with open_rasters(files, grid, shard, threads) as (class_raster, source_raster):
            bands = bands_of(grid, shard)
            for number, band in enumerate(bands, start=1):
                classes, sources = painter.paint(band, counts)
                class_raster.write(band, classes)
                source_raster.write(band, sources)
                if isinstance(log, command.Log):
                    log.progress(f"{shard.name}: {number} of {len(bands)} bands")
        found = {
            "shard": shard.name,
            "pixels": shard.height * shard.width,
            "classes": _classes(counts.sum(axis=0), scheme),
            "sources": {name: _source(row, scheme, counts) for name, row in zip(names, counts, strict=True)},
            # Snakemake takes a newer file of equal content as unchanged, so that the content must tell.
            "sha256": {"classes": class_raster.sha256, "sources": source_raster.sha256},
            "features": painter.features(),
        }
    write_json(stats, found)
    _report(found, log)
    return found


def _layer_colours(layers: int) -> Colours:
    """Hues a golden angle apart, so that neighbours in the recipe differ; 0 is black."""
    table: Colours = {0: (0, 0, 0, 255)}
    for value in range(1, layers + 1):
        red, green, blue = colorsys.hsv_to_rgb(value * 0.61803398875 % 1, 0.75, 0.95)
        table[value] = (round(red * 255), round(green * 255), round(blue * 255), 255)
    return table


def _named(scheme: ClassScheme) -> dict[int, str]:
    return {**dict(enumerate(scheme.names)), IGNORE: "ignored"}


def _classes(counted: Counts, scheme: ClassScheme) -> dict[str, Any]:
    return {name: _share(counted[value], counted.sum()) for value, name in _named(scheme).items()}


def _source(counted: Counts, scheme: ClassScheme, counts: Counts) -> dict[str, Any]:
    held = {name: int(counted[value]) for value, name in _named(scheme).items() if counted[value]}
    return {**_share(counted.sum(), counts.sum()), "classes": held}


def _share(pixels: int, total: int) -> dict[str, Any]:
    return {"pixels": int(pixels), "share": float(pixels / total)}


def _report(found: dict[str, Any], log: Log) -> None:
    shares = ", ".join(f"{name} {entry['share']:.1%}" for name, entry in found["classes"].items() if entry["pixels"])
    log(f"{found['shard']}: {shares}")
    painted = ", ".join(f"{entry['painted']} {name}" for name, entry in found["features"].items())
    left_out = sum(sum(entry["left_out"].values()) for entry in found["features"].values())
    if painted:
        rest = f"; {left_out} left out, by reason in the stats" if left_out else ""
        log(f"{found['shard']}: features painted: {painted}{rest}")
