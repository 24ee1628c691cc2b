"""The further scores that a study's `metrics` ask for, of one run: from its counts, histograms and predictions."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from pipeline import metrics
from pipeline.errors import RunError
from pipeline.files import read_json
from pipeline.metrics.chips import score_chips
from pipeline.report.results import IGNORE, Array, Chips, RunResult, broken, count_matrix, open_run

if TYPE_CHECKING:
    from pipeline.runs import Study

Scores = dict[str, float]


def measure_run(study: Study, run: str, results: Path, data: Path) -> dict[str, Any]:
    """Compute every metric of `study` for one of its runs.

    Args:
        study: the resolved study.
        run: the id of one of its runs.
        results: the folder that holds ``runs/<id>``.
        data: folder of the regions' data.

    Returns:
        ``run``, ``checkpoint`` (the one that the study's `select` picks, None for baselines and rules), ``classes``,
        their names, and ``scores``: ``val_<score>`` and ``test_<score>`` of metrics of counts and of probabilities,
        ``test_<score>`` alone of those of chips (only test predictions are kept), as mean over chips, with
        ``test_<score>_undefined``, the number of chips where the score does not exist. A baseline has no
        probabilities: such scores are absent. None stands for NaN.

    Raises:
        RunError, DataError: in one line when a file of the run or a chip store is missing or broken, when the study
            has no such run, or when two settings of a metric give different scores of one name.
        ConfigError: when a metric says nothing of what it needs.
    """
    chosen = next((item for item in study.runs if item.id == run), None)
    if chosen is None:
        raise RunError(f"study {study.name!r} has no run {run!r}; its settings have changed since it was asked for")
    result = open_run(chosen, results, study.config.select)
    scores: Scores = {}
    for entry in study.metrics:
        metric = metrics.create(entry["name"], **entry["params"])
        for name, value in _MEASURES[metrics.needs(entry["name"])](metric, result, data).items():
            if not _alike(scores.setdefault(name, value), value):
                raise RunError(
                    f"study {study.name!r}: {name} is given twice, by metric {entry['name']!r} for the second time "
                    "with another value; a study takes one setting of a metric whose scores have the same names"
                )
    plain = {name: None if math.isnan(value) else value for name, value in scores.items()}
    return {"run": run, "checkpoint": result.checkpoint, "classes": result.classes, "scores": plain}


def _alike(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _of_counts(metric: Callable[..., Scores], result: RunResult, data: Path) -> Scores:
    scores: Scores = {}
    for split in ("val", "test"):
        counts = count_matrix(result.cells[result.cells["split"] == split], len(result.classes))
        scores |= _named(split, metric(counts, result.classes))
    return scores


def _of_histograms(metric: Callable[..., Scores], result: RunResult, data: Path) -> Scores:
    if result.checkpoint is None:
        return {}
    path = result.folder / "predictions" / f"probabilities-{result.checkpoint}.npz"
    if not path.is_file():  # runs of version 0.1 have none
        raise RunError(
            f"run {result.run.id}: {path} is missing; delete the folder {path.parent} and run it again: nothing is "
            "trained, its checkpoints are scored"
        )
    scores: Scores = {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            for split in ("val", "test"):
                scores |= _named(split, metric(stored[split], result.classes))
    except (OSError, KeyError, ValueError, BadZipFile, zlib.error) as error:
        raise broken(result.run.id, path, error) from None
    return scores


def _of_chips(metric: Callable[..., Scores], result: RunResult, data: Path) -> Scores:
    spec = result.run.spec["data"]
    store = data / spec["region"] / "chips" / spec["recipe"]
    gsd_m = read_json(store / "store.json").get("gsd_m")
    return _named("test", score_chips(metric, _pairs(result, data), result.classes, gsd_m))


_MEASURES = {"counts": _of_counts, "histograms": _of_histograms, "chip": _of_chips}


def _pairs(result: RunResult, data: Path) -> Iterator[tuple[Array, Array]]:
    """(truth, prediction) [H, W] uint8 of every test chip; a pixel without imagery is 255 in the truth."""
    spec = result.run.spec["data"]
    chips = data / spec["region"] / "chips"
    labels, images = Chips(chips / spec["recipe"]), Chips(chips / spec["imagery"])
    predicted, ids = result.predictions()
    for row, chip in enumerate(ids):
        yield np.where(images.valid(chip), labels[chip][0], IGNORE).astype(np.uint8), np.asarray(predicted[row])


def _named(split: str, scores: Scores) -> Scores:
    return {f"{split}_{name}": float(value) for name, value in scores.items()}


def headline_scores(scores: Mapping[str, float | None], classes: Sequence[str]) -> Scores:
    """Those of `measure_run` that a table shows: neither scores of single classes nor counts of undefined chips."""
    stems = {name.removesuffix(f"_{classes[0]}") for name in scores if name.endswith(f"_{classes[0]}")}
    stems = {stem for stem in stems if all(f"{stem}_{label}" in scores for label in classes)}
    single = {f"{stem}_{label}" for stem in stems if not stem.endswith("_without") for label in classes}
    return {
        name: math.nan if value is None else float(value)
        for name, value in scores.items()
        if name not in single and not name.endswith("_undefined")
    }
