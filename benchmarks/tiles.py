"""Tiles from a loopback server: how fast, what is lost when one answer in five fails, beside what others do.

Run as ``python -m benchmarks.tiles``; exit status 1 when a bound is missed. The server has a process of its own and
serves JPEG tiles of about 15 kB without delay. Rates are tiles that lie whole where they shall, per second. The peers
fetch and store bytes as these tools do: RoboSat (a thread pool over one `requests` session), label-maker (a thread
pool, a new connection per tile), rslearn (one `urlopen` after the other); none of them decodes here, ours does.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from PIL import Image

from pipeline.acquire.cache import TileCache
from pipeline.acquire.http import Errand, Policy, TileUrl, fetch_all
from pipeline.acquire.imagery import download_imagery
from pipeline.acquire.tiles import check_of
from pipeline.command import Log
from pipeline.config import XyzSource
from pipeline.grid import mercator_lonlat, web_mercator_grid
from pipeline.sources._base import Tile

BOUND_PER_S = 300.0
CONNECTIONS = 32
ZOOM, X0, Y0 = 17, 68_000, 44_000
TIMEOUT_S = 1.0
CACHE = "tiles.sqlite"


class Silent(Log):
    """A log for nobody."""

    def __call__(self, text: str) -> None:
        """Drop the line."""


@contextmanager
def serving(fail: bool) -> Iterator[str]:
    """The server, in a process of its own; gives its address."""
    command = [sys.executable, "-m", "benchmarks.tile_server", *(["fail"] if fail else [])]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def count(address: str) -> dict[str, Any]:
    """What the server was asked."""
    with urllib.request.urlopen(f"{address}/count") as answer:
        return dict(json.load(answer))


def source(address: str) -> XyzSource:
    """The server as a region's imagery."""
    url = f"{address}/{{z}}/{{x}}/{{y}}.jpg"
    return XyzSource(kind="xyz", url=url, connections=CONNECTIONS, timeout_s=TIMEOUT_S, retries=10)


def ours(address: str, tiles: list[Tile], folder: Path) -> None:
    """Fetch into the cache, every tile decoded once to see that it is whole."""
    xyz = source(address)
    url = TileUrl(xyz.url)
    policy = Policy(xyz.connections, None, xyz.retries, xyz.timeout_s)
    with TileCache(folder / CACHE, url.public, Silent()) as cache:
        fetch_all(Errand("bench", url, policy, check_of("bench", xyz, url, 256)), tiles, cache, Silent())


def robosat(address: str, tiles: list[Tile], folder: Path) -> None:
    """A thread pool over one session; what fails is skipped."""
    with requests.Session() as session:
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=CONNECTIONS))
        pooled(address, tiles, folder, lambda url: session.get(url, timeout=TIMEOUT_S))


def label_maker(address: str, tiles: list[Tile], folder: Path) -> None:
    """A thread pool, a connection per tile; what fails is skipped."""
    pooled(address, tiles, folder, lambda url: requests.get(url, timeout=TIMEOUT_S))


def pooled(address: str, tiles: list[Tile], folder: Path, get: Callable[[str], requests.Response]) -> None:
    """Store what `get` gives, 32 tiles at once."""

    def take(tile: Tile) -> None:
        z, x, y = tile
        with contextlib.suppress(requests.RequestException):
            answer = get(f"{address}/{z}/{x}/{y}.jpg")
            answer.raise_for_status()
            (folder / f"{x}_{y}.jpg").write_bytes(answer.content)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(take, tiles))


def rslearn(address: str, tiles: list[Tile], folder: Path) -> None:
    """One after the other; what fails is skipped."""
    for z, x, y in tiles:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{address}/{z}/{x}/{y}.jpg", timeout=TIMEOUT_S) as answer,
        ):
            (folder / f"{x}_{y}.jpg").write_bytes(answer.read())


