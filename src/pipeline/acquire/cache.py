"""Fetched tiles in one SQLite file per shard: survives kills, is shared by re-runs, never holds a secret."""

from __future__ import annotations

import fcntl
import hashlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.command import Log
from pipeline.errors import DownloadError

Tile = tuple[int, int, int]  # zoom, x, y

BATCH = 64  # tiles between commits, at most
BATCH_S = 1.0  # seconds between commits, at most
FORMAT = 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tiles (
  z INTEGER NOT NULL, x INTEGER NOT NULL, y INTEGER NOT NULL,
  status INTEGER NOT NULL, body BLOB, content_type TEXT NOT NULL, sha256 TEXT NOT NULL, etag TEXT NOT NULL,
  fetched TEXT NOT NULL,
  PRIMARY KEY (z, x, y)
);
"""


def cache_path(cache: Path, provider: str, template: str, shard: str) -> Path:
    """``<cache>/tiles/<provider>/<10 hex digits of the template's hash>/<shard>.sqlite``.

    Another url is another folder: an edit of the config throws nothing away. `template` is the url as it stands in the
    config, ``${NAME}`` unexpanded.
    """
    digest = hashlib.sha256(f"{FORMAT} {template}".encode()).hexdigest()[:10]
    return Path(cache) / "tiles" / provider / digest / f"{shard}.sqlite"


@contextmanager
def holding(lock: Path, waiting: str, log: Log) -> Iterator[None]:
    """Hold the lock file `lock`; while another process holds it, say `waiting` in one line and wait."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as handle:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            log(waiting)
            fcntl.lockf(handle, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class CachedTile:
    """One answer of the server: 200 with a body, or a status that means missing (404, 410, 204) with an empty one."""

    status: int
    body: bytes
    content_type: str
    sha256: str
    etag: str
    fetched: str


class TileCache:
    """The tiles of one shard; a context manager that holds a lock on the file, so that two downloads take turns.

    A tile is safe from a kill once its batch is committed: after `BATCH` tiles or `BATCH_S` seconds. A damaged file is
    moved aside (``.damaged``), and tiles read from local `files` that changed since are dropped; each is said in one
    line. Nothing else is ever dropped.
    """

    def __init__(self, path: Path, template: str, log: Log, *, files: str = "") -> None:
        """Name the file, and the URL template it is for, which is stored for the reader and must hold no secret.

        `files` is a fingerprint of the local files that the tiles are read from, empty for a remote server.
        """
        self.path = Path(path)
        self._meta = {"format": str(FORMAT), "template": template, "files": files}
        self._log = log
        self._stack = ExitStack()
        self._pending = 0
        self._committed = 0.0

    def __enter__(self) -> TileCache:
        waiting = f"waiting for another download that uses {self.path}"
        with ExitStack() as stack:
            stack.enter_context(holding(self.path.with_suffix(".lock"), waiting, self._log))
            self._open()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack, self._errors():
            self._commit()
            self._db.close()

    def _open(self) -> None:
        try:
            self._db = _connect(self.path)
        except sqlite3.OperationalError as error:
            raise DownloadError(f"{self.path}: the tile cache cannot be opened ({error})") from None
        except sqlite3.DatabaseError as error:
            aside = self.path.with_suffix(".damaged")
            self.path.replace(aside)
            for suffix in ("-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            self._log(f"{self.path}: the tile cache is damaged ({error}); moved to {aside}, tiles are fetched again")
            with self._errors():
                self._db = _connect(self.path)
        self._committed = time.monotonic()
        with self._errors():
            self._check_files()

    def _check_files(self) -> None:
        found = dict(self._db.execute("SELECT key, value FROM meta"))
        if found and found.get("files") != self._meta["files"] and self._meta["files"]:
            self._log(f"{self.path}: the local files that it was filled from changed; they are read again")
            self._db.execute("DELETE FROM tiles")
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", self._meta.items())
        self._commit()

    def statuses(self) -> dict[Tile, int]:
        """The status of every tile in the cache."""
        with self._errors():
            return {(z, x, y): status for z, x, y, status in self._db.execute("SELECT z, x, y, status FROM tiles")}

    def get(self, tile: Tile) -> CachedTile | None:
        """The tile's answer, or None. DownloadError when its bytes differ from their hash."""
        with self._errors():
            row = self._db.execute(
                "SELECT status, body, content_type, sha256, etag, fetched FROM tiles WHERE z = ? AND x = ? AND y = ?",
                tile,
            ).fetchone()
        if row is None:
            return None
        found = CachedTile(row[0], row[1] or b"", *row[2:])
        if hashlib.sha256(found.body).hexdigest() != found.sha256:
            raise DownloadError(
                f"{self.path}: tile {'/'.join(map(str, tile))} is damaged; delete the file and run again"
            )
        return found

    def put(self, tile: Tile, status: int, body: bytes, content_type: str = "", etag: str = "") -> None:
        """Store one answer; committed with its batch."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        row = (*tile, status, body, content_type, hashlib.sha256(body).hexdigest(), etag, now)
        with self._errors():
            self._db.execute("INSERT OR REPLACE INTO tiles VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            self._pending += 1
            if self._pending >= BATCH or time.monotonic() - self._committed >= BATCH_S:
                self._commit()

    def dates(self) -> tuple[str, str] | None:
        """First and last day (YYYY-MM-DD, UTC) on which the tiles were fetched; None for an empty cache."""
        with self._errors():
            first, last = self._db.execute("SELECT min(fetched), max(fetched) FROM tiles").fetchone()
        return None if first is None else (first[:10], last[:10])

    def _commit(self) -> None:
        self._db.commit()
        self._pending, self._committed = 0, time.monotonic()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise DownloadError(f"{self.path}: the tile cache failed ({error}); if it stays so, delete it") from None


def _connect(path: Path) -> Any:
    """Open the database, create its tables and check every page; sqlite3.DatabaseError when it is damaged."""
    db = sqlite3.connect(path, timeout=60.0)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(" ".join(found.split()))
        db.executescript(SCHEMA)
        db.execute("SELECT z, x, y, status, body, content_type, sha256, etag, fetched FROM tiles LIMIT 1")
    except BaseException:
        db.close()
        raise
    return db
