"""Paint a label recipe onto one shard of the grid: the class of each pixel, and the layer that it came from."""

from __future__ import annotations

import colorsys
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio
import rasterio
from rasterio import features
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from pipeline.acquire.landcover import class_profile
from pipeline.acquire.landcover import read_colour_table as read_colour_table
from pipeline.acquire.osm import MARGIN_M, expand_bbox
from pipeline.config import IGNORE, ClassScheme, LandcoverLayer, LineLayer, PolygonLayer, RecipeConfig
from pipeline.errors import DataError, choices
from pipeline.files import atomic_file, write_json
from pipeline.grid import Grid, Shard
from pipeline.labels import geometry
from pipeline.labels.widths import PAINTED, TAG_OF_LAYER, left_out_reasons, line_widths_m

Band = npt.NDArray[np.uint8]
Colours = dict[int, tuple[int, int, int, int]]
Log = Callable[[str], None]

LINE_INPUT = ["width", "lanes", "tracktype", "tunnel", "area"]
OTHER_TAGS = "tags"
LAYERS_TAG = "layers"
COUNT_ROWS = 256


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
) -> dict[str, Any]:
    """Paint the recipe's layers in order, later ones over earlier ones.

    A pixel belongs to an area or a widened line when its centre lies inside (`all_touched` areas: when they touch it).
    Line widths are metres on the ground. A shard's pixels equal those of one run over the whole grid.

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
            the layer in the recipe. Its tag ``layers`` is a JSON list of names by value.
        stats: JSON to write: the returned dict.
        log: takes lines for the user.

    Returns:
        ``classes`` and ``sources``: name → pixels and share of the shard; ``features``: layer → how many were painted
        and how many left out by reason (a feature in two shards counts in both); ``sha256`` of the pixels of both
        rasters.

    Raises:
        DataError: an input is missing or does not fit the grid.
    """
    classes = np.full((shard.height, shard.width), IGNORE, dtype=np.uint8)
    if recipe.background is not None:
        classes[:] = scheme.index(recipe.background)
    source = np.zeros_like(classes)
    counts: dict[str, Any] = {}
    if len(recipe.layers) >= IGNORE:
        raise DataError(f"the recipe has {len(recipe.layers)} layers; a source raster holds at most {IGNORE - 1}")
    for value, (name, layer) in enumerate(recipe.layers.items(), start=1):
        if isinstance(layer, LandcoverLayer):
            painted = _read_landcover(layer.source, landcover, grid, shard, len(scheme.names))
            known = painted != IGNORE
            source[known] = value
            classes[known] = painted[known]
            continue
        if layers_gpkg is None:
            raise DataError(f"layer {name!r} of the recipe needs OSM layers, and the region has no `osm` extract")
        shapes, counts[name] = _shapes(layer, layers_gpkg, grid, shard)
        if len(shapes):
            touched = isinstance(layer, PolygonLayer) and layer.all_touched
            features.rasterize(shapes, out=source, default_value=value, all_touched=touched)
            classes[source == value] = scheme.index(layer.label)
    names = ["none", *recipe.layers]
    _write(out, classes, grid, shard, read_colour_table(scheme), {}, IGNORE)
    _write(source_out, source, grid, shard, _layer_colours(len(recipe.layers)), {LAYERS_TAG: json.dumps(names)}, None)
    found = {
        "shard": shard.name,
        "pixels": int(classes.size),
        "classes": _shares(classes, {**dict(enumerate(scheme.names)), IGNORE: "ignored"}),
        "sources": _shares(source, dict(enumerate(names))),
        "sha256": {"classes": _digest(classes), "sources": _digest(source)},
        "features": counts,
    }
    write_json(stats, found)
    _report(found, log)
    return found


def _digest(band: Band) -> str:
    """Of the pixels: snakemake takes a newer file of equal content as unchanged, so that the content must tell."""
    return hashlib.sha256(np.ascontiguousarray(band).data).hexdigest()


def _layer_colours(layers: int) -> Colours:
    """Hues a golden angle apart, so that neighbours in the recipe differ; 0 is black."""
    table: Colours = {0: (0, 0, 0, 255)}
    for value in range(1, layers + 1):
        red, green, blue = colorsys.hsv_to_rgb(value * 0.61803398875 % 1, 0.75, 0.95)
        table[value] = (round(red * 255), round(green * 255), round(blue * 255), 255)
    return table


