"""Classify a whole region with the best run of a study."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.command import Log, run
from pipeline.config import load_region
from pipeline.grid import Grid
from pipeline.report.best import best_network
from pipeline.train.devices import device_slot


def main(options: argparse.Namespace, log: Log) -> None:
    best, checkpoint = best_network(options.study, options.table, Path("results"))
    name, provider = best.spec["data"]["region"], best.spec["data"]["imagery"]
    place = Path("data") / name
    shards = {shard: place / "imagery" / provider / f"{shard}.tif" for shard in load_region(name).shard_names()}
    with device_slot(log):
        from pipeline.predict.region import predict_region

        predict_region(checkpoint, shards, Grid.load(place / "grid.json"), options.out, log=log)
    log(f"predicted by {best.id}, {checkpoint.stem}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", required=True)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log)
