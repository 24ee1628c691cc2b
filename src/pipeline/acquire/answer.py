"""What a server answered, and what its headers mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from pipeline.errors import DownloadError


class Again(Exception):
    """One try that failed and is worth another; `wait_s` is the server's own wish. A `check` may raise it."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait_s = wait_s


class Unreached(Again):
    """There was no connection to the server."""


class NotThere(DownloadError):
    """The server has no such file (404, 410)."""


@dataclass(frozen=True)
class Answer:
    """What a server answered: status, body, and headers by lower-case name, free of secrets."""

    status: int
    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True)
class Downloaded:
    """A file on the disk: its size, its sha256, and the ETag or date under which the server has it ("" for none)."""

    size_bytes: int
    sha256: str
    validator: str


Check = Callable[[Answer], None]


def validator_of(headers: Mapping[str, str]) -> str:
    """What names this version of a file in If-Range: its strong ETag, else its date, else ""."""
    etag = headers.get("etag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("last-modified", "")


def content_range(value: str) -> tuple[int, int | None] | None:
    """(first byte, size of the whole file or None) of a Content-Range header; None when it is unreadable."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", value.strip())
    return None if match is None else (int(match[1]), None if match[2] == "*" else int(match[2]))


def origin(address: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of a url: which server it asks."""
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        port = None
    return parts.scheme, parts.hostname or "", port or {"https": 443, "http": 80}.get(parts.scheme)
