"""Pack a region's rasters into chips."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.command import Log, run
from pipeline.config import load_classes, load_region
from pipeline.dataset.chips import cut_chips
from pipeline.grid import Grid


def main(options: argparse.Namespace, log: Log) -> None:
    region = load_region(options.region)
    scheme = load_classes(region.classes)
    cut_chips(region, scheme, Path("data") / options.region, options.store, Grid.load(options.grid), options.out, log)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--region", required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--grid", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log)
