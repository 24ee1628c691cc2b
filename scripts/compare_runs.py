"""Gather the runs of a study in one table."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.command import Log, run
from pipeline.report.study import compare_runs


def main(options: argparse.Namespace, log: Log) -> None:
    compare_runs(options.study, Path("results"), Path("data"), options.out, log)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log)
