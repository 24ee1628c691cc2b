"""One download at a time asks a host, so that connections and rate hold for all shards, sources and regions."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.command import Log
from pipeline.errors import DownloadError


def host_of(url: str) -> str:
    """Host and port of an address or template, as a file name; ``{s}`` stays one host for all its values."""
    netloc = url.partition("://")[2].partition("/")[0].partition("?")[0].rpartition("@")[2].lower()
    return re.sub(r"[^a-z0-9.\-]", "_", netloc).strip(".") or "_"


@contextmanager
def holding(lock: Path, waiting: str, log: Log) -> Iterator[None]:
    """Hold the lock file `lock`; while another process holds it, say `waiting` in one line and wait.

    DownloadError when the file cannot be made.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = open(lock, "a")  # noqa: SIM115 - closed below
    except OSError as error:
        raise DownloadError(
            f"{lock}: the cache cannot be written ({error.strerror}); make its folder writable"
        ) from None
    with handle:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            log(waiting)
            fcntl.lockf(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def turn(cache: Path, url: str, label: str, log: Log) -> Iterator[Path]:
    """Ask the host of `url` alone among all processes that share `cache`; yields the note for `Gate`.

    The lock is ``<cache>/hosts/<host>.lock``; beside it the note keeps until when the server wants to be left alone.
    """
    host = host_of(url)
    lock = Path(cache) / "hosts" / f"{host}.lock"
    with holding(lock, f"{label}: waiting for another download from {host}; one at a time asks it", log):
        yield lock.with_suffix(".until")


class Gate:
    """When the next request may leave: a token bucket, and not before the server's Retry-After.

    The bucket holds `burst` requests and starts empty, so that in any `t` seconds at most ``burst + rate_per_s · t``
    requests leave, over any number of downloads that take turns.
    """

    def __init__(self, rate_per_s: float | None = None, burst: int = 1, note: Path | None = None) -> None:
        """Take the rate (None for none) and the file that keeps a Retry-After for whoever comes next."""
        self._every_s = 0.0 if rate_per_s is None else 1.0 / rate_per_s
        self._slack_s = self._every_s * (max(1, min(burst, int(rate_per_s or 1))) - 1)
        self._note = note
        self._next = time.monotonic() + self._every_s
        self._resume_at = time.monotonic() + _left_s(note)

    async def wait(self) -> None:
        """Return when a request may leave."""
        while (pause := self._resume_at - time.monotonic()) > 0:
            await asyncio.sleep(pause * random.uniform(1.0, 1.1))
        if self._every_s:
            now = time.monotonic()
            at = max(self._next, now - self._slack_s)
            self._next = at + self._every_s
            await asyncio.sleep(max(0.0, at - now))

    def hold_back(self, seconds: float) -> None:
        """Let no request leave for so many seconds; also those of the next download from this host."""
        self._resume_at = max(self._resume_at, time.monotonic() + seconds)
        if self._note is not None:
            with contextlib.suppress(OSError):  # a courtesy that a full disk must not turn into an error
                self._note.write_text(f"{time.time() + self._resume_at - time.monotonic():.3f}\n")


MAX_NOTE_S = 600.0  # a note further ahead than that is a clock that was set back


def _left_s(note: Path | None) -> float:
    try:
        left = float(note.read_text()) - time.time() if note is not None else 0.0
    except (OSError, ValueError):
        return 0.0
    return left if 0.0 < left <= MAX_NOTE_S else 0.0
