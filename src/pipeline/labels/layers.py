"""The features of OSM layers that a recipe paints, as spans of pixels, a window of the grid at a time."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyogrio
import shapely

from pipeline.config import LineLayer, PolygonLayer
from pipeline.errors import DataError
from pipeline.grid import Grid, Shard
from pipeline.labels import scanline
from pipeline.labels.geometry import dense_areas, ground_buffers
from pipeline.labels.projection import Projection, is_torn, projection_of, reading_boxes, shard_bounds_deg, unwrap
from pipeline.labels.values import VectorLayer, named_values, occurring
from pipeline.labels.widths import (
    IN_TUNNEL,
    MAX_WIDTH_M,
    OTHER_TAGS,
    PAINTED,
    TAG_OF_LAYER,
    left_out_reasons,
    line_widths_m,
    tagged,
)

Floats = npt.NDArray[np.float64]
Texts = npt.NDArray[np.object_]

LINE_COLUMNS = ["width", "lanes", "tracktype", "tunnel", "area"]
HIDDEN_AREAS = ("road_areas", "water")  # their areas in a tunnel or culvert are not visible; a roof over a passage is
SHRUNK = "smaller than its buffer"
POINT = "without length or area"
TORN = "drawn across the antimeridian in one piece"
LOST = "outside of the grid's coordinate system"
SLACK_M = 20.0  # more than a box in degrees and a buffer can be off


class LayerReader:
    """Reads and widens the features of one shard; counts each of them once, however many windows see it.

    Args:
        gpkg: layers made by `pipeline.acquire.osm.extract_osm`.
        grid: the region's grid.
    """

    def __init__(self, gpkg: Path, grid: Grid) -> None:
        self._gpkg = gpkg
        self._grid = grid
        self._projection: Projection = projection_of(grid)
        self._seen: dict[str, dict[str, list[npt.NDArray[np.int64]]]] = {}
        self._values: dict[str, set[str]] = {}

    def spans(self, name: str, layer: VectorLayer, window: Shard) -> scanline.Spans:
        """What the recipe's layer called `name` covers in a window of the grid.

        Raises:
            DataError: the layer, or a column that the recipe asks for, is absent or unreadable.
        """
        factor = coarse_px(layer, self._grid)
        seen_from = scanline.coarse_window(window, factor) if factor > 1 else window
        frame = self._read(layer, window, factor)
        reasons, distances = _wanted(frame, layer)
        shapes = frame.geometry.to_numpy(dtype=object)
        reasons[(shapely.length(shapes) == 0) & (reasons == PAINTED)] = POINT
        reasons[is_torn(shapes) & (reasons == PAINTED)] = TORN
        shapes = unwrap(shapes, self._projection.centre_lon)
        chosen = reasons == PAINTED
        wide = self._widened(shapes[chosen], distances[chosen], layer)
        edges, reaching, lost = scanline.polygon_edges(wide, lambda points: self._pixels(points, factor), seen_from)
        left_out = reasons.copy()
        left_out[np.flatnonzero(chosen)[shapely.is_empty(wide)]] = SHRUNK
        left_out[np.flatnonzero(chosen)[lost]] = LOST
        chosen[np.flatnonzero(chosen)[~reaching]] = False
        near = (left_out != PAINTED) & self._near(shapes, seen_from, factor)
        counted = chosen | near
        self._count(name, frame.index.to_numpy(), np.where(near, left_out, PAINTED), counted)
        self._values.setdefault(name, set()).update(occurring(frame[counted], layer))
        if factor > 1:
            return scanline.coarse_spans(edges, window, factor)
        touched = isinstance(layer, PolygonLayer) and layer.all_touched
        return (scanline.touched_spans if touched else scanline.centre_spans)(edges, window)

    def counts(self, name: str, layer: VectorLayer) -> dict[str, Any]:
        """Features of a layer so far: ``painted``, ``left_out`` by reason, ``absent``: which of its values none has."""
        numbers = {reason: len(np.unique(np.concatenate(ids))) for reason, ids in self._seen.get(name, {}).items()}
        return {
            "painted": numbers.pop(PAINTED, 0),
            "left_out": dict(sorted(Counter(numbers).items())),
            "absent": [value for value in named_values(layer) if value not in self._values.get(name, set())],
        }

    def _read(self, layer: VectorLayer, window: Shard, factor: int) -> Any:
        bounds = shard_bounds_deg(self._grid, window)
        boxes = reading_boxes(bounds, _reach_m(layer) + 2 * factor * self._grid.gsd_m + SLACK_M)
        frames = [self._read_box(layer, box) for box in boxes]
        if len(frames) == 1:
            return frames[0]
        both = pd.concat(frames)
        return both[~both.index.duplicated()]

    def _read_box(self, layer: VectorLayer, box: tuple[float, float, float, float]) -> Any:
        columns = _columns(layer)
        try:
            frame = pyogrio.read_dataframe(
                self._gpkg, layer=layer.layer, bbox=box, columns=columns, fid_as_index=True, on_invalid="raise"
            )
        except Exception as error:  # GDAL and GEOS each have a family of them, and no common root
            text = " ".join(str(error).split())
            raise DataError(
                f"{self._gpkg}: layer {layer.layer!r} cannot be read ({text}); make the OSM layers again"
            ) from None
        missing = [column for column in columns if column not in frame]
        if missing:
            raise DataError(
                f"{self._gpkg}: layer {layer.layer!r} has no column {missing[0]!r}; make the OSM layers again"
            )
        return frame[~(frame.geometry.isna() | frame.geometry.is_empty)]

    def _widened(self, shapes: scanline.Shapes, distances: Floats, layer: VectorLayer) -> scanline.Shapes:
        if isinstance(layer, PolygonLayer):
            if not layer.buffer_m:
                return dense_areas(shapes)
            shapes = np.where(shapely.is_valid(shapes), shapes, shapely.make_valid(shapes))
        return ground_buffers(shapes, distances)

    def _pixels(self, points: Floats, factor: int) -> Floats:
        """(column, row) of the whole grid, in pixels of `factor` x `factor` grid pixels."""
        grid = self._grid
        scale = np.array([1 / grid.res_x, -1 / grid.res_y])
        pixels: Floats = (self._projection.forward(points) - (grid.left, grid.top)) * scale / factor
        return pixels

    def _near(self, shapes: scanline.Shapes, window: Shard, factor: int) -> npt.NDArray[np.bool_]:
        """Which shapes' own bounds reach into the window."""
        if not len(shapes):
            return np.zeros(0, dtype=bool)
        counts = shapely.get_num_coordinates(shapes)
        pixels = self._pixels(shapely.get_coordinates(shapes), factor)
        return scanline.touches(*scanline.bounds(pixels, np.cumsum(counts) - counts), window)

    def _count(self, name: str, ids: npt.NDArray[np.int64], reasons: Texts, counted: npt.NDArray[np.bool_]) -> None:
        seen = self._seen.setdefault(name, {})
        for reason in set(reasons[counted]):
            seen.setdefault(reason, []).append(ids[counted & (reasons == reason)])


