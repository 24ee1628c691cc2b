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
from pipeline.metrics.chips import ChipMean
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
        RunError, DataError: in one line when a file of the run or a chip store is missing or broken, or when the study
            has no such run.
        ConfigError: when a metric says nothing of what it needs.
    """
    chosen = next((item for item in study.runs if item.id == run), None)
    if chosen is None:
        raise RunError(f"study {study.name!r} has no run {run!r}; its settings have changed since it was asked for")
    result = open_run(chosen, results, study.config.select)
    scores: Scores = {}
    for entry in study.metrics:
        metric = metrics.create(entry["name"], **entry["params"])
        scores |= _MEASURES[metrics.needs(entry["name"])](metric, result, data)
    plain = {name: None if math.isnan(value) else value for name, value in scores.items()}
    return {"run": run, "checkpoint": result.checkpoint, "classes": result.classes, "scores": plain}


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
    mean = ChipMean()
    for truth, predicted in _pairs(result, data):
        mean.update(metric(truth, predicted, result.classes, gsd_m))
    return _named("test", mean.compute())


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
    shown = {}
    for name, value in scores.items():
        single = "_without_" not in name and any(name.endswith(f"_{label}") for label in classes)
        if not single and not name.endswith("_undefined"):
            shown[name] = math.nan if value is None else float(value)
    return shown
