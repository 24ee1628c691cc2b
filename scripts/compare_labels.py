"""Compare two recipes of a region pixel by pixel, or one with the truth."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.command import Log, run
from pipeline.config import check_comparison, load_classes, load_region
from pipeline.grid import Grid
from pipeline.labels.compare import Labels, compare_labels
from pipeline.report.label_pictures import confusion_picture, side_by_side


def main(options: argparse.Namespace, log: Log) -> None:
    check_comparison(options.region, f"{options.a}-{options.b}")
    region, place = load_region(options.region), Path("data") / options.region
    scheme, grid = load_classes(region.classes), Grid.load(options.grid)
    a, b = (Labels.of(name, place, region.truth) for name in (options.a, options.b))
    imagery = place / "imagery" / options.imagery if options.imagery else None
    csv, summary = options.out / "confusion.csv", options.out / "summary.json"
    found = compare_labels(options.region, a, b, scheme, grid, imagery, csv, summary, log=log)
    confusion_picture(found, scheme, options.out / "confusion.png")
    side_by_side(found, scheme, options.out / "side_by_side.png", aspect=grid.gsd_y_m / grid.gsd_x_m)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--region", "--a", "--b"):
        parser.add_argument(name, required=True)
    parser.add_argument("--imagery", default="", help="lay this provider's imagery under the pictures")
    for name in ("--grid", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log)
