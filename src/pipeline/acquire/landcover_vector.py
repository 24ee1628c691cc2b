"""Land cover from polygons in a file that GDAL reads, of any size and coordinate system."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError

from pipeline.acquire.areas import FILE_ERRORS, Areas, Batch, NoAreas, prepared_areas
from pipeline.acquire.landcover_raster import file_facts
from pipeline.acquire.legend import Legend
from pipeline.acquire.world import Box, boxes_in
from pipeline.errors import DataError, choices
from pipeline.grid import Grid
from pipeline.schema import LandcoverVector

BATCH_FEATURES = 2000


@contextmanager
def vector_cover(
    config: LandcoverVector, grid: Grid, legend: Legend, scratch: Path
) -> Iterator[tuple[Areas | NoAreas, dict[str, Any]]]:
    """The polygons as codes, and what of them the summary says. `scratch` is a folder for the prepared ones.

    Only features whose bounds touch the region are read, a few at a time: a file may be bigger than memory. One without
    a spatial index is read through to the end.

    Raises:
        DataError: no such file, layer or field, a layer without coordinate system, areas or features, a damaged file.
    """
    path = config.path
    if not path.exists():
        raise DataError(f"the land cover {str(path)!r} does not exist; paths are relative to the Snakefile's folder")
    try:
        layer = _layer(config)
        info = pyogrio.read_info(path, layer=layer, force_feature_count=True)
    except FILE_ERRORS as error:
        raise DataError(f"{path}: cannot be read as polygons ({_one_line(error)})") from None
    crs = _crs(config, layer, info)
    batches = _batches(config, layer, boxes_in(grid, crs))
    with prepared_areas(batches, crs, grid, legend, scratch) as (areas, counts):
        areas.box = _box(info["total_bounds"], crs)
        yield areas, {**file_facts(path), "layer": layer, "field": config.field, **counts}


def _layer(config: LandcoverVector) -> str:
    names = [str(name) for name in pyogrio.list_layers(config.path)[:, 0]]
    if config.layer is not None and config.layer not in names:
        raise DataError(f"{config.path}: has no layer {config.layer!r}; {choices(config.layer, names)}")
    if config.layer is None and len(names) != 1:
        raise DataError(f"{config.path}: has {len(names)} layers; name one with `layer`: {', '.join(names[:20])}")
    return config.layer or names[0]


def _crs(config: LandcoverVector, layer: str, info: dict[str, Any]) -> CRS:
    """The layer's coordinate system, once it is clear that it can be a land cover at all."""
    place = f"{config.path}: layer {layer!r}"
    if config.field not in info["fields"]:
        raise DataError(f"{place} has no field {config.field!r}; {choices(config.field, map(str, info['fields']))}")
    kind = str(info["geometry_type"])
    if not any(word in kind for word in ("Polygon", "Unknown", "Collection", "Surface")):
        raise DataError(f"{place} holds {kind if kind != 'None' else 'no shapes'}, no areas; take another layer")
    if info["features"] == 0:
        raise DataError(f"{place} is empty")
    if info["crs"] is None:
        raise DataError(f"{place} has no coordinate system; give it one with ogr2ogr -a_srs EPSG:<code>")
    try:
        crs = CRS.from_user_input(info["crs"])
    except CRSError as error:
        raise DataError(f"{place}: its coordinate system cannot be read ({_one_line(error)})") from None
    if not (crs.is_geographic or crs.is_projected):
        raise DataError(
            f"{place}: its coordinate system is neither geographic nor projected; give it the right one with "
            "ogr2ogr -a_srs EPSG:<code>"
        )
    return crs


def _box(bounds: tuple[float, float, float, float] | None, crs: CRS) -> Box | None:
    """The bounds of a layer (left, bottom, right, top) in degrees; None where the file or the projection has none."""
    if bounds is None:
        return None
    try:
        found: Box = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform_bounds(*bounds)
    except ProjError:
        return None
    return found if all(map(math.isfinite, found)) else None


def _batches(config: LandcoverVector, layer: str, boxes: list[Box]) -> Iterator[Batch]:
    try:
        for box in boxes:
            options = {"layer": layer, "columns": [config.field], "bbox": box, "batch_size": BATCH_FEATURES}
            with pyogrio.open_arrow(config.path, return_fids=True, use_pyarrow=True, **options) as (meta, reader):
                shape_column = meta["geometry_name"] or "wkb_geometry"
                for batch in reader:
                    yield Batch(
                        batch[meta["fid_column"] or "OGC_FID"].to_numpy().astype(np.int64),
                        batch[config.field].to_pylist(),
                        shapely.from_wkb(batch[shape_column].to_numpy(zero_copy_only=False), on_invalid="ignore"),
                        box,
                    )
    except NotImplementedError:
        raise DataError(
            f"{config.path}: layer {layer!r} holds curves; make straight lines of them with "
            "ogr2ogr -nlt CONVERT_TO_LINEAR"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{config.path}: the text of {config.field!r} is no UTF-8 ({error.object[:40]!r}); give the file its "
            "encoding, for a shapefile in the .cpg beside it"
        ) from None
    except FILE_ERRORS as error:
        raise DataError(f"{config.path}: is damaged ({_one_line(error)}); get it again") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
