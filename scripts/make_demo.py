"""Generate the sources of the demo region."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.acquire.demo.build import build_demo
from pipeline.command import Log, run


def main(options: argparse.Namespace, log: Log) -> None:
    facts = build_demo(options.out, seed=options.seed)
    log(f"demo region: {facts}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    run(lambda log: main(options, log), options.log)
