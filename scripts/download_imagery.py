"""Fetch one shard of imagery."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.acquire.imagery import download_imagery
from pipeline.command import Log, run
from pipeline.config import load_region
from pipeline.grid import Grid


def main(options: argparse.Namespace, log: Log) -> None:
    region = load_region(options.region)
    grid = Grid.load(options.grid)
    download_imagery(
        options.provider,
        region.imagery[options.provider],
        grid,
        grid.shard(options.shard),
        Path("cache") / options.region,
        options.out,
        options.manifest,
        zoom=region.grid.zoom,
        tiles=options.tiles,
        log=log,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--region", required=True)
    parser.add_argument("--provider", required=True)
    parser.add_argument("--shard", required=True)
    parser.add_argument("--grid", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--tiles", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log)
