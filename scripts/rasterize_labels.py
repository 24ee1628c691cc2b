"""Burn the label recipe of one shard."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.command import Log, run
from pipeline.config import load_classes, load_recipe, load_region
from pipeline.grid import Grid
from pipeline.labels.rasterize import rasterize_labels


def main(options: argparse.Namespace, log: Log) -> None:
    region = load_region(options.region)
    place = Path("data") / options.region
    grid = Grid.load(options.grid)
    rasterize_labels(
        load_recipe(options.recipe),
        load_classes(region.classes),
        grid,
        grid.shard(options.shard),
        place / "osm" / "layers.gpkg" if region.osm else None,
        {name: place / "landcover" / f"{name}.tif" for name in region.landcover},
        options.out,
        options.source,
        options.stats,
        log=log,
        threads=options.threads,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--region", "--recipe", "--shard"):
        parser.add_argument(name, required=True)
    for name in ("--grid", "--out", "--source", "--stats"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log)
