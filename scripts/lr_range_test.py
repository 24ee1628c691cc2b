"""Find learning rates that a run's training can bear; needs no geo packages and no config files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pipeline.command import Log, run
from pipeline.train.devices import device_slot
from pipeline.train.options import Options


def main(options: argparse.Namespace, log: Log) -> None:
    spec = json.loads(Path(options.spec).read_text() if options.spec.endswith(".json") else options.spec)
    spec = spec.get("spec", spec)
    engine = Options.of(options.engine)
    with device_slot(log, engine.runs_per_gpu):
        from pipeline.report.lr_range import draw
        from pipeline.train.lr_range import publish, range_test

        rates = {"low": options.low, "high": options.high}
        curve = range_test(spec, **rates, data=options.data, work=options.work, log=log, options=engine)
        found = publish(options.run, spec, curve, options.out, draw)
    log(f"{len(curve.lr)} steps, suggested lr {found['suggested_lr']}: {found['how']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--spec", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--low", type=float, default=1e-7)
    parser.add_argument("--high", type=float, default=10.0)
    parser.add_argument("--engine", default="{}", help="JSON: residency, runs_per_gpu, loggers")
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log, options.run)
