"""Columns of Parquet files: as pyarrow reads them, and without pandas."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.columns import read_columns


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_columns_are_those_of_pyarrow(rows: int, tmp_path: Path) -> None:
    numbers = np.arange(rows)
    given = {
        "whole": numbers,
        "byte": numbers.astype(np.uint8),
        "real": numbers / 3,
        "name": [f"c{k}" for k in range(rows)],
        "gaps": [None if k % 2 else float(k) for k in range(rows)],
    }
    table = pa.table(given).replace_schema_metadata({"key": "value"})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    columns, metadata = read_columns(tmp_path / "a.parquet")
    assert metadata == {b"key": b"value"} and list(columns) == list(given)
    for name in ("whole", "byte", "real", "name"):
        wanted = table.column(name).to_numpy()
        assert columns[name].dtype == wanted.dtype and np.array_equal(columns[name], wanted)
    assert columns["gaps"].tolist() == given["gaps"]
    columns["whole"] += 1  # one's own copy, to be written to


def test_pandas_is_not_imported(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a", "b"], "px": [1, 2]}), tmp_path / "a.parquet")
    program = (
        "import sys; from pathlib import Path; from pipeline.dataset.columns import read_columns; "
        f"read_columns(Path({str(tmp_path / 'a.parquet')!r})); print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
