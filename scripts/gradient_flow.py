"""Draw one of ResUNet-a's figures of gradient flow, from the losses themselves."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.command import Log, run
from pipeline.losses._flow import flow
from pipeline.report.gradient_flow import CHARTS, SIDE, draw


def main(options: argparse.Namespace, log: Log) -> None:
    chart = CHARTS[options.figure]
    draw(chart, [flow(panel.form, panel.complement, chart.truth, SIDE) for panel in chart.panels], options.out)
    log(f"{options.figure}: {len(chart.panels)} losses, truth {chart.truth}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", choices=sorted(CHARTS), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log)