def coarse_px(layer: VectorLayer, grid: Grid) -> int:
    """Grid pixels along one of the pixels that a layer is painted on: `pixel_m` on the ground, at least one."""
    pixel_m = layer.pixel_m if isinstance(layer, LineLayer) else None
    return 1 if pixel_m is None else max(1, round(pixel_m / grid.gsd_m))


def _columns(layer: VectorLayer) -> list[str]:
    columns = [TAG_OF_LAYER[layer.layer], *LINE_COLUMNS] if isinstance(layer, LineLayer) else []
    return [*columns, "tags"] if layer.tags is not None or layer.layer in HIDDEN_AREAS else columns


def _reach_m(layer: VectorLayer) -> float:
    """How far from itself a feature of the layer may be painted, metres."""
    if isinstance(layer, LineLayer):
        return max(MAX_WIDTH_M, *layer.widths_m.values()) / 2
    return max(0.0, layer.buffer_m)


def _wanted(frame: Any, layer: VectorLayer) -> tuple[Texts, Floats]:
    """Why each feature is left out ("" where it is painted), and how many metres it grows."""
    if isinstance(layer, LineLayer):
        return left_out_reasons(frame, layer), line_widths_m(frame, layer) / 2
    reasons = np.full(len(frame), PAINTED, dtype=object)
    if layer.layer in HIDDEN_AREAS:
        told = np.flatnonzero(frame["tags"].str.contains('"tunnel"', regex=False).to_numpy(dtype=bool))
        tunnel = [json.loads(text).get("tunnel", "no") for text in frame["tags"].to_numpy(dtype=object)[told]]
        reasons[told[[value != "no" for value in tunnel]]] = IN_TUNNEL
    if layer.tags is not None:
        reasons[~tagged(frame["tags"], layer.tags)] = OTHER_TAGS
    return reasons, np.full(len(frame), layer.buffer_m)
