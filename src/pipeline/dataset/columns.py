"""A Parquet file's columns as NumPy arrays, without pandas. Needs numpy and pyarrow alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Array = np.ndarray[Any, np.dtype[Any]]


def read_columns(path: Path) -> tuple[dict[str, Array], dict[bytes, bytes]]:
    """Columns by name, [rows] each, and the file's own metadata: numbers in their dtype, text and others as objects.

    pyarrow's own ways to NumPy and `pyarrow.parquet.read_table` import pandas wherever it is installed, which takes
    longer than all else at the start of a job.
    """
    with pq.ParquetFile(path) as file:
        table = file.read()
    return {name: _array(table.column(name)) for name in table.column_names}, dict(table.schema.metadata or {})


def _array(column: pa.ChunkedArray) -> Array:
    numbers = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if numbers and not column.null_count:
        return np.from_dlpack(column.combine_chunks()).copy()
    found = np.empty(len(column), object)
    found[:] = column.to_pylist()
    return found
