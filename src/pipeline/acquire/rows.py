"""What a shard was made of: one line per tile or file, beside the shard's manifest."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TypeVar

from pipeline.files import atomic_file


@dataclass(frozen=True)
class TileRow:
    """One tile.

    Attributes:
        zoom, x, y: its place in the source's lattice of tiles.
        status: HTTP status of the answer.
        reason: why the tile has no imagery; empty where it has.
        bytes, sha256: size and hash of the body.
        date: day (YYYY-MM-DD, UTC) on which it was fetched, or last found unchanged at the server.
        etag: the server's name of this version; empty where it gave none.
    """

    zoom: int
    x: int
    y: int
    status: int
    reason: str
    bytes: int
    sha256: str
    date: str
    etag: str


@dataclass(frozen=True)
class FileRow:
    """One file of a source that is read by window; fields as for tiles, empty where nothing is known.

    Attributes:
        file: path, or url without anything secret.
        status: HTTP status, None for a local file.
    """

    file: str
    status: int | None = None
    reason: str = ""
    bytes: int | None = None
    sha256: str = ""
    date: str = ""
    etag: str = ""


Row = TypeVar("Row", TileRow, FileRow)


def write_rows(path: Path, kind: type[Row], rows: Iterable[Row]) -> None:
    """Write rows of one kind as CSV with a header, sorted, atomically; equal rows give equal bytes."""
    ordered = sorted(rows, key=_place)
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow([field.name for field in fields(kind)])
        writer.writerows(astuple(row) for row in ordered)


def _place(row: TileRow | FileRow) -> tuple[int, int, int, str]:
    return (row.zoom, row.x, row.y, "") if isinstance(row, TileRow) else (0, 0, 0, row.file)
