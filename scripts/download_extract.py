"""Download an OSM extract and check it."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.acquire.osm_download import download_extract, extract_of
from pipeline.command import Log, run
from pipeline.config import load_region


def main(options: argparse.Namespace, log: Log) -> None:
    download_extract(extract_of(load_region(options.region), options.out.name), options.out, log=log)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--region", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log)
