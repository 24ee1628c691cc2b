"""Add up the label statistics of a region and draw them."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.command import Log, run
from pipeline.config import load_classes, load_recipe, load_region
from pipeline.grid import Grid
from pipeline.labels.statistics import summarize_labels
from pipeline.report.label_pictures import distribution_picture


def main(options: argparse.Namespace, log: Log) -> None:
    scheme = load_classes(load_region(options.region).classes)
    folder = Path("data") / options.region / "labels" / options.recipe
    found = summarize_labels(
        options.region,
        options.recipe,
        load_recipe(options.recipe),
        scheme,
        Grid.load(options.grid),
        folder,
        options.out,
        log=log,
    )
    distribution_picture(found, scheme, options.picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--region", "--recipe"):
        parser.add_argument(name, required=True)
    for name in ("--grid", "--out", "--picture"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log)