def whole(folder: Path) -> int:
    """How many tiles of a folder, or of our cache in it, have all of their pixels."""
    if (folder / CACHE).exists():
        with TileCache(folder / CACHE, "", Silent()) as cache:
            bodies = [cache.body(tile) for tile in cache.entries()]
    else:
        bodies = [path.read_bytes() for path in folder.iterdir()]
    found = 0
    for body in bodies:
        with contextlib.suppress(OSError), Image.open(io.BytesIO(body)) as image:
            image.load()
            found += 1
    return found


def timed(
    job: Callable[[str, list[Tile], Path], None], address: str, tiles: list[Tile], folder: Path
) -> tuple[float, int]:
    """(whole tiles per second, tiles lost) of one run."""
    folder.mkdir()
    begin = time.monotonic()
    job(address, tiles, folder)
    seconds = time.monotonic() - begin
    found = whole(folder)
    return found / seconds, len(tiles) - found


def image(address: str, edge: int, folder: Path) -> dict[str, Any]:
    """The manifest of `edge` × `edge` tiles as a GeoTIFF, less the address, and the table of tiles."""
    north_west = mercator_lonlat(X0 * 256, Y0 * 256, ZOOM)
    south_east = mercator_lonlat((X0 + edge) * 256, (Y0 + edge) * 256, ZOOM)
    grid = web_mercator_grid((north_west[0], south_east[1], south_east[0], north_west[1]), ZOOM, edge * 256)
    out = folder / "r00c00.tif"
    manifest = download_imagery(
        "bench",
        source(address),
        grid,
        grid.shards()[0],
        folder / "cache",
        out,
        out.with_suffix(".json"),
        zoom=ZOOM,
        log=Silent(),
    )
    same = {key: value for key, value in manifest.items() if key not in ("url", "first_request")}  # the port is in both
    return {**same, "rows": (folder / "r00c00_tiles.csv").read_text()}


def main(options: argparse.Namespace) -> None:
    """Print the table."""
    edge = options.edge
    tiles = [(ZOOM, X0 + x, Y0 + y) for y in range(edge) for x in range(edge)]
    few = tiles[: len(tiles) // 8]
    jobs = [
        ("ours", ours, tiles),
        ("pool, one session (RoboSat)", robosat, tiles),
        ("pool, no session (label-maker)", label_maker, few),
        ("one after the other (rslearn)", rslearn, few),
    ]
    missed = []
    print(f"{len(tiles)} tiles, {CONNECTIONS} connections; the slower peers an eighth of them\n")
    print(
        "| answers that fail | client | tiles/s | of ours | tiles lost | bound | holds |\n|--:|:--|--:|--:|--:|:--|:--|"
    )
    with tempfile.TemporaryDirectory(prefix="bench-tiles-") as temporary:
        folder, images = Path(temporary), []
        for fail in (False, True):
            for number, (name, job, wanted) in enumerate(jobs):
                with serving(fail) as address:
                    rate, lost = timed(job, address, wanted, folder / f"{fail}-{number}")
                if number == 0:
                    base, bound = rate, "none lost" if fail else f"{BOUND_PER_S:.0f} tiles/s, none lost"
                    holds = lost == 0 and (fail or rate >= BOUND_PER_S)
                    missed += [] if holds else [f"{name}, {bound}"]
                end = f"{bound} | {'yes' if holds else 'NO'}" if number == 0 else " | "
                share = f"{fail * 0.2:.0%}"
                print(f"| {share} | {name} | {rate:.0f} | {rate / base:.2f} | {lost} | {end} |", flush=True)
        for fail in (False, True):
            with serving(fail) as address:
                images.append(image(address, edge // 2, folder / f"image-{fail}"))
                print(f"\nanswers of the image's run: {count(address)}", flush=True)
    differ = ", ".join(key for key in images[0] if images[0][key] != images[1].get(key))
    says = f"NO: {differ}" if differ else "yes"
    print(f"\npixels, manifest and tiles of the run with faults equal the clean one's: {says}")
    if missed or differ:
        sys.exit("a bound is missed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edge", type=int, default=48, help="tiles along an edge of the region")
    main(parser.parse_args())
