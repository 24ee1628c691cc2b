"""Layers on their way to a GeoPackage: batches of rows wait on the disk, and each layer is written as one stream."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyogrio

from pipeline.acquire.osm_read import BATCH
from pipeline.acquire.osm_tags import LAYER_COLUMNS, LINE_LAYERS
from pipeline.acquire.osm_text import Described

KINDS = ("relation", "way")  # in the order of the rows
GEOMETRY = "geom"
SORTING = [("extract", pa.int32()), ("whole", pa.bool_())]  # columns that choose between rows, never written
GDAL_OPTIONS = {
    "OGR_CURRENT_DATE": "1970-01-01T00:00:00.000Z",  # equal rows, equal bytes
    "OGR_SQLITE_SYNCHRONOUS": "OFF",  # the file is renamed once it is whole
    "OGR_GPKG_MAX_RAM_USAGE_RTREE": str(32 << 20),  # bytes; a bigger spatial index is built on the disk
}


class Spool:
    """Rows of one kind of object in one layer. Of a feature that several extracts hold, the first whole one is kept."""

    def __init__(self, path: Path, layer: str, kind: str) -> None:
        texts = ["osm_type", *LAYER_COLUMNS[layer], "tags"]
        columns = [("osm_id", pa.int64()), *((name, pa.string()) for name in texts), (GEOMETRY, pa.binary())]
        self.schema = pa.schema(columns)
        self.layer, self.kind, self.path = layer, kind, path
        self._file = pa.ipc.new_file(str(path), pa.schema([*columns, *SORTING]))
        self._waiting: list[tuple[int, Described, bytes, int, bool]] = []
        self._last = (-1, -(1 << 63))
        self._sorted = True

    def add(self, number: int, described: Described, wkb: bytes, extract: int, whole: bool) -> None:
        """Add one row; `extract` is the position of its extract, `whole` whether it misses no node there."""
        self._waiting.append((number, described, wkb, extract, whole))
        if len(self._waiting) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        ids, described, wkb, extracts, whole = (list(column) for column in zip(*self._waiting, strict=True))
        self._waiting = []
        numbers = np.array(ids, dtype=np.int64)
        first, self._last = self._last, (extracts[-1], ids[-1])
        one_extract = first[0] in (-1, extracts[0]) and extracts[0] == extracts[-1]
        self._sorted &= one_extract and first[1] <= ids[0] and bool((np.diff(numbers) >= 0).all())
        tags = [entry.tags for entry in described]
        texts = [[entry.get(key) for entry in tags] for key in LAYER_COLUMNS[self.layer]]
        arrays = [
            pa.array(numbers),
            pa.array([self.kind] * len(ids), pa.string()),
            *(pa.array(text, pa.string()) for text in texts),
            pa.array([entry.json for entry in described], pa.string()),
            pa.array(wkb, pa.binary()),
            pa.array(extracts, pa.int32()),
            pa.array(whole, pa.bool_()),
        ]
        self._file.write_batch(pa.record_batch(arrays, schema=pa.schema([*self.schema, *map(_field, SORTING)])))

    def close(self) -> None:
        """Flush what waits; `batches` may follow."""
        self._flush()
        self._file.close()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, sorted by id, each feature once, without the columns that chose among them."""
        with pa.OSFile(str(self.path)) as handle:
            stored = pa.ipc.open_file(handle)
            if self._sorted:
                for number in range(stored.num_record_batches):
                    yield stored.get_batch(number).select(self.schema.names)
                return
            rows, ends = _chosen(stored)
            for first in range(0, len(rows), BATCH):
                yield _gather(stored, rows[first : first + BATCH], ends).select(self.schema.names)


def _field(named: tuple[str, pa.DataType]) -> pa.Field:
    return pa.field(*named)