def _read_landcover(name: str, landcover: Mapping[str, Path], grid: Grid, shard: Shard, classes: int) -> Band:
    if name not in landcover:
        raise DataError(f"no land cover {name!r} was warped for this region; {choices(name, landcover)}")
    path = landcover[name]
    try:
        with rasterio.open(path) as raster:
            if (raster.width, raster.height) != (grid.width, grid.height):
                raise DataError(
                    f"{path}: is {raster.width} x {raster.height} px, the grid {grid.width} x {grid.height} px; "
                    "delete it, and it is made again"
                )
            band: Band = raster.read(1, window=Window(shard.col_px, shard.row_px, shard.width, shard.height))
    except RasterioIOError as error:
        raise DataError(f"{path}: cannot be read as a raster ({error})") from None
    wrong = np.unique(band[(band >= classes) & (band != IGNORE)])
    if wrong.size:
        raise DataError(f"{path}: holds {wrong.tolist()}, the class scheme ends at {classes - 1}; make it again")
    return band


def _shapes(layer: LineLayer | PolygonLayer, gpkg: Path, grid: Grid, shard: Shard) -> tuple[geometry.Shapes, Any]:
    """Polygons of one layer in the shard's pixel coordinates, and the counts of painted and left-out features."""
    box = expand_bbox(geometry.shard_bounds_deg(grid, shard), MARGIN_M)
    columns = [TAG_OF_LAYER[layer.layer], *LINE_INPUT] if isinstance(layer, LineLayer) else [OTHER_TAGS]
    frame = _read_layer(gpkg, layer.layer, box, columns)
    left_out: Counter[str] = Counter()
    shapes = frame.geometry.to_numpy(dtype=object)
    if isinstance(layer, LineLayer):
        reasons = left_out_reasons(frame, layer)
        rows = reasons == PAINTED
        near = geometry.touches_shard(_on_shard(shapes[~rows], grid, shard), shard)
        left_out.update(reasons[~rows][near].tolist())
        polygons = geometry.ground_buffers(shapes[rows], line_widths_m(frame, layer)[rows], grid.crs)
        pixels = geometry.to_pixels(polygons, grid, shard)
    else:
        rows = _tagged(frame[OTHER_TAGS], layer.tags)
        near = geometry.touches_shard(_on_shard(shapes[~rows], grid, shard), shard)
        left_out.update({"other tags": int(near.sum())} if near.any() else {})
        pixels = _on_shard(shapes[rows], grid, shard)
    pixels = pixels[geometry.touches_shard(pixels, shard)]
    return pixels, {"painted": len(pixels), "left_out": dict(sorted(left_out.items()))}


def _on_shard(shapes: geometry.Shapes, grid: Grid, shard: Shard) -> geometry.Shapes:
    return geometry.to_pixels(geometry.project_areas(shapes, grid.crs), grid, shard)


def _tagged(tags: Any, wanted: dict[str, list[str]] | None) -> npt.NDArray[np.bool_]:
    if wanted is None:
        return np.ones(len(tags), dtype=bool)
    read = [json.loads(text) for text in tags]
    return np.array([any(entry.get(key) in values for key, values in wanted.items()) for entry in read], dtype=bool)


def _read_layer(gpkg: Path, layer: str, box: tuple[float, float, float, float], columns: list[str]) -> Any:
    try:
        return pyogrio.read_dataframe(gpkg, layer=layer, bbox=box, columns=columns)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise DataError(f"{gpkg}: layer {layer!r} cannot be read ({error}); make the OSM layers again") from None


def _write(
    path: Path, band: Band, grid: Grid, shard: Shard, colours: Colours, tags: dict[str, str], nodata: int | None
) -> None:
    profile = class_profile(grid, shard, nodata)
    with atomic_file(path) as temporary, rasterio.open(temporary, "w", **profile) as raster:
        raster.write(band, 1)
        raster.write_colormap(1, colours)
        raster.update_tags(**tags)


def _shares(band: Band, names: dict[int, str]) -> dict[str, Any]:
    counted = np.zeros(256, dtype=np.int64)
    for row in range(0, len(band), COUNT_ROWS):  # bincount needs eight bytes a pixel
        counted += np.bincount(band[row : row + COUNT_ROWS].ravel(), minlength=256)
    return {
        name: {"pixels": int(counted[value]), "share": float(counted[value] / band.size)}
        for value, name in names.items()
    }


def _report(found: dict[str, Any], log: Log) -> None:
    shares = ", ".join(f"{name} {entry['share']:.1%}" for name, entry in found["classes"].items() if entry["pixels"])
    log(f"{found['shard']}: {shares}")
    painted = ", ".join(f"{entry['painted']} {name}" for name, entry in found["features"].items())
    if painted:
        log(f"{found['shard']}: features painted: {painted}; those left out are counted in the stats")
