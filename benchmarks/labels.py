"""Rasterising labels beside gdal_rasterize: time, peak memory, pixels. Run as ``python -m benchmarks.labels``.

Both paint the same prepared polygons (a seeded landscape, `benchmarks.label_scene`) from one GeoPackage in the grid's
coordinates into a tiled, deflated GeoTIFF, each in a process of its own, imports included, with one thread. Then the
source raster besides, and the whole job from OSM layers in degrees. The regions are a shard of 16,384² px, and about
100 megapixels. Exit status 1 when a bound is missed.
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
REPEATS = 3


class Measured(NamedTuple):
    """Least wall time and greatest peak of resident memory of a command's repeats."""

    seconds: float
    peak_gib: float


def measure(command: list[str], repeats: int = REPEATS) -> Measured:
    """Run a command several times; exits with its output when it fails."""
    seconds, peaks = [], []
    for _ in range(repeats):
        begin = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(output)
        seconds.append(time.monotonic() - begin)
        peaks.append(usage.ru_maxrss / 2**20)
    return Measured(min(seconds), max(peaks))


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
    classes = measure(ours("classes", folder, threads))
    both = measure(ours("both", folder, threads))
    whole = measure(ours("whole", folder, threads), repeats=1)
    rows = [
        ("ours, classes", classes, classes.peak_gib < BOUND_GIB),
        ("ours, classes and sources", both, both.peak_gib < BOUND_GIB and both.seconds <= 2 * classes.seconds),
        ("ours, from OSM layers, all of it", whole, whole.peak_gib < BOUND_GIB),
    ]
    print(f"{edge_px:,} × {edge_px:,} px, {polygons} polygons, {threads} thread(s)\n")
    if shutil.which("gdal_rasterize") is None:
        print("gdal_rasterize is not installed: nothing to compare with\n")
        return rows
    peer = measure(gdal_rasterize(folder, edge_px, threads))
    check = [*ours("differing", folder, threads), "classes.tif", "gdal.tif"]
    found = subprocess.run(check, check=True, capture_output=True, text=True).stdout.strip()
    rows[0] = ("ours, classes", classes, rows[0][2] and classes.seconds <= peer.seconds and found == "0")
    print(f"pixels that differ from gdal_rasterize's: {found}\n")
    return [("gdal_rasterize, classes", peer, True), *rows]


def main(options: argparse.Namespace) -> None:
    """Print a table for each region."""
    missed = False
    for name, edge_px in REGIONS.items():
        with tempfile.TemporaryDirectory(prefix="bench-labels-", dir=options.folder) as folder:
            print(f"### {name}\n")
            rows = compare(Path(folder), edge_px, options.threads)
        base = rows[0][1].seconds
        print("| what | seconds | ratio | peak RSS, GiB | bound holds |\n|:--|--:|--:|--:|:--|")
        for what, measured, holds in rows:
            ratio = f"{measured.seconds / base:.2f}"
            print(
                f"| {what} | {measured.seconds:.1f} | {ratio} | {measured.peak_gib:.2f} | {'yes' if holds else 'NO'} |"
            )
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
