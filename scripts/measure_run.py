"""Compute a study's further metrics for one of its runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.command import Log, run
from pipeline.files import write_json
from pipeline.report.measures import measure_run
from pipeline.runs import expand_runs


def main(options: argparse.Namespace, log: Log) -> None:
    measured = measure_run(expand_runs(options.study), options.run, Path("results"), Path("data"))
    write_json(options.out, measured)
    log(f"{options.run}: {len(measured['scores'])} scores")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log)
