"""A loopback server of realistic tiles, in a process of its own: ``python -m benchmarks.tile_server [fail]``.

Prints its port. With `fail`, one answer in five fails, the kinds in turn: 429, 500, a reset, half a body, an answer
that comes too late; the next try of the same tile may fail too. ``/count`` tells what was asked.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import socket
import struct
import sys
import zlib
from collections import Counter

import numpy as np
from PIL import Image

FAULTS = ("429", "500", "reset", "truncated", "slow")
LATE_S = 2.5  # longer than whoever asks waits
BODIES = 64


def jpeg(seed: int) -> bytes:
    """A JPEG of 256 × 256 px that takes about as much as one of an aerial image: 15 kB."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(30, 220, (24, 24, 3), dtype=np.uint8)).resize(
        (256, 256), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(coarse, dtype=np.int16) + rng.normal(0, 10, (256, 256, 1)).astype(np.int16)
    out = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=75)
    return out.getvalue()


class Server:
    """Answers GET of any path that ends in ``/<x>/<y>.jpg``."""

    def __init__(self, fail: bool) -> None:
        self.fail = fail
        self.bodies = [jpeg(seed) for seed in range(BODIES)]
        self.kinds = itertools.cycle(FAULTS)
        self.asked: Counter[bytes] = Counter()
        self.faults: Counter[str] = Counter()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while await self.answer((await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1], writer):
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def answer(self, path: bytes, writer: asyncio.StreamWriter) -> bool:
        """One answer; whether the connection stays."""
        if path == b"/count":
            count = {"asked": self.asked.total(), "tiles": len(self.asked), "faults": dict(self.faults)}
            send(writer, b"200 OK", json.dumps(count).encode(), b"application/json")
            return True
        x, y = path.removesuffix(b".jpg").rsplit(b"/", 2)[1:]
        self.asked[path] += 1
        body = self.bodies[(31 * int(x) + int(y)) % BODIES]
        if self.fail and zlib.crc32(b"%b %d" % (path, self.asked[path])) % 5 == 0:
            kind = next(self.kinds)
            self.faults[kind] += 1
            return await misbehave(writer, kind, body)
        send(writer, b"200 OK", body, b"image/jpeg")
        return True


async def misbehave(writer: asyncio.StreamWriter, kind: str, body: bytes) -> bool:
    """A fault instead of an answer; whether the connection stays."""
    if kind in ("429", "500"):
        send(writer, b"429 Too Many Requests" if kind == "429" else b"500 Internal Server Error", b"", b"text/plain")
        return True
    if kind == "truncated":
        head = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nConnection: close\r\n\r\n"
        writer.write(head + body[: len(body) // 2])
    elif kind == "slow":
        await asyncio.sleep(LATE_S)
    else:
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes by a reset
    return False


def send(writer: asyncio.StreamWriter, status: bytes, body: bytes, kind: bytes) -> None:
    """An answer with a length."""
    writer.write(b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (status, kind, len(body), body))


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.start_server(Server("fail" in sys.argv[1:]).handle, "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
