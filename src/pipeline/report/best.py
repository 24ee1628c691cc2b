"""The network that a study's table picks."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import RunError
from pipeline.report.table import best_run, read_csv
from pipeline.runs import Run, expand_runs


def best_network(name: str, table: Path, results: Path) -> tuple[Run, Path]:
    """The best network of study `name` by its `select` score, and the checkpoint that has this score."""
    study = expand_runs(name)
    frame = read_csv(table)
    best = best_run(frame, study.config.select)
    run = next((run for run in study.runs if run.id == best), None)
    if run is None:
        raise RunError(
            f"{table} names the run {best}, which study {name!r} does not have; delete the table and start again"
        )
    checkpoint = str(frame[frame["run"] == best].iloc[0]["checkpoint"])
    return run, results / "runs" / best / "checkpoints" / f"{checkpoint}.safetensors"
