"""Two passes of libosmium over an extract, which leave its shapes and the text of its tags in files.

Assembling areas, looking up node locations and writing text happen inside libosmium; Python is called for shapes alone.
Node locations lie in a file too, so that memory does not grow with the extract.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import osmium
import pyarrow as pa
import shapely
from osmium import filter as osmium_filter
from osmium.osm import ALL, NOTHING, RELATION, WAY

from pipeline.acquire.osm_box import BBox
from pipeline.acquire.osm_tags import AREA_KEYS, LINE_KEYS

BATCH = 20_000
TEXT = "opl,add_metadata=false"
SHAPES = pa.schema([("id", pa.int64()), ("whole", pa.bool_()), ("wkb", pa.binary())])

Boxes = Sequence[shapely.Polygon] | None
Row = tuple[int, bool, bytes | None]


class Extract:
    """The files that reading one extract leaves in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.relations = folder / "relations.opl"  # of the types multipolygon and boundary
        self.ways = folder / "ways.opl"  # all
        self.lines = folder / "lines.arrow"  # of the ways with a key of LINE_KEYS, in their order
        self.areas = folder / "areas.arrow"  # of closed ways, in their order
        self.relation_areas = folder / "relation_areas.arrow"
        self.locations = folder / "locations"


def header_box(pbf: Path) -> BBox | None:
    """The box (west, south, east, north; degrees) that the extract's header gives; None without, or no such file."""
    try:
        with osmium.io.Reader(osmium.io.File(str(pbf), "pbf"), NOTHING) as reader:
            box = reader.header().box()
    except RuntimeError:  # whoever reads it is told
        return None
    if not box.valid():
        return None
    west, east = box.bottom_left.lon, box.top_right.lon
    return west, box.bottom_left.lat, east + (360.0 if east < west else 0.0), box.top_right.lat


def read_extract(pbf: Path, folder: Path, boxes: Boxes, tick: Callable[[int], None]) -> Extract:
    """Read `pbf` into the files of an `Extract` in the new folder `folder`.

    Shapes are WKB in WGS84 degrees; one that touches none of `boxes` (None: no clipping) is null, its id stays. A line
    with missing nodes is one row per stretch that is left, ``whole`` false; one null row when nothing is left.
    `tick` is called now and then with the number of shapes so far. Raises RuntimeError for whatever libosmium does not
    like.
    """
    folder.mkdir()
    found, pool, source = Extract(folder), osmium.io.ThreadPool(), osmium.io.File(str(pbf), "pbf")
    manager: Any = osmium.area.AreaManager()
    with _text_writer(found.relations, pool) as text, osmium.io.Reader(source, RELATION, thread_pool=pool) as reader:
        kinds = osmium_filter.TagFilter(("type", "multipolygon"), ("type", "boundary"))
        osmium.apply(reader, kinds, text, osmium_filter.KeyFilter(*AREA_KEYS), manager.first_pass_handler())
    index: Any = osmium.index.create_map(f"sparse_file_array,{found.locations}")
    locations: Any = osmium.NodeLocationsForWays(index)
    locations.ignore_errors()
    with (
        ShapeFile(found.lines, boxes, tick) as lines,
        ShapeFile(found.areas, boxes, tick) as areas,
        ShapeFile(found.relation_areas, boxes, tick) as relation_areas,
        _text_writer(found.ways, pool) as text,
        osmium.io.Reader(source, ALL, thread_pool=pool) as reader,
    ):
        assembled = manager.second_pass_handler(osmium_filter.KeyFilter(*AREA_KEYS), _Areas(areas, relation_areas))
        ways = osmium_filter.EntityFilter(WAY)
        osmium.apply(reader, locations, assembled, ways, text, osmium_filter.KeyFilter(*LINE_KEYS), _Lines(lines))
    return found


@contextmanager
def _text_writer(path: Path, pool: Any) -> Iterator[Any]:
    writer = osmium.SimpleWriter(osmium.io.File(str(path), TEXT), thread_pool=pool)
    try:
        with writer:
            yield writer
    except BaseException:
        # What could not be written (disk full) is tried again when the writer is freed, which ends the process: it
        # never is.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(writer))
        raise


