"""Rasterising labels beside gdal_rasterize: time, peak memory, pixels. Run as ``python -m benchmarks.labels``.

Both paint the same prepared polygons (a seeded landscape, `benchmarks.label_scene`) from one GeoPackage in the grid's
coordinates into a tiled, deflated GeoTIFF, each in a process of its own, imports included, with one thread. Then the
source raster besides, and the whole job from OSM layers in degrees. The regions are a shard of 16,384² px, and about
100 megapixels, where Python's start (0.6 s on the author's machine) weighs more: the peer's time is a bound for the
shard alone. Exit status 1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

REGIONS = {"one shard": 16384, "100 megapixels": 10_000}  # edge in pixels
BOUND_GIB = 1.5
PEER, CLASSES, BOTH = "gdal_rasterize, classes", "ours, classes", "ours, classes and sources"
WHOLE = "ours, both from OSM layers in degrees"
BOUNDS = {
    PEER: "",
    CLASSES: "a shard no slower, equal pixels, < 1.5 GiB",
    BOTH: "at most twice the classes, < 1.5 GiB",
    WHOLE: "< 1.5 GiB",
}
REPEATS = 3


class Measured(NamedTuple):
    """Least wall and processor time, and greatest peak of resident memory, of a command's repeats."""

    seconds: float
    processor_s: float
    peak_gib: float


def measure(commands: dict[str, list[str]], repeats: int) -> dict[str, Measured]:
    """Run commands in turns, so that what else the machine does hits all alike; exits with the output of a failure."""
    runs: dict[str, list[Measured]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            begin = time.monotonic()
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            assert process.stdout is not None
            output = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                sys.exit(output)
            seconds = time.monotonic() - begin
            runs[name].append(Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20))
    return {
        name: Measured(*(pick(column) for pick, column in zip((min, min, max), zip(*found, strict=True), strict=True)))
        for name, found in runs.items()
    }


def gdal_rasterize(folder: Path, edge_px: int, threads: int) -> list[str]:
    """The command that paints the classes of the prepared polygons in their order."""
    from pipeline.grid import Grid

    left, bottom, right, top = Grid.load(folder / "grid.json").bounds
    options = f"-a class -ot Byte -init 255 -a_nodata 255 -ts {edge_px} {edge_px} -co TILED=YES -co COMPRESS=DEFLATE"
    place = f"-te {left!r} {bottom!r} {right!r} {top!r} -co NUM_THREADS={threads} --config GDAL_NUM_THREADS {threads}"
    return ["gdal_rasterize", "-q", *options.split(), *place.split(), f"{folder}/prepared.gpkg", f"{folder}/gdal.tif"]


def ours(step: str, folder: Path, threads: int) -> list[str]:
    """The command of one of this module's steps."""
    return [
        sys.executable,
        "-m",
        "benchmarks.labels",
        "--step",
        step,
        "--folder",
        str(folder),
        "--threads",
        str(threads),
    ]


def paint_prepared(folder: Path, threads: int, with_sources: bool) -> None:
    """The pipeline's way from polygons to rasters, its reading and widening left out."""
    import numpy as np
    import pyogrio
    import shapely

    from pipeline.files import read_json
    from pipeline.grid import Grid, Shard
    from pipeline.labels.rasters import RasterFile, bands_of, open_rasters
    from pipeline.labels.scanline import Floats, Spans, centre_spans, polygon_edges, top_layers

    grid = Grid.load(folder / "grid.json")
    (shard,) = grid.shards()
    table = np.full(256, 255, dtype=np.uint8)
    classes = read_json(folder / "classes.json")
    table[: len(classes)] = classes
    values = range(1, len(classes))
    colours = {255: (0, 0, 0, 0)}
    files = [RasterFile(folder / "classes.tif", colours, nodata=255), RasterFile(folder / "sources.tif", colours)]

    def to_pixels(points: Floats) -> Floats:
        pixels: Floats = (points - (grid.left, grid.top)) * (1 / grid.res_x, -1 / grid.res_y)
        return pixels

    with open_rasters(files[: 1 + with_sources], grid, shard, threads) as writers:
        for band in bands_of(grid, shard):
            a, _, left, _, e, top = grid.transform(band.row_px, band.col_px)
            box = (left, top + e * band.height, left + a * band.width, top)
            _, _, wkb, (source,) = pyogrio.raw.read(folder / "prepared.gpkg", columns=["source"], bbox=box)
            shapes = shapely.from_wkb(wkb)

            def spans(value: int, shapes: object = shapes, source: object = source, band: Shard = band) -> Spans:
                return centre_spans(polygon_edges(shapes[source == value], to_pixels, band)[0], band)  # type: ignore

            runs = top_layers([spans(value) for value in values], values, band)
            writers[0].write(band, runs.expand(table))
            if with_sources:
                writers[1].write(band, runs.expand())


