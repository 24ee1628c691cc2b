"""Run a baseline of `pipeline.baselines` and write its result folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import variants
from pipeline.dataset.joined import data_hashes, join
from pipeline.evaluate.counts import write_baseline


def predict_baseline(
    run: str, spec: dict[str, Any], code_hash: str, data: Path, out: Path, log: Callable[[str], None]
) -> None:
    """Predict val and test with the baseline that `spec` names and write counts, predictions and run.json to `out`."""
    begin = time.monotonic()
    joined = join(data, spec["data"])
    predict = variants.load("baselines", spec["model"]["name"]).build(**spec["model"]["params"])
    predicted = predict(joined, spec["seed"])
    hashes = data_hashes(data, spec["data"]) | {"code": code_hash}
    write_baseline(run, spec, joined, predicted, hashes, out, time.monotonic() - begin)
    log(f"{run}: {len(joined.rows['test'])} test chips in {time.monotonic() - begin:.1f} s")
