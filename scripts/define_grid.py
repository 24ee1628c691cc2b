"""Write a region's pixel grid."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.acquire.raster import raster_grid
from pipeline.command import Log, run
from pipeline.config import RasterSource, load_region


def main(options: argparse.Namespace, log: Log) -> None:
    region = load_region(options.region)
    grid = region.static_grid()
    if grid is None:
        source = region.imagery[str(region.grid.imagery)]
        assert isinstance(source, RasterSource)
        grid = raster_grid(source.paths[0], region.bbox, region.shard_px)
    grid.save(options.out)
    count = len(grid.shards())
    shards = f"{count} shard{'s' if count > 1 else ''}"
    log(f"{grid.width} x {grid.height} px of {grid.gsd_m:.3f} m on the ground, {shards}, {grid.crs}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--region", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log)
