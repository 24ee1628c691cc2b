"""A folder of tiles as a server on loopback, so that local tiles take the same path as remote ones."""

from __future__ import annotations

import mimetypes
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pipeline.errors import DataError

TILE_PATH = re.compile(r"/(\d{1,2})/(\d{1,8})/(\d{1,8})(\.[A-Za-z0-9]{1,5})", re.ASCII)


@contextmanager
def serve_tiles(folder: Path) -> Iterator[str]:
    """Serve ``<z>/<x>/<y>.<ext>`` below `folder` while the block runs; yields ``"127.0.0.1:<port>"``.

    Only such names are looked up, so that no request leaves the folder; anything else, and an absent file, is a 404.
    Answers carry an ETag of the file's size and time. DataError when the folder does not exist.
    """
    if not Path(folder).is_dir():
        raise DataError(f"the folder of tiles to serve, {str(folder)!r}, does not exist or is no folder")
    server = _Server(Path(folder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def file_served(folder: Path, path: str) -> Path | None:
    """The file below `folder` that ``/<z>/<x>/<y>.<ext>`` (a query is ignored) stands for, there or not; else None."""
    found = TILE_PATH.fullmatch(path.partition("?")[0])
    return folder.joinpath(found[1], found[2], found[3] + found[4]) if found else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is no error worth a line."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # header and body in one packet
    timeout = 60.0
    server: _Server

    def do_GET(self) -> None:
        """Answer one tile."""
        path = file_served(self.server.folder, self.path)
        try:
            if path is None or not path.is_file():
                raise FileNotFoundError
            status, body = path.stat(), path.read_bytes()
        except OSError:
            self._answer(404, b"", {})
            return
        headers = {"ETag": f'"{status.st_size:x}-{status.st_mtime_ns:x}"'}
        headers["Content-Type"] = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        self._answer(200, body, headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Quiet: the download logs for both sides."""
