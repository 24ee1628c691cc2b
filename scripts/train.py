"""Train one run; needs no geo packages and no config files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pipeline.command import Log, run
from pipeline.defaults import train_settings
from pipeline.train.devices import device_slot
from pipeline.train.options import Options
from pipeline.train.provenance import run_code_hash


def main(options: argparse.Namespace, log: Log) -> None:
    spec = json.loads(Path(options.spec).read_text() if options.spec.endswith(".json") else options.spec)
    spec = spec.get("spec", spec)
    code = run_code_hash(Path(__file__), spec)
    engine = Options.of(options.engine)
    with device_slot(log, engine.runs_per_gpu, devices=train_settings(spec)["devices"]):
        from pipeline.train.engine import train

        train(options.run, spec, code, data=options.data, out=options.out, work=options.work, log=log, options=engine)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--spec", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--engine", default="{}", help="JSON: residency, runs_per_gpu, loggers")
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log, options.run)
