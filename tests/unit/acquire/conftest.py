"""A tile server with faults on demand, and tiles of known pixels."""

from __future__ import annotations

import functools
import hashlib
import io
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.command import Log
from tests.support.loopback import serving

FAULTS = ("429", "429_date", "500", "reset", "truncated", "truncated_close", "slow", "drip", "html", "empty")


def noise(tile: tuple[int, int, int], bands: int = 3, px: int = 256) -> np.ndarray:
    """Random pixels [px, px, bands], a function of the tile alone."""
    return np.random.default_rng(tile).integers(1, 256, (px, px, bands), dtype=np.uint8)


def encode(pixels: np.ndarray, form: str = "PNG", mode: str | None = None) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(out, form, **({"compress_level": 1} if form == "PNG" else {}))
    return out.getvalue()


def one_in_five(tile: tuple[int, int, int], attempt: int) -> str | None:
    """A fault for one request in five, by tile and attempt alone; the server takes the kinds in turn."""
    value = int.from_bytes(hashlib.sha256(f"{tile} {attempt}".encode()).digest()[:4])
    return "next" if value % 5 == 0 else None


@functools.cache
def encoded_noise(tile: tuple[int, int, int], px: int) -> bytes:
    return encode(noise(tile, px=px))


class TileServer:
    """Answers z/x/y from a dict; a missing tile is a 404. Everything asked for is written down."""

    def __init__(self) -> None:
        self.tiles: dict[tuple[int, int, int], bytes] = {}
        self.fault: Callable[[tuple[int, int, int], int], str | None] = lambda tile, attempt: None
        self.statuses: dict[tuple[int, int, int], int] = {}
        self.headers: dict[tuple[int, int, int], dict[str, str]] = {}  # more of them, by tile
        self.seen: list[dict[str, str]] = []  # the headers of every request, names in lower case
        self.delay_s = 0.0
        self.asked: list[tuple[int, int, int]] = []
        self.paths: list[str] = []
        self.times: list[float] = []
        self.faults: Counter[str] = Counter()
        self.now = self.most_at_once = 0
        self.lock = threading.Lock()

    def url(self, suffix: str = ".png") -> str:
        return f"http://127.0.0.1:{self.port}/{{z}}/{{x}}/{{y}}{suffix}"

    def fill(self, zoom: int, xs: range, ys: range, px: int = 256) -> None:
        self.tiles |= {(zoom, x, y): encoded_noise((zoom, x, y), px) for x in xs for y in ys}

    @contextmanager
    def running(self) -> Iterator[TileServer]:
        with serving(self.answer) as self.port:
            yield self

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        z, x, y = handler.path.partition("?")[0].strip("/").partition(".")[0].split("/")
        tile = (int(z), int(x), int(y))
        with self.lock:
            self.now += 1
            self.most_at_once = max(self.most_at_once, self.now)
            attempt = self.asked.count(tile)
            self.asked.append(tile)
            self.paths.append(handler.path)
            self.times.append(time.monotonic())
            self.seen.append({name.lower(): value for name, value in handler.headers.items()})
        try:
            time.sleep(self.delay_s)
            fault = self.fault(tile, attempt)
            body = self.tiles.get(tile, b"")
            if fault is not None:
                with self.lock:
                    fault = FAULTS[self.faults.total() % len(FAULTS)] if fault == "next" else fault
                    self.faults[fault] += 1
                self.misbehave(handler, fault, body)
                return
            etag = f'"{handler.path} {hashlib.sha256(body).hexdigest()[:8]}"'
            same = etag == handler.headers.get("If-None-Match")
            status = self.statuses.get(tile, 404 if tile not in self.tiles else 304 if same else 200)
            headers = {"Content-Type": "image/png", "ETag": etag, **self.headers.get(tile, {})}
            self.send(handler, status, b"" if status == 304 else body if tile in self.tiles else b"", headers)
        finally:
            with self.lock:
                self.now -= 1

    def misbehave(self, handler: BaseHTTPRequestHandler, fault: str, body: bytes) -> None:
        if fault == "429":
            self.send(handler, 429, b"slow down", {"Retry-After": "0"})
        elif fault == "429_date":
            self.send(handler, 429, b"slow down", {"Retry-After": formatdate(time.time(), usegmt=True)})
        elif fault == "html":
            self.send(handler, 200, b"<html>come back later</html>", {"Content-Type": "text/html"})
        elif fault == "empty":
            self.send(handler, 200, b"", {})
        elif fault == "slow":
            time.sleep(2)
        elif fault == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
        elif fault in ("truncated", "drip", "truncated_close"):
            self.cut_off(handler, fault, body)
        else:
            self.send(handler, int(fault), b"broken", {})
        if fault not in ("429", "429_date", "html", "empty"):
            handler.close_connection = True

    def cut_off(self, handler: BaseHTTPRequestHandler, fault: str, body: bytes) -> None:
        """Half a body: with a length (the client sees that), without one (only the image tells), or byte by byte."""
        handler.send_response(200)
        if fault == "truncated_close":
            handler.send_header("Connection", "close")
        else:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if fault == "drip":
            for i in range(40):
                handler.wfile.write(body[i : i + 1])
                handler.wfile.flush()
                time.sleep(0.05)
        else:
            handler.wfile.write(body[: len(body) // 2])

    @staticmethod
    def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if status not in (204, 304):
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body if status not in (204, 304) else b"")


@pytest.fixture
def server() -> Iterator[TileServer]:
    """A running tile server without tiles."""
    random.seed(0)
    with TileServer().running() as running:
        yield running


class Lines(Log):
    """A log whose lines a test can read."""

    def __init__(self, every_s: float = 10.0) -> None:
        super().__init__(None, every_s)
        self.lines: list[str] = []

    def __call__(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def log() -> Lines:
    return Lines()


@pytest.fixture
def tiles() -> dict[str, Callable[..., object]]:
    """Makers of tiles of known pixels."""
    return {"noise": noise, "encode": encode, "one_in_five": one_in_five}


def all_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.fixture
def everything_below() -> Callable[[Path], bytes]:
    """The bytes of all files below a folder."""
    return all_bytes
