"""Clip an OSM extract and split it into layers."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.acquire.osm import extract_osm
from pipeline.command import Log, run
from pipeline.config import load_region


def main(options: argparse.Namespace, log: Log) -> None:
    region = load_region(options.region)
    assert region.osm is not None
    extract_osm(region.osm.path, region.bbox, options.out, options.summary, log=log)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--region", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--summary", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log)
