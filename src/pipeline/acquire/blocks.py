"""Blocks of one remote file in an SQLite file: survives kills, serves re-runs and parallel jobs, mixes no versions."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.command import Log
from pipeline.errors import DownloadError

BLOCK_BYTES = 128 << 10
FORMAT = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS head (
  id INTEGER PRIMARY KEY CHECK (id = 0),
  place TEXT NOT NULL, size INTEGER NOT NULL, validator TEXT NOT NULL, fetched TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS blocks (number INTEGER PRIMARY KEY, crc32 INTEGER NOT NULL, body BLOB NOT NULL);
"""
SAME = "size = ? AND validator = ?"


@dataclass(frozen=True)
class Head:
    """One version of a file: its size in bytes, its ETag or date ("" for none), and when it was asked for (UTC)."""

    size: int
    validator: str
    fetched: str


class BlockCache:
    """The blocks of `BLOCK_BYTES` of one remote file, all of one version; a context manager.

    Any number of processes may have it open. A file of another version takes the place of the old one with all its
    blocks. A damaged database is moved aside (``.damaged``), a damaged block is dropped; each in one line.
    """

    def __init__(self, folder: Path, place: str, log: Log) -> None:
        """Name the folder, and the file as it may be stored (no secret), whose hash is the database's name."""
        name = hashlib.sha256(f"{FORMAT} {BLOCK_BYTES} {place}".encode()).hexdigest()[:10]
        self.path = Path(folder) / f"{name}.sqlite"
        self._place, self._log = place, log
        self._lock = threading.Lock()

    def __enter__(self) -> BlockCache:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DownloadError(f"{self.path.parent}: the cache cannot be written ({error.strerror})") from None
        with self._errors():
            try:
                self._db = _connect(self.path)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                aside = self.path.with_suffix(".damaged")
                self.path.replace(aside)
                for suffix in ("-wal", "-shm"):
                    self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
                self._log(f"{self.path}: the cache is damaged ({error}); moved to {aside}, it is fetched again")
                self._db = _connect(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def head(self) -> Head | None:
        """The version whose blocks are here; None for none."""
        with self._lock, self._errors():
            row = self._db.execute("SELECT size, validator, fetched FROM head").fetchone()
        return None if row is None else Head(*row)

    def put(self, size: int, validator: str, blocks: Mapping[int, bytes]) -> None:
        """Store blocks of a version at once; blocks of another one are dropped."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [(number, zlib.crc32(body), body) for number, body in blocks.items()]
        with self._lock, self._errors(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            if self._db.execute("SELECT size, validator FROM head").fetchone() != (size, validator):
                self._db.execute("DELETE FROM blocks")
                self._db.execute(
                    "INSERT OR REPLACE INTO head VALUES (0, ?, ?, ?, ?)", (self._place, size, validator, now)
                )
            self._db.executemany("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?)", rows)

    def date_today(self) -> None:
        """Note that the server still has this version."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._lock, self._errors(), self._db:
            self._db.execute("UPDATE head SET fetched = ?", (now,))

    def drop(self, head: Head) -> None:
        """Forget the version `head`, if it is the one that is here."""
        with self._lock, self._errors(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            if self._db.execute(f"SELECT 1 FROM head WHERE {SAME}", (head.size, head.validator)).fetchone():
                self._db.execute("DELETE FROM blocks")
                self._db.execute("DELETE FROM head")

    def get(self, head: Head, number: int) -> bytes | None:
        """One block of the version `head`, or None."""
        query = f"SELECT crc32, body FROM blocks, head WHERE number = ? AND {SAME}"
        with self._lock, self._errors():
            row = self._db.execute(query, (number, head.size, head.validator)).fetchone()
            if row is None or zlib.crc32(row[1]) == row[0]:
                return None if row is None else bytes(row[1])
            self._log(f"{self.path}: block {number} is damaged; it is fetched again")
            with self._db:
                self._db.execute("DELETE FROM blocks WHERE number = ?", (number,))
        return None

    def missing(self, head: Head, numbers: Sequence[int]) -> list[int]:
        """Which of the blocks of the version `head` are not here, in order."""
        if not numbers:
            return []
        query = f"SELECT number FROM blocks, head WHERE number BETWEEN ? AND ? AND {SAME}"
        with self._lock, self._errors():
            found = self._db.execute(query, (min(numbers), max(numbers), head.size, head.validator))
            there = {row[0] for row in found}
        return sorted(set(numbers) - there)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorname", "")
            advice = "if it stays so, delete it"
            if code.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
                advice = "is the disk full? make room and run again; what was fetched is kept"
            elif code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
                advice = "make the file and its folder writable"
            raise DownloadError(f"{self.path}: the cache of fetched files failed ({error}); {advice}") from None


def _connect(path: Path) -> Any:
    db = sqlite3.connect(path, timeout=60.0, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.executescript(SCHEMA)
        db.execute("SELECT place, size, validator, fetched FROM head").fetchone()
        db.execute("SELECT number, crc32, length(body) FROM blocks LIMIT 1").fetchone()
    except BaseException:
        db.close()
        raise
    return db
