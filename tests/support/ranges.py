"""A server of files that knows byte ranges, and can be told to misbehave."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.support.loopback import serving

FAULTS = ("429", "500", "reset", "truncated")


@dataclass
class Asked:
    """One request: method, path with query, its headers by lower-case name, its body, and what was answered."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""
    status: int = 0
    sent: int = 0


@dataclass
class RangeServer:
    """Answers `files` (path → bytes, or a file on the disk). `fault` (request, its number) → what goes wrong, or None.

    `respond` (request) → (status, headers, body) or None comes first: whatever else a test wants.
    """

    files: dict[str, bytes | Path] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    fault: Callable[[Asked, int], str | None] = lambda asked, number: None
    respond: Callable[[Asked], tuple[int, dict[str, str], bytes] | None] = lambda asked: None
    asked: list[Asked] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    port: int = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def sent(self) -> int:
        """Bytes of all bodies."""
        return sum(asked.sent for asked in self.asked)

    @contextmanager
    def running(self) -> Iterator[RangeServer]:
        with serving(self.answer) as self.port:
            yield self

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        asked = Asked(handler.command, handler.path, headers, handler.rfile.read(int(headers.get("content-length", 0))))
        with self.lock:
            number = len(self.asked)
            self.asked.append(asked)
        fault = self.fault(asked, number)
        if fault in ("429", "500"):
            self.send(handler, asked, int(fault), {"Retry-After": "0"} if fault == "429" else {}, b"broken")
            return
        if fault == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True
            return
        status, more, body = self.respond(asked) or self.found(asked)
        self.send(handler, asked, status, more, body, cut=fault == "truncated")

    def found(self, asked: Asked) -> tuple[int, dict[str, str], bytes]:
        path = asked.path.partition("?")[0]
        if path not in self.files:
            return 404, {}, b"no"
        source = self.files[path]
        size = source.stat().st_size if isinstance(source, Path) else len(source)
        etag = self.etags.get(path, f'"{size}"')
        headers = {"ETag": etag} if etag else {}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("range", ""))
        if not self.ranges or wanted is None or asked.headers.get("if-range", etag) != etag:
            return 200, headers, self.part(source, 0, size)
        first, last = int(wanted[1]), min(int(wanted[2] or size - 1), size - 1)
        if first >= size:
            return 416, headers | {"Content-Range": f"bytes */{size}"}, b""
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return 206, headers, self.part(source, first, last + 1 - first)

    @staticmethod
    def part(source: bytes | Path, first: int, count: int) -> bytes:
        if isinstance(source, bytes):
            return source[first : first + count]
        with open(source, "rb") as handle:
            handle.seek(first)
            return handle.read(count)

    @staticmethod
    def send(
        handler: BaseHTTPRequestHandler,
        asked: Asked,
        status: int,
        headers: dict[str, str],
        body: bytes,
        cut: bool = False,
    ) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if cut:
            body, handler.close_connection = body[: len(body) // 2], True
        asked.status, asked.sent = status, len(body)
        handler.wfile.write(body)
