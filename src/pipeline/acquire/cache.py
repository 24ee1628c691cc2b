"""Fetched tiles in one SQLite file per shard: survives kills, is shared by re-runs, never holds a secret."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.acquire.hosts import holding
from pipeline.command import Log
from pipeline.errors import DownloadError

Tile = tuple[int, int, int]  # zoom, x, y

BATCH = 16  # tiles between commits, at most: what a kill can cost
BATCH_S = 0.5  # seconds between commits, at most, while tiles come in
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
LATER = {"modified": "TEXT NOT NULL DEFAULT ''", "reason": "TEXT NOT NULL DEFAULT ''", "colour": "TEXT"}  # columns
PUT = "INSERT OR REPLACE INTO tiles VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def cache_path(cache: Path, provider: str, template: str, shard: str, key: str = "") -> Path:
    """``<cache>/tiles/<provider>/<10 hex digits of the template's hash>/<shard>.sqlite``.

    Another url is another folder: an edit of the config throws nothing away. `template` is the url as it stands in the
    config, ``${NAME}`` unexpanded; `key` tells lattices of one url apart.
    """
    text = f"{FORMAT} {template}" + (f" {key}" if key else "")
    return Path(cache) / "tiles" / provider / hashlib.sha256(text.encode()).hexdigest()[:10] / f"{shard}.sqlite"


@dataclass(frozen=True)
class Answer:
    """One answer of the server.

    Attributes:
        status: 200 with a body, or one that means missing (404, 410, 204) with an empty one.
        body, content_type: as sent.
        etag, modified: the headers by which the server tells whether it has another version by now.
        reason: why a body of status 200 is no imagery, where a header of the answer said so.
        colour: six hex digits of a tile of one colour, "transparent", "" for others; None where nobody looked.
    """

    status: int
    body: bytes = b""
    content_type: str = ""
    etag: str = ""
    modified: str = ""
    reason: str = ""
    colour: str | None = ""


@dataclass(frozen=True)
class Entry:
    """What the cache knows of a tile, its body aside; `fetched` is an ISO time (UTC), `bytes` and `sha256` the body's.

    The other fields are those of `Answer`.
    """

    status: int
    bytes: int
    sha256: str
    etag: str
    modified: str
    reason: str
    colour: str | None
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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack, self._errors():
            try:
                self._commit()
            except sqlite3.Error:
                if kind is None:  # else the first error is the one to tell
                    raise
            finally:
                self._db.close()

    def _open(self) -> None:
        try:
            self._db = _connect(self.path)
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorname", "SQLITE_ERROR") != "SQLITE_ERROR":
                raise _failed(self.path, error) from None
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

    def entries(self) -> dict[Tile, Entry]:
        """All tiles of the cache."""
        query = "SELECT z, x, y, status, length(body), sha256, etag, modified, reason, colour, fetched FROM tiles"
        with self._errors():
            return {(row[0], row[1], row[2]): Entry(row[3], row[4] or 0, *row[5:]) for row in self._db.execute(query)}

    def body(self, tile: Tile) -> bytes:
        """The body of a tile that is in the cache; DownloadError when its bytes differ from their hash."""
        with self._errors():
            row = self._db.execute("SELECT body, sha256 FROM tiles WHERE z = ? AND x = ? AND y = ?", tile).fetchone()
        body = row[0] or b""
        if hashlib.sha256(body).hexdigest() != row[1]:
            raise DownloadError(
                f"{self.path}: tile {'/'.join(map(str, tile))} is damaged; delete the file and run again"
            )
        return body

    def put(self, tile: Tile, answer: Answer) -> None:
        """Store one answer; committed with its batch."""
        found = (answer.status, answer.body, answer.content_type, hashlib.sha256(answer.body).hexdigest())
        self._change(PUT, (*tile, *found, answer.etag, _now(), answer.modified, answer.reason, answer.colour))

    def renew(self, tile: Tile) -> None:
        """Date a tile today, since the server has no other version; committed with its batch."""
        self._change("UPDATE tiles SET fetched = ? WHERE z = ? AND x = ? AND y = ?", (_now(), *tile))

    def _change(self, statement: str, values: tuple[Any, ...]) -> None:
        with self._errors():
            self._db.execute(statement, values)
            self._pending += 1
            if self._pending >= BATCH or time.monotonic() - self._committed >= BATCH_S:
                self._commit()

    def _commit(self) -> None:
        self._db.commit()
        self._pending, self._committed = 0, time.monotonic()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _failed(self.path, error) from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _failed(path: Path, error: sqlite3.Error) -> DownloadError:
    """What went wrong with the file, and the way out, in one line."""
    code = getattr(error, "sqlite_errorname", "")
    if code.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return DownloadError(
            f"{path}: the tile cache cannot be written ({error}): is the disk full? make room and run again; what was "
            "stored is kept"
        )
    if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return DownloadError(
            f"{path}: the tile cache cannot be written ({error}); make the file and its folder writable"
        )
    return DownloadError(f"{path}: the tile cache failed ({error}); if it stays so, delete it")


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
        there = {row[1] for row in db.execute("PRAGMA table_info(tiles)")}
        for column, kind in LATER.items():
            if column not in there:
                db.execute(f"ALTER TABLE tiles ADD COLUMN {column} {kind}")
    except BaseException:
        db.close()
        raise
    return db
