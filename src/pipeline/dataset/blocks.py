"""Blocks of ground and the split each chip gets from them. Needs numpy and pyarrow alone."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.columns import read_columns
from pipeline.errors import DataError
from pipeline.files import atomic_file, write_json

Array = np.ndarray[Any, np.dtype[Any]]
SPLITS = ("train", "val", "test")
NONE = 255  # a block without data, a chip that is dropped


@dataclass(frozen=True)
class Blocks:
    """The assignment: `codes` [rows, cols] uint8 with 0 train, 1 val, 2 test, 255 none."""

    codes: Array
    size_px: int
    origin_px: int
    buffer_px: tuple[float, float]  # (down, across): the buffer in pixels, rounded to the safe side

    @property
    def reach(self) -> tuple[int, int]:
        """(down, across): blocks this far apart may still be nearer than the buffer."""
        down, across = self.buffer_px
        return math.ceil(down / self.size_px), math.ceil(across / self.size_px)

    def save(self, table: Path, facts: dict[str, Any]) -> None:
        """Write the blocks as Parquet (block_row, block_col, row_px, col_px, size_px, split) with `facts` beside."""
        rows, cols = np.nonzero(self.codes != NONE)
        columns = {
            "block_row": rows,
            "block_col": cols,
            "row_px": rows * self.size_px + self.origin_px,
            "col_px": cols * self.size_px + self.origin_px,
            "size_px": np.full(len(rows), self.size_px),
            "split": [SPLITS[code] for code in self.codes[rows, cols]],
        }
        meta = {
            "shape": list(self.codes.shape),
            "size_px": self.size_px,
            "origin_px": self.origin_px,
            "buffer_px": list(self.buffer_px),
        }
        content = pa.table(columns).replace_schema_metadata({"blocks": json.dumps(meta)})
        with atomic_file(table) as temporary:
            pq.write_table(content, temporary)
        write_json(table.with_suffix(".json"), {**facts, **meta})

    @staticmethod
    def load(table: Path) -> Blocks:
        """Read what `save` wrote."""
        try:
            columns, metadata = read_columns(table)
            meta = json.loads(metadata[b"blocks"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"the split {table} cannot be read ({error}); delete it and build it again") from None
        codes = np.full(meta["shape"], NONE, np.uint8)
        split = np.array([SPLITS.index(name) for name in columns["split"]], np.uint8)
        codes[columns["block_row"], columns["block_col"]] = split
        return Blocks(codes, meta["size_px"], meta["origin_px"], (meta["buffer_px"][0], meta["buffer_px"][1]))


def split_of_chips(blocks: Blocks, row_px: Array, col_px: Array, px: int) -> Array:
    """The split of each chip, uint8 [N]: 0 train, 1 val, 2 test, 255 dropped.

    A chip that lies on blocks of several splits (or of none) is dropped, and so is a training chip nearer than the
    buffer to a validation or test block.
    """
    rows, cols = blocks.codes.shape
    size = blocks.size_px
    r0, c0 = (row_px - blocks.origin_px), (col_px - blocks.origin_px)
    first_row, last_row = r0 // size, (r0 + px - 1) // size
    first_col, last_col = c0 // size, (c0 + px - 1) // size
    inside = (first_row >= 0) & (first_col >= 0) & (last_row < rows) & (last_col < cols)
    area = (last_row - first_row + 1) * (last_col - first_col + 1)
    result = np.full(len(row_px), NONE, np.uint8)
    for code in range(3):
        table = np.pad(np.cumsum(np.cumsum(blocks.codes == code, axis=0), axis=1), ((1, 0), (1, 0)))
        a, b = np.clip(first_row, 0, rows), np.clip(last_row + 1, 0, rows)
        c, d = np.clip(first_col, 0, cols), np.clip(last_col + 1, 0, cols)
        covered = table[b, d] - table[a, d] - table[b, c] + table[a, c]
        result[inside & (covered == area)] = code
    down, across = blocks.buffer_px
    if down <= 0 and across <= 0:
        return result
    held = (blocks.codes == 1) | (blocks.codes == 2)
    train = np.flatnonzero(result == 0)
    reach_row, reach_col = blocks.reach
    span_row = int((last_row - first_row).max(initial=0)) + reach_row
    span_col = int((last_col - first_col).max(initial=0)) + reach_col
    for i in range(-reach_row, span_row + 1):
        for j in range(-reach_col, span_col + 1):
            br, bc = first_row[train] + i, first_col[train] + j
            ok = (br >= 0) & (bc >= 0) & (br < rows) & (bc < cols)
            ok[ok] = held[br[ok], bc[ok]]
            gap_r = np.maximum(np.maximum(br * size - (r0[train] + px), r0[train] - (br + 1) * size), 0)
            gap_c = np.maximum(np.maximum(bc * size - (c0[train] + px), c0[train] - (bc + 1) * size), 0)
            close = np.hypot(gap_r / down, gap_c / across) < 1 - 1e-9
            result[train[ok & close]] = NONE
    return result