def whole_job(folder: Path, threads: int) -> None:
    """What the rule does, from OSM layers in degrees."""
    from benchmarks.label_scene import RECIPE, SCHEME
    from pipeline.grid import Grid
    from pipeline.labels.rasterize import rasterize_labels

    grid = Grid.load(folder / "grid.json")
    outputs = [folder / name for name in ("labels.tif", "labels_source.tif", "labels.json")]
    gpkg = folder / "layers.gpkg"
    rasterize_labels(RECIPE, SCHEME, grid, grid.shards()[0], gpkg, {}, *outputs, log=lambda _: None, threads=threads)


def differing(folder: Path, one: str, other: str) -> None:
    """Print how many pixels of two rasters differ."""
    import rasterio
    from rasterio.windows import Window

    count = 0
    with rasterio.open(folder / one) as left, rasterio.open(folder / other) as right:
        for row in range(0, left.height, 1024):
            window = Window(0, row, left.width, min(1024, left.height - row))
            count += int((left.read(1, window=window) != right.read(1, window=window)).sum())
    print(count)


def compare(folder: Path, edge_px: int, threads: int) -> list[tuple[str, Measured, bool]]:
    """Rows of the table for one region: what, measured, whether its bound holds."""
    scene = [sys.executable, "-m", "benchmarks.label_scene", str(folder), str(edge_px)]
    polygons = subprocess.run(scene, check=True, capture_output=True, text=True).stdout.strip()
    print(f"{edge_px:,} × {edge_px:,} px, {polygons} polygons, {threads} thread(s)\n")
    commands = {PEER: gdal_rasterize(folder, edge_px, threads)} if shutil.which("gdal_rasterize") else {}
    commands |= {CLASSES: ours("classes", folder, threads), BOTH: ours("both", folder, threads)}
    found = measure(commands, REPEATS) | measure({WHOLE: ours("whole", folder, threads)}, 1)
    holds = {name: measured.peak_gib < BOUND_GIB for name, measured in found.items()}
    holds[BOTH] &= found[BOTH].seconds <= 2 * found[CLASSES].seconds
    if PEER in found:
        check = [*ours("differing", folder, threads), "classes.tif", "gdal.tif"]
        differ = subprocess.run(check, check=True, capture_output=True, text=True).stdout.strip()
        print(f"pixels that differ from gdal_rasterize's: {differ}\n")
        holds[PEER] = True
        slower = edge_px == REGIONS["one shard"] and found[CLASSES].seconds > found[PEER].seconds
        holds[CLASSES] &= differ == "0" and not slower
    else:
        print("gdal_rasterize is not installed: nothing to compare with\n")
    return [(name, measured, holds[name]) for name, measured in found.items()]


def main(options: argparse.Namespace) -> None:
    """Print a table for each region."""
    missed = False
    for name, edge_px in REGIONS.items():
        with tempfile.TemporaryDirectory(prefix="bench-labels-", dir=options.folder) as folder:
            print(f"### {name}\n")
            rows = compare(Path(folder), edge_px, options.threads)
        base = rows[0][1].seconds
        print("| what | seconds | ratio | processor, s | peak RSS, GiB | bound | holds |")
        print("|:--|--:|--:|--:|--:|:--|:--|")
        for what, measured, holds in rows:
            numbers = f"{measured.seconds:.1f} | {measured.seconds / base:.2f} | {measured.processor_s:.1f}"
            print(f"| {what} | {numbers} | {measured.peak_gib:.2f} | {BOUNDS[what]} | {'yes' if holds else 'NO'} |")
            missed |= not holds
        print(flush=True)
    sys.exit("a bound is missed" if missed else 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads that compress")
    parser.add_argument("--folder", type=Path, help="where scratch files go")
    parser.add_argument("--step", choices=["classes", "both", "whole", "differing"], help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step == "differing":
        differing(options.folder, *options.names)
    elif options.step == "whole":
        whole_job(options.folder, options.threads)
    elif options.step:
        paint_prepared(options.folder, options.threads, with_sources=options.step == "both")
    else:
        main(options)