def _chosen(stored: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Numbers of the rows to keep, by id, int64 [n], and the number of rows up to the end of each batch, int64."""
    keys: list[list[npt.NDArray[Any]]] = [[], [], []]
    for number in range(stored.num_record_batches):
        batch = stored.get_batch(number)
        for name, column in zip(("osm_id", "extract", "whole"), keys, strict=True):
            column.append(batch[name].to_numpy(zero_copy_only=False))
    ends = np.cumsum([len(part) for part in keys[0]])
    ids, extracts, whole = (np.concatenate(column) for column in keys)
    order = np.lexsort((extracts, ~whole, ids))  # stable: the stretches of a line stay in their order
    ids, extracts = ids[order], extracts[order]
    begins = np.concatenate([[True], ids[1:] != ids[:-1]])
    best = extracts[begins][np.cumsum(begins) - 1]
    return order[extracts == best], ends


def _gather(stored: Any, rows: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> pa.RecordBatch:
    """The given rows, in the given order, of any of the batches."""
    places = np.searchsorted(ends, rows, side="right")
    used = np.unique(places)
    parts = []
    for number in used:
        batch = stored.get_batch(int(number))
        parts.append(batch.take(pa.array(rows[places == number] - (ends[number] - batch.num_rows))))
    back = np.argsort(np.argsort(places, kind="stable"), kind="stable")
    return pa.Table.from_batches(parts).take(pa.array(back)).combine_chunks().to_batches()[0]


class Layers:
    """All layers of `LAYER_COLUMNS`, waiting in files below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.spools = {
            (layer, kind): Spool(folder / f"{layer}_{kind}.arrow", layer, kind)
            for layer in LAYER_COLUMNS
            for kind in KINDS
        }

    def add(
        self, layer: str, kind: str, number: int, described: Described, wkb: bytes, extract: int, whole: bool = True
    ) -> None:
        """Add a feature to a layer; see `Spool.add`."""
        self.spools[layer, kind].add(number, described, wkb, extract, whole)

    def write(self, path: Path) -> dict[str, int]:
        """Write all layers to a new GeoPackage, those without rows too; return the number of rows of each.

        RuntimeError when the file does not take them all.
        """
        for spool in self.spools.values():
            spool.close()
        before = {name: pyogrio.get_gdal_config_option(name) for name in GDAL_OPTIONS}
        pyogrio.set_gdal_config_options(GDAL_OPTIONS)
        try:
            rows = {layer: self._write_layer(layer, path) for layer in LAYER_COLUMNS}
        finally:
            pyogrio.set_gdal_config_options(before)
        _check(path, rows)
        return rows

    def _write_layer(self, layer: str, path: Path) -> int:
        spools = [self.spools[layer, kind] for kind in KINDS]
        rows = 0

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal rows
            for spool in spools:
                for batch in spool.batches():
                    rows += batch.num_rows
                    yield batch

        stream = pa.RecordBatchReader.from_batches(spools[0].schema, batches())
        pyogrio.write_arrow(
            stream,
            path,
            layer=layer,
            driver="GPKG",
            geometry_name=GEOMETRY,
            geometry_type="LineString" if layer in LINE_LAYERS else "MultiPolygon",
            crs="EPSG:4326",
        )
        return rows


def _check(path: Path, rows: dict[str, int]) -> None:
    """RuntimeError unless the GeoPackage has all layers, rows, extents and spatial indices.

    GDAL ends its last transaction and builds the indices when it closes a file, and tells of no error that it meets.
    """
    counted = "select feature_count from gpkg_ogr_contents where table_name = ?"
    extents = "select count(min_x) from gpkg_contents where table_name = ?"
    with closing(sqlite3.connect(path)) as base:
        for layer, count in rows.items():
            try:
                stored = base.execute(f'select count(*) from "{layer}"').fetchone()
                indexed = base.execute(f'select count(*) from "rtree_{layer}_{GEOMETRY}_rowid"').fetchone()
                found = [stored, indexed, base.execute(counted, [layer]).fetchone()]
                placed = base.execute(extents, [layer]).fetchone() == (int(count > 0),)
            except sqlite3.Error as error:
                raise RuntimeError(f"layer {layer} was not written whole: {error}") from None
            if found != [(count,)] * 3 or not placed:
                raise RuntimeError(f"layer {layer} was not written whole")
