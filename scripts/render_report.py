"""Draw the figures of a study and write its report."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.command import Log, run
from pipeline.report.study import render_study


def main(options: argparse.Namespace, log: Log) -> None:
    render_study(
        options.study,
        options.table,
        options.prediction,
        Path("results"),
        Path("data"),
        options.figures,
        options.out,
        log,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", required=True)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--prediction", type=Path, required=True)
    parser.add_argument("--figures", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log)
