"""Grids, and a WMS and WMTS server that renders a pattern of coordinates, knowing nothing of the code under test."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from pipeline.command import Log
from pipeline.grid import Grid

NORTH_FIRST = {"EPSG:4326", "EPSG:31468", "EPSG:2180"}  # of WMS 1.3.0, written by hand from the EPSG registry
WORLD_SCALE = 559082264.0287178  # ScaleDenominator of GoogleMapsCompatible's matrix 0 (OGC 07-057r7, table E.4)
WORLD_CORNER = 20037508.3427892
UTM = {"origin": (280000.0, 6150000.0), "res": {"utm_7": 0.4, "utm_8": 0.2}}  # a national tile matrix set


def pattern(x: np.ndarray, y: np.ndarray, res: float) -> np.ndarray:
    """Colours [h, w, 3] of the points (x [w], y [h]): a pixel's column and row from the CRS's origin on."""
    col, row = np.floor(x / res).astype(np.int64), np.floor(y / res).astype(np.int64)
    red = np.broadcast_to(col % 251, (len(y), len(x)))
    green = np.broadcast_to((row % 241)[:, None], (len(y), len(x)))
    return np.stack([red, green, (red * 7 + green * 13) % 256], axis=-1).astype(np.uint8)


class Service:
    """What is asked for, and how it is answered."""

    def __init__(self) -> None:
        self.res = 1.0
        self.paths: list[str] = []
        self.refusal = b""

    def render(self, left: float, bottom: float, right: float, top: float, px: int) -> bytes:
        x = left + (np.arange(px) + 0.5) * (right - left) / px
        y = top - (np.arange(px) + 0.5) * (top - bottom) / px
        out = io.BytesIO()
        Image.fromarray(pattern(x, y, self.res)).save(out, "PNG", compress_level=1)
        return out.getvalue()

    def wms(self, query: dict[str, str]) -> bytes:
        a, b, c, d = map(float, query["BBOX"].split(","))
        crs = query["SRS"] if query["VERSION"] == "1.1.1" else query["CRS"]
        if query["VERSION"] == "1.3.0" and crs in NORTH_FIRST:
            a, b, c, d = b, a, d, c
        assert query["WIDTH"] == query["HEIGHT"] and c > a and d > b
        return self.render(a, b, c, d, int(query["WIDTH"]))

    def wmts(self, matrix: str, row: int, col: int) -> bytes:
        if matrix in UTM["res"]:
            left, top, res = *UTM["origin"], UTM["res"][matrix]
        else:
            left, top = -WORLD_CORNER, WORLD_CORNER
            res = WORLD_SCALE / 2 ** int(matrix.rpartition(":")[2]) * 0.00028
        span = 256 * res
        return self.render(left + col * span, top - (row + 1) * span, left + (col + 1) * span, top - row * span, 256)

    def answer(self, path: str) -> bytes:
        self.paths.append(path)
        if self.refusal:
            return self.refusal
        parts = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if query.get("SERVICE") == "WMS":
            return self.wms(query)
        if query.get("SERVICE") == "WMTS":
            return self.wmts(query["TILEMATRIX"], int(query["TILEROW"]), int(query["TILECOL"]))
        *_, matrix, row, col = parts.path.removesuffix(".png").split("/")
        return self.wmts(matrix, int(row), int(col))


@pytest.fixture
def service() -> Iterator[Service]:
    """A running WMS and WMTS; its address is `url`."""
    owner = Service()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                body, status = owner.answer(self.path), 200
            except Exception as error:
                body, status = repr(error).encode(), 400
            self.send_response(status)
            self.send_header("Content-Type", "text/xml" if body.startswith(b"<") else "image/png")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    owner.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield owner
    server.shutdown()
    server.server_close()


@pytest.fixture
def grid_at() -> Callable[..., Grid]:
    """A maker of small grids."""

    def make(crs: str, left: float, top: float, res: float, width: int = 300, height: int = 280) -> Grid:
        return Grid(crs, left, top, res, res, width, height, 1.0, 1.0, 4096)

    return make


@pytest.fixture
def quiet() -> Log:
    return Log(None, 60.0)
