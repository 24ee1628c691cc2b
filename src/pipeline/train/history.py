"""The history of a run as a file: a row per epoch."""

from __future__ import annotations

import csv
from pathlib import Path

from pipeline.files import atomic_file

Row = dict[str, float]


def write_history(path: Path, history: list[Row]) -> None:
    """Write the rows as CSV, atomically; a column that a row lacks is empty there, no row gives an empty file."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    with atomic_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        if columns:
            writer = csv.DictWriter(handle, fieldnames=columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(history)
