"""Killed at a random moment, ten times, and restarted: the same pixels, labels and manifests as one quiet run.

The region is the demo's box at zoom 19: 10,240 × 10,240 px, about 100 megapixels, 1,600 tiles from a loopback server
that counts what it is asked for, the demo's OSM extract and land cover. Run as ``python -m benchmarks.kills``.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

from benchmarks.project import copy_project

REGION = "hundred"
ZOOM = 19
SHARD_PX = 4096
DELAY_S = 0.05  # of each answer, so that kills fall into downloads
SNAKEMAKE = (".venv/bin/snakemake", "--cores", "2")


class Tiles:
    """A loopback server of smooth tiles, each a function of its address; `asked` counts the addresses."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[int, ...]] = Counter()
        self.lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve; gives the url template."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                tile = tuple(map(int, self.path.strip("/").partition(".")[0].split("/")))
                with owner.lock:
                    owner.asked[tile] += 1
                time.sleep(DELAY_S)
                body = picture(*tile)
                with suppress(OSError):
                    self.send_response(200)
                    self.send_header("Content-Type", "image/jpeg")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass

        server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{{z}}/{{x}}/{{y}}.jpg"
        finally:
            server.shutdown()
            server.server_close()


def picture(z: int, x: int, y: int) -> bytes:
    """A JPEG of 256 × 256 px, a function of the tile's address."""
    small = np.random.default_rng([z, x, y]).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((256, 256), Image.Resampling.BICUBIC).save(out, "JPEG", quality=80)
    return out.getvalue()


def write_region(folder: Path, url: str) -> None:
    """The demo's region at another zoom, with tiles of `url`, in `folder`."""
    yaml = YAML(typ="safe", pure=True)
    region = yaml.load(folder / "config/regions/demo.yaml")
    del region["demo"], region["splits"], region["truth"]
    region |= {"grid": {"zoom": ZOOM}, "shard_px": SHARD_PX}
    region["imagery"] = {"tiles": {"kind": "xyz", "url": url, "connections": 8, "retries": 20}}
    yaml.dump(region, folder / f"config/regions/{REGION}.yaml")


def targets(folder: Path) -> list[str]:
    """Imagery and labels of all shards."""
    code = f"from pipeline.config import load_region; print(*load_region({REGION!r}).shard_names())"
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    names = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    place = f"data/{REGION}"
    return [
        f"{place}/{part}"
        for shard in names.stdout.split()
        for part in (f"imagery/tiles/{shard}.json", f"labels/osm/{shard}_stats.json")
    ]


def cached(folder: Path) -> set[tuple[int, ...]]:
    """Tiles that are safe in the caches below `folder`."""
    found: set[tuple[int, ...]] = set()
    for path in (folder / "cache").rglob("*.sqlite"):
        with suppress(sqlite3.Error):
            db = sqlite3.connect(path)
            found |= set(db.execute("SELECT z, x, y FROM tiles"))
            db.close()
    return found


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that the rules made for the region."""
    place = folder / "data" / REGION
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def build(folder: Path, wanted: list[str], kill_after_s: float | None = None) -> bool:
    """Run snakemake as a user would after a kill; SIGKILL for its whole group after `kill_after_s`.

    Returns whether it ended by itself.
    """
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
    subprocess.run([*SNAKEMAKE, "--unlock", *wanted], cwd=folder, env=environment, capture_output=True, check=True)
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [*SNAKEMAKE, *wanted], cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            status = process.wait(kill_after_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return False
        if status:
            output.seek(0)
            sys.exit(output.read())
    return True


def reset(folder: Path) -> None:
    """Forget what was made, the demo's sources apart."""
    for name in (f"data/{REGION}", "cache", ".snakemake", "logs"):
        shutil.rmtree(folder / name, ignore_errors=True)


def main() -> None:
    """One quiet run, then `--kills` killed ones and a last; print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="bench-kills-") as name, (tiles := Tiles()).running() as url:
        folder = Path(name)
        copy_project(folder)
        write_region(folder, url)
        build(folder, ["data/demo/source/summary.json"])
        wanted = targets(folder)
        begin = time.monotonic()
        build(folder, wanted)
        quiet_s, quiet, requests = time.monotonic() - begin, digests(folder), tiles.asked.total()
        reset(folder)
        again = kills = 0
        safe: set[tuple[int, ...]] = set()
        tiles.asked.clear()
        ended = False
        while not ended:
            before = Counter(tiles.asked)
            last = kills == options.kills
            ended = build(folder, wanted, None if last else moments.uniform(1.0, quiet_s / 5))
            kills += not ended
            again += sum((tiles.asked - before)[tile] for tile in safe)
            safe = cached(folder)
        killed = digests(folder)
        differ = sorted(file for file in quiet.keys() | killed.keys() if quiet.get(file) != killed.get(file))
        print(f"{len(wanted)} targets, {requests} tiles in a quiet run of {quiet_s:.0f} s, seed {options.seed}\n")
        print("| what | found | asked for |")
        print("|---|---:|---:|")
        print(f"| kills | {kills} | {options.kills} |")
        print(f"| files that differ from the quiet run's ({len(quiet)} files) | {len(differ)} | 0 |")
        print(f"| cached tiles fetched again | {again} | 0 |")
        print(f"| tiles asked for twice, in flight when killed | {sum(n > 1 for n in tiles.asked.values())} | |")
        for file in differ[:10]:
            print(f"differs: {file}", file=sys.stderr)
        if differ or again or kills < options.kills:
            sys.exit(1)


if __name__ == "__main__":
    main()
