"""The packed chip store: one memory-mapped array, an index, a manifest. Needs numpy and pyarrow alone.

A store is a folder with ``chips.npy`` [N, bands, H, W] in the source's dtype, ``valid.npy`` [N, H, ceil(W / 8)] uint8
(one bit per pixel, big-endian within a byte, 1 = the pixel has data), ``index.parquet`` (a row per chip) and
``store.json`` (bands, dtype, gsd_m, chip_px, sha256). Image and label chips are separate stores joined by chip id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.columns import read_columns
from pipeline.errors import DataError
from pipeline.files import atomic_folder, read_json, write_json

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class ChipStore:
    """An open store; `chips` is a read-only memory map."""

    folder: Path
    chips: Array
    bits: Array
    index: dict[str, Array]
    meta: dict[str, Any]

    @staticmethod
    def open(folder: Path) -> ChipStore:
        """Open the store at `folder`; DataError when a part is missing or sizes disagree."""
        folder = Path(folder)
        try:
            meta = read_json(folder / "store.json")
            chips = np.load(folder / "chips.npy", mmap_mode="r", allow_pickle=False)
            bits = np.load(folder / "valid.npy", mmap_mode="r", allow_pickle=False)
            index, _ = read_columns(folder / "index.parquet")
        except (OSError, ValueError, pa.ArrowInvalid) as error:
            raise DataError(
                f"the chip store {folder} cannot be read ({error}); delete the folder and cut it again"
            ) from None
        if not len(chips) == len(bits) == len(index["chip_id"]) == meta["chips"]:
            raise DataError(f"the chip store {folder} is inconsistent: delete the folder and cut it again")
        return ChipStore(folder, chips, bits, index, meta)

    def __len__(self) -> int:
        return len(self.chips)

    @property
    def chip_px(self) -> int:
        """Edge of a chip in pixels."""
        return int(self.chips.shape[-1])

    def valid(self, rows: Array) -> Array:
        """Which pixels of the chips at `rows` have data, bool [len(rows), H, W]."""
        return np.unpackbits(self.bits[rows], axis=-1, count=self.chip_px).astype(bool)

    def rows_of(self, chip_ids: Array) -> Array:
        """Row number of each chip id, int64; DataError names one that is missing."""
        order = np.argsort(self.index["chip_id"])
        keys = self.index["chip_id"][order]
        at = np.clip(np.searchsorted(keys, chip_ids), 0, max(len(keys) - 1, 0))
        missing = chip_ids if len(keys) == 0 else chip_ids[keys[at] != chip_ids]
        if len(missing):
            raise DataError(f"the chip store {self.folder} has no chip {str(missing[0])!r}")
        return order[at]


@dataclass
class StoreWriter:
    """Appends chips to a new store without holding them in memory; use `writing`."""

    folder: Path
    bands: int
    dtype: np.dtype[Any]
    chip_px: int
    columns: dict[str, list[Any]] = field(default_factory=dict)
    count: int = 0
    _files: dict[str, BinaryIO] = field(default_factory=dict)
    _digest: Any = field(default_factory=hashlib.sha256)

    def append(self, chip: Array, valid: Array, **columns: Any) -> None:
        """Add one chip [bands, H, W] with its validity [H, W] and its index columns."""
        packed = np.packbits(valid, axis=-1)
        for name, array in (("chips.npy", chip), ("valid.npy", packed)):
            data = np.ascontiguousarray(array).tobytes()
            self._files[name].write(data)
            self._digest.update(data)
        for key, value in columns.items():
            self.columns.setdefault(key, []).append(value)
        self.count += 1

    def _header(self, name: str) -> None:
        tail = (
            (self.bands, self.chip_px, self.chip_px) if name == "chips.npy" else (self.chip_px, -(-self.chip_px // 8))
        )
        dtype = self.dtype if name == "chips.npy" else np.dtype(np.uint8)
        description = np.lib.format.dtype_to_descr(dtype)
        header = {"descr": description, "fortran_order": False, "shape": (self.count, *tail)}
        np.lib.format.write_array_header_1_0(self._files[name], header)

    def begin(self) -> None:
        """Open the files and write provisional headers; numpy pads a header so that N can grow in place."""
        for name in ("chips.npy", "valid.npy"):
            self._files[name] = open(self.folder / name, "w+b")  # noqa: SIM115 - closed in finish
            self._header(name)

    def finish(self, meta: dict[str, Any]) -> None:
        """Write final headers, index and manifest."""
        for name, handle in self._files.items():
            length = handle.seek(0, 2)
            handle.seek(0)
            self._header(name)
            handle.close()
            if len(np.load(self.folder / name, mmap_mode="r")) != self.count or length == 0:
                raise DataError(f"{self.folder / name} could not be written")
        pq.write_table(pa.table(self.columns), self.folder / "index.parquet")
        facts = {"chips": self.count, "bands": self.bands, "dtype": self.dtype.name, "chip_px": self.chip_px}
        write_json(self.folder / "store.json", {**meta, **facts, "sha256": self._digest.hexdigest()})

    def close(self) -> None:
        """Close what is still open."""
        for handle in self._files.values():
            handle.close()


class writing:
    """Context manager: a StoreWriter whose folder replaces `folder` when the block ends well."""

    def __init__(self, folder: Path, bands: int, dtype: Any, chip_px: int, meta: dict[str, Any]) -> None:
        self._folder = atomic_folder(folder)
        self._arguments = (bands, np.dtype(dtype), chip_px)
        self._meta = meta

    def __enter__(self) -> StoreWriter:
        """Begin the store."""
        self.writer = StoreWriter(self._folder.__enter__(), *self._arguments)
        self.writer.begin()
        return self.writer

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Finish or discard the store."""
        try:
            if kind is None:
                if self.writer.count == 0:
                    raise DataError(
                        f"no chip has any data for {self._meta.get('source')}; check bbox, sources and margin"
                    )
                self.writer.finish(self._meta)
        except BaseException as problem:
            self.writer.close()
            self._folder.__exit__(type(problem), problem, problem.__traceback__)
            raise
        self.writer.close()
        self._folder.__exit__(kind, error, trace)


def chip_id(row_px: int, col_px: int, px: int) -> str:
    """The id of the chip whose top-left pixel is (`row_px`, `col_px`) of the grid."""
    return f"r{row_px:06d}c{col_px:06d}p{px}"


def positions(height: int, width: int, px: int, margin_px: int, drop_outer: bool) -> Iterator[tuple[int, int]]:
    """(row_px, col_px) of every whole chip of the regular grid, row by row."""
    outer = px if drop_outer else 0
    rows = list(range(margin_px, height - margin_px - px + 1, px))
    cols = list(range(margin_px, width - margin_px - px + 1, px))
    if outer:
        rows, cols = rows[1:-1], cols[1:-1]
    for row in rows:
        for col in cols:
            yield row, col
