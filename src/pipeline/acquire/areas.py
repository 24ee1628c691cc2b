"""Polygons with values onto the grid, block by block: prepared once as a file with a spatial index, then painted."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyogrio
import shapely
from pyproj import CRS
from rasterio import features

from pipeline.acquire.legend import NO_DATA, Codes, Legend
from pipeline.acquire.world import Box, around, world_width
from pipeline.errors import DataError
from pipeline.geometry import STEP_M, Shapes, reproject, to_pixels
from pipeline.grid import Grid, Shard

DEGREE_M = 111_700.0  # at most so many metres to a degree
CLIPPED_POINTS = 256  # shapes of more points are cut to the block before they are painted
FILE_ERRORS = (
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    pyogrio.errors.FeatureError,
    pyogrio.errors.GeometryError,
    pa.ArrowException,
    OSError,
)
SCHEMA = pa.schema([("feature", pa.int64()), ("code", pa.int32()), ("geometry", pa.binary())])


@dataclass(frozen=True)
class Batch:
    """Some features of a source: ids [n], which order them, values [n], and shapes [n] (None for none) in its CRS.

    `box` is what was asked for, in the source's CRS: features reach beyond it, and are cut to it.
    """

    ids: npt.NDArray[np.int64]
    values: list[Any]
    shapes: Shapes
    box: Box


class Areas:
    """Prepared polygons on the grid. Equal for blocks of any size.

    Attributes:
        box: what their source covers (west, south, east, north; degrees), None where that is not known.
    """

    box: Box | None = None

    def __init__(self, prepared: Path, grid: Grid) -> None:
        self._prepared, self._grid = prepared, grid

    def codes(self, row: int, col: int, height: int, width: int) -> Codes:
        """Codes under a window of the grid, uint16 [height, width]: of the last feature over a pixel's centre, or 0.

        DataError when the prepared file is not whole.
        """
        grid = self._grid
        left, top = grid.left + (col - 1) * grid.res_x, grid.top - (row - 1) * grid.res_y
        box = (left, top - (height + 2) * grid.res_y, left + (width + 2) * grid.res_x, top)
        try:
            _, _, shapes, columns = pyogrio.raw.read(self._prepared, columns=["feature", "code"], bbox=box)
        except FILE_ERRORS as error:  # GDAL tells of no error that it meets while closing a file it wrote
            raise _unwritten(self._prepared.parent, error) from None
        ids, codes = columns
        order = np.argsort(ids, kind="stable")
        pixels = to_pixels(shapely.from_wkb(shapes[order]), grid, Shard("block", row, col, height, width))
        big = shapely.get_num_coordinates(pixels) > CLIPPED_POINTS
        pixels[big] = shapely.clip_by_rect(pixels[big], -1, -1, width + 1, height + 1)
        out = np.zeros((height, width), dtype=np.uint16)
        painted = [
            (shape, code) for shape, code in zip(pixels, codes[order].tolist(), strict=True) if not shape.is_empty
        ]
        if painted:
            features.rasterize(painted, out=out)
        return out


class NoAreas:
    """No polygon in the region; `box` as of `Areas`."""

    box: Box | None = None

    def codes(self, row: int, col: int, height: int, width: int) -> Codes:
        """No data, uint16 [height, width]."""
        return np.zeros((height, width), dtype=np.uint16)


@contextmanager
def prepared_areas(
    batches: Iterable[Batch], crs: CRS, grid: Grid, legend: Legend, scratch: Path
) -> Iterator[tuple[Areas | NoAreas, dict[str, int]]]:
    """Bring features onto the grid's coordinate system, in a folder `scratch` that lives as long as the block.

    Polygons that cross themselves are repaired (filled by the even-odd rule, as GDAL fills them); nulls, and features
    that are no areas, are left out and counted.

    Yields:
        the areas, and counts: ``features`` read, of those ``repaired``, ``without_value``, ``without_area``.
    """
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed job left
    scratch.mkdir(parents=True)
    try:
        preparing = _Preparing(crs, grid, legend)
        path = scratch / "areas.fgb"
        try:
            reader = pa.RecordBatchReader.from_batches(SCHEMA, preparing.records(batches))
            pyogrio.raw.write_arrow(
                reader, path, driver="FlatGeobuf", geometry_name="geometry", geometry_type="Unknown", crs=grid.crs
            )
        except (*FILE_ERRORS, RuntimeError) as error:  # RuntimeError: of the source, by way of arrow
            raise (preparing.failure or _unwritten(scratch, error)) from None
        yield (Areas(path, grid) if preparing.written else NoAreas()), preparing.counts
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _unwritten(scratch: Path, error: Exception) -> DataError:
    return DataError(f"{scratch}: the polygons cannot be written ({' '.join(str(error).split())}); is the disk full?")


class _Preparing:
    """The state of one preparation."""

    def __init__(self, crs: CRS, grid: Grid, legend: Legend) -> None:
        self._legend, self._grid = legend, grid
        self._same = CRS.from_user_input(grid.crs) == crs
        self._crs = crs.to_wkt()
        per_unit_m = DEGREE_M if crs.is_geographic else float(crs.axis_info[0].unit_conversion_factor)
        if crs.is_geographic:
            per_unit_m *= np.rad2deg(crs.axis_info[0].unit_conversion_factor)
        self._step = STEP_M / per_unit_m
        self._world = world_width(CRS.from_user_input(grid.crs))
        self._seen: set[int] = set()
        self.counts = dict.fromkeys(("features", "repaired", "without_value", "without_area"), 0)
        self.written = 0
        self.failure: Exception | None = None

    def records(self, batches: Iterable[Batch]) -> Iterator[pa.RecordBatch]:
        """What the file holds. An error of the source is kept in `failure`: arrow would turn it into one of its own."""
        try:
            for batch in batches:
                ids, codes, shapes = self._on_grid(batch)
                self.written += len(ids)
                columns = [
                    pa.array(ids),
                    pa.array(codes.astype(np.int32)),
                    pa.array(shapely.to_wkb(shapes), pa.binary()),
                ]
                yield pa.record_batch(columns, schema=SCHEMA)
        except Exception as error:
            self.failure = error
            raise

    def _on_grid(self, batch: Batch) -> tuple[npt.NDArray[np.int64], Codes, Shapes]:
        first = np.array([number not in self._seen for number in batch.ids.tolist()], dtype=bool)
        self._seen.update(batch.ids.tolist())
        codes = self._legend.codes_of(batch.values)
        valued = codes != NO_DATA
        shapes, repaired = _areas(batch.shapes)
        area = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
        news = {"features": first, "repaired": repaired & first & valued}
        news |= {"without_value": first & ~valued, "without_area": first & valued & ~area}
        for name, rows in news.items():
            self.counts[name] += int(rows.sum())
        keep = valued & area
        ids, codes, shapes = batch.ids[keep], codes[keep], shapely.clip_by_rect(shapes[keep], *batch.box)
        shapes = self._projected(shapes)
        left, bottom, right, top = self._grid.bounds
        x0, y0, x1, y1 = shapely.bounds(shapes).T.reshape(4, -1)
        near = (x0 < right) & (x1 > left) & (y0 < top) & (y1 > bottom)  # False for what is empty
        return ids[near], codes[near], shapes[near]

    def _projected(self, shapes: Shapes) -> Shapes:
        if not self._same:
            shapes = reproject(shapely.segmentize(shapes, self._step), self._crs, self._grid.crs)
        if self._world is None:
            return shapes
        left, _, right, _ = self._grid.bounds
        world, centre = self._world, (left + right) / 2

        def move(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            return np.column_stack([around(points[:, 0], world, centre), points[:, 1]])

        return shapely.transform(shapes, move)  # type: ignore[no-any-return, unused-ignore]


def _areas(shapes: Shapes) -> tuple[Shapes, npt.NDArray[np.bool_]]:
    """Valid polygons and multipolygons, None for what has no area; and which were repaired."""
    shapes = shapely.force_2d(shapes)
    shapes[~np.isfinite(shapely.bounds(shapes)).all(axis=1)] = None  # of no place
    broken = ~(shapely.is_valid(shapes) | shapely.is_missing(shapes))
    if broken.any():
        shapes[broken] = [_polygons(shape) for shape in shapely.make_valid(shapes[broken])]
    kinds = shapely.get_type_id(shapes)
    mixed = kinds == shapely.GeometryType.GEOMETRYCOLLECTION
    if mixed.any():
        shapes[mixed] = [_polygons(shape) for shape in shapes[mixed]]
    lines = np.isin(kinds, [0, 1, 2, 4, 5])  # points and lines
    shapes[lines] = None
    return shapes, broken


def _polygons(shape: Any) -> Any:
    """The areas of a repaired shape or collection."""
    parts = shapely.get_parts(shapely.get_parts(shape))
    areas = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
    return shapely.multipolygons(areas) if len(areas) else None
