"""Predict with a baseline that is no network."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pipeline.command import Log, run
from pipeline.evaluate.baseline import predict_baseline
from pipeline.train.provenance import run_code_hash


def main(options: argparse.Namespace, log: Log) -> None:
    spec = json.loads(options.spec)
    predict_baseline(options.run, spec, run_code_hash(Path(__file__), spec), options.data, options.out, log)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--spec", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log)
