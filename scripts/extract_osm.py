"""Clip an OSM extract to the region's grid and split it into layers."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.acquire.osm import extract_osm, grid_box
from pipeline.command import Log, run
from pipeline.grid import Grid


def main(options: argparse.Namespace, log: Log) -> None:
    box = grid_box(Grid.load(options.grid))
    extract_osm(options.pbf, box, options.out, options.summary, log=log)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--region", required=True)
    parser.add_argument("--pbf", type=Path, nargs="+", required=True)
    parser.add_argument("--grid", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--summary", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log)
