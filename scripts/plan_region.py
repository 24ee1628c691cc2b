"""Write what a region will cost: requests, bytes, hours, disk."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.command import Log, run
from pipeline.config import load_region
from pipeline.files import write_json, write_text
from pipeline.grid import Grid
from pipeline.plan import fitting_recipes, plan_region
from pipeline.plan_page import hours, page, size, warnings


def main(options: argparse.Namespace, log: Log) -> None:
    region = load_region(options.region)
    grid = Grid.load(options.grid)
    plan = plan_region(options.region, region, grid, fitting_recipes(options.region), options.out.parent)
    write_json(options.out, plan)
    write_text(options.page, page(plan))
    for name, entry in plan["imagery"].items():
        asked = "unknown" if entry["requests"] is None else f"{entry['requests']:,}"
        log(f"imagery {name}: {asked} requests, {size(entry['bytes'])}, {hours(entry['hours'])}")
    for line in warnings(plan):
        log(f"warning: {line}")
    log(f"about {size(plan['disk']['total'])} on disk; the whole plan: {options.page}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--region", required=True)
    parser.add_argument("--grid", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log)
