"""Land cover from the polygons of an ArcGIS feature service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from pipeline.acquire.arcgis import DEGREES, FeatureService, feature_id
from pipeline.acquire.areas import Areas, Batch, NoAreas, prepared_areas
from pipeline.acquire.legend import Legend
from pipeline.acquire.world import boxes_in
from pipeline.command import Log
from pipeline.errors import DownloadError
from pipeline.files import read_json
from pipeline.geometry import Shapes
from pipeline.grid import Grid
from pipeline.schema import LandcoverService


@contextmanager
def service_cover(
    name: str, config: LandcoverService, grid: Grid, legend: Legend, cache: Path, log: Log
) -> Iterator[tuple[Areas | NoAreas, dict[str, Any]]]:
    """The service's polygons as codes, and what of them the summary says. Raises as `FeatureService.fetch`."""
    service = FeatureService(name, config, grid, cache, log)
    facts = service.fetch()
    scratch = cache / "landcover" / name
    with prepared_areas(_batches(service, config.field, grid), DEGREES, grid, legend, scratch) as (areas, counts):
        yield areas, {**facts, **counts}


def _batches(service: FeatureService, field: str, grid: Grid) -> Iterator[Batch]:
    id_field = service.id_field
    for path in service.pages():
        features = read_json(path)["features"]
        try:
            ids = np.array([feature_id(feature, id_field) for feature in features], dtype=np.int64)
            values = [(feature.get("properties") or feature.get("attributes") or {})[field] for feature in features]
            shapes = shapes_of([feature.get("geometry") for feature in features])
        except (KeyError, TypeError, ValueError, IndexError, shapely.errors.ShapelyError) as error:
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise DownloadError(
                f"{path}: the service's features cannot be read ({what[:200]}); delete {path.parent} to ask again"
            ) from None
        for box in boxes_in(grid, DEGREES):
            yield Batch(ids, values, shapes.copy(), box)


def shapes_of(geometries: list[dict[str, Any] | None]) -> Shapes:
    """Shapes [n] of GeoJSON geometries, or of Esri's: rings, of which one within another is a hole in it."""
    shapes = np.empty(len(geometries), dtype=object)
    for place, geometry in enumerate(geometries):
        if not geometry or geometry.get("rings") == []:
            continue
        if "rings" in geometry:
            shell, *holes = geometry["rings"]
            shapes[place] = shapely.make_valid(shapely.Polygon(shell, holes))  # by the even-odd rule, shells as well
        else:
            shapes[place] = shapely.from_geojson(json.dumps(geometry))
    return shapes
