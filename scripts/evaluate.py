"""Score one trained run on its validation and test chips."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.command import Log, run
from pipeline.train.devices import device_slot
from pipeline.train.options import Options


def main(options: argparse.Namespace, log: Log) -> None:
    engine = Options.of(options.engine)
    with device_slot(log, engine.runs_per_gpu):
        from pipeline.evaluate.network import evaluate

        evaluate(options.run, options.data, options.work, log, engine)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--engine", default="{}", help="JSON: residency, runs_per_gpu, loggers")
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log, options.run.name)
