"""Assign the ground of a region to train, val and test."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.command import Log, run
from pipeline.config import load_region
from pipeline.dataset.region_split import split_region
from pipeline.grid import Grid


def main(options: argparse.Namespace, log: Log) -> None:
    region = load_region(options.region)
    config = region.splits[options.split]
    stores = Path("data") / options.region / "chips"
    split_region(
        options.split,
        config,
        region.chips,
        Grid.load(options.grid),
        stores / config.balance,
        [stores / name for name in region.imagery],
        options.out,
        options.picture,
        log,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--region", required=True)
    parser.add_argument("--split", required=True)
    parser.add_argument("--grid", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log)
