"""Bring a land cover onto the region's grid."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.acquire.landcover import warp_landcover
from pipeline.command import Log, run
from pipeline.config import load_classes, load_region
from pipeline.grid import Grid


def main(options: argparse.Namespace, log: Log) -> None:
    region = load_region(options.region)
    warp_landcover(
        options.source,
        region.landcover[options.source],
        load_classes(region.classes),
        Grid.load(options.grid),
        Path("cache") / options.region,
        options.out,
        options.summary,
        log=log,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--region", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--grid", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--summary", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log)