class ShapeFile:
    """Rows of `SHAPES` on their way to an Arrow file, a batch at a time."""

    def __init__(self, path: Path, boxes: Boxes, tick: Callable[[int], None]) -> None:
        self.boxes, self.tick, self.rows = boxes, tick, 0
        self._file = pa.ipc.new_file(str(path), SHAPES)
        self._ids: list[int] = []
        self._whole: list[bool] = []
        self._wkb: list[bytes | None] = []

    def add(self, number: int, wkb: str | None, whole: bool = True) -> None:
        """Add one shape, hexadecimal WKB."""
        self._ids.append(number)
        self._whole.append(whole)
        self._wkb.append(None if wkb is None else bytes.fromhex(wkb))
        if len(self._ids) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        outside = ~_touching(self._wkb, self.boxes)
        wkb = pa.array(np.array(self._wkb, dtype=object), pa.binary(), mask=outside)
        self._file.write_batch(pa.record_batch([self._ids, self._whole, wkb], schema=SHAPES))
        self.rows += len(wkb)
        self._ids, self._whole, self._wkb = [], [], []
        self.tick(self.rows)

    def __enter__(self) -> ShapeFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._file.close()


def _touching(wkb: list[bytes | None], boxes: Boxes) -> npt.NDArray[np.bool_]:
    """Which shapes touch one of the boxes, bool [n]; only those whose bounds cross an edge of one are looked at."""
    inside = np.full(len(wkb), boxes is None)
    if boxes is None or not wkb:
        return inside
    shapes = shapely.from_wkb(np.array(wkb, dtype=object))
    x0, y0, x1, y1 = shapely.bounds(shapes).T
    for box in boxes:
        west, south, east, north = box.bounds
        inside |= (x0 >= west) & (y0 >= south) & (x1 <= east) & (y1 <= north)
        near = ~inside & (x0 <= east) & (y0 <= north) & (x1 >= west) & (y1 >= south)
        inside[near] = shapely.intersects(shapes[near], box)
    return inside


class _Areas:
    """Takes the areas that libosmium assembled, those without rings (open or crossing ones) excepted."""

    def __init__(self, ways: ShapeFile, relations: ShapeFile) -> None:
        self.ways, self.relations = ways, relations
        self.factory = osmium.geom.WKBFactory()

    def area(self, area: Any) -> None:
        if area.num_rings()[0]:
            kind = self.ways if area.from_way() else self.relations
            kind.add(area.orig_id(), self.factory.create_multipolygon(area))


class _Lines:
    """Takes ways as lines."""

    def __init__(self, lines: ShapeFile) -> None:
        self.lines = lines
        self.factory = osmium.geom.WKBFactory()

    def way(self, way: Any) -> None:
        try:
            if way.nodes and way.nodes[0].location.valid():  # libosmium skips missing nodes at the start, says nothing
                self.lines.add(way.id, self.factory.create_linestring(way))
                return
        except (osmium.InvalidLocationError, RuntimeError):  # nodes missing, or all at one place
            pass
        if all(node.location.valid() for node in way.nodes):
            return
        parts: list[str | None] = [*_stretches(way)]
        for part in parts or [None]:
            self.lines.add(way.id, part, whole=False)


def _stretches(way: Any) -> list[str]:
    """Lines through the nodes that the file holds, from gap to gap."""
    parts: list[list[tuple[float, float]]] = [[]]
    for node in way.nodes:
        if node.location.valid():
            parts[-1].append((node.location.lon, node.location.lat))
        elif parts[-1]:
            parts.append([])
    lines = [shapely.LineString(part) for part in parts if len(set(part)) > 1]
    return [shapely.to_wkb(line, hex=True) for line in lines]


def shape_rows(path: Path) -> Iterator[Row]:
    """Rows of a file that `ShapeFile` wrote: id, whole, WKB or None."""
    with pa.OSFile(str(path)) as handle:
        batches = pa.ipc.open_file(handle)
        for number in range(batches.num_record_batches):
            batch = batches.get_batch(number)
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def whole_ids(path: Path) -> npt.NDArray[np.int64]:
    """Ids of the shapes in a file that `ShapeFile` wrote that miss no node, those outside of the boxes included."""
    found = [np.array([], np.int64)]
    with pa.OSFile(str(path)) as handle:
        batches = pa.ipc.open_file(handle)
        for number in range(batches.num_record_batches):
            batch = batches.get_batch(number)
            found.append(batch["id"].filter(batch["whole"]).to_numpy())
    return np.concatenate(found)
