"""A study's further scores: each metric is given what it needs, of the checkpoint that the study picks."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

from pipeline import metrics
from pipeline.errors import RunError
from pipeline.report.measures import headline_scores, measure_run
from pipeline.report.results import lower_is_better, open_run
from pipeline.report.study import _measures
from pipeline.report.table import best_rows, build_table, last_scores
from tests.unit.report.conftest import CLASSES, GSD_M, SPLITS, World

TEST = list(SPLITS["test"])


def asking(world: World, *names: str, **params: Any) -> World:
    entries = [{"name": name, "params": params.get(name, {})} for name in names]
    return replace(world, study=replace(world.study, metrics=entries))


def measured(world: World, number: int = 0) -> dict[str, Any]:
    return measure_run(world.study, world.study.runs[number].id, world.results, world.root / "data")


def predicted(world: World, number: int = 0) -> np.ndarray:
    run = world.study.runs[number]
    return world.pixels[run.id, open_run(run, world.results, "val_mean_iou").checkpoint]


def test_metrics_of_counts_on_both_splits(built: World) -> None:
    found = measured(asking(built, "mcc"), 1)
    assert found["checkpoint"] == "best_jaccard" and found["classes"] == CLASSES
    for split, chips in SPLITS.items():
        true, guess = built.labels[list(chips)], predicted(built, 1)[list(chips)]
        known = true != 255
        assert found["scores"][f"{split}_mcc"] == pytest.approx(matthews_corrcoef(true[known], guess[known]))


def test_metrics_of_probabilities_read_the_checkpoints_histograms(built: World) -> None:
    found = measured(asking(built, "roc_auc"), 1)
    path = built.folder(built.study.runs[1].id) / "predictions" / "probabilities-best_jaccard.npz"
    for split in SPLITS:
        expected = metrics.create("roc_auc")(np.load(path)[split], CLASSES)["roc_auc"]
        assert found["scores"][f"{split}_roc_auc"] == pytest.approx(expected)
    assert measured(asking(built, "roc_auc"), 4)["scores"] == {}  # a baseline has no probabilities


def test_metrics_of_chips_see_no_pixel_without_imagery(built: World) -> None:
    found = measured(asking(built, "hausdorff", hausdorff={"forms": ["hausdorff"]}))["scores"]
    truth = np.where(built.seen, built.labels, 255).astype(np.uint8)[TEST]
    metric = metrics.create("hausdorff", forms=["hausdorff"])
    pairs = zip(truth, predicted(built)[TEST], strict=True)
    each = [metric(true, guess, CLASSES, GSD_M) for true, guess in pairs]
    for name in ("hausdorff_px", "hausdorff_m", "hausdorff_px_water"):
        values = [scores[name] for scores in each]
        defined = [value for value in values if not math.isnan(value)]
        assert found[f"test_{name}"] == pytest.approx(np.mean(defined))
        assert found[f"test_{name}_undefined"] == len(values) - len(defined)
    assert found["test_hausdorff_m"] == pytest.approx(found["test_hausdorff_px"] * GSD_M)
    assert not any(name.startswith("val_") for name in found)


def test_the_table_shows_scores_of_all_classes_alone(world: World, tmp_path: Path) -> None:
    asked = asking(world, "mean_iou", "hausdorff", "roc_auc", mean_iou={"leave_out": ["water"]})
    folder = tmp_path / "measures"
    folder.mkdir()
    for number, run in enumerate(asked.study.runs):
        (folder / f"{run.id}.json").write_text(json.dumps(measured(asked, number)))
    table = build_table(asked.study, asked.results, None, _measures(asked.study, folder))
    new = [name for name in table if "without" in name or "hausdorff" in name or "roc" in name]
    assert {"val_mean_iou_without_water", "test_mean_iou_without_water", "test_hausdorff_px", "val_roc_auc"} <= {*new}
    assert not [name for name in new if name.endswith(("_forest", "_undefined"))]
    parts = [name.partition("_")[0] for name in table if name.startswith(("val_", "test_"))]
    assert parts == sorted(parts, reverse=True)  # one group of validation, one of test columns
    assert table["test_roc_auc"].isna().tolist() == [False] * 4 + [True] * 2
    best = table["test_hausdorff_px"].to_numpy(float).argmin()
    assert best_rows(table, "test_hausdorff_px").to_numpy().argmax() == best
    assert lower_is_better("test_average_hausdorff_m") and not lower_is_better("test_mean_iou_without_water")
    three = table.iloc[0][[f"test_iou_{name}" for name in CLASSES[:3]]].astype(float).mean()
    assert table["test_mean_iou_without_water"].iloc[0] == pytest.approx(three)


def test_headline_scores() -> None:
    scores = {"test_mean_iou_without_water": 0.5, "test_iou_water": 0.4, "test_x": None, "test_x_undefined": 3}
    shown = headline_scores(scores, ["water"])
    assert list(shown) == ["test_mean_iou_without_water", "test_x"] and math.isnan(shown["test_x"])


def test_a_class_named_like_a_score_hides_none() -> None:
    classes = ["iou", "m"]
    scores = {"test_mean_iou": 0.5, "test_iou_iou": 0.4, "test_iou_m": 0.6, "test_hausdorff_m": 3.0}
    assert list(headline_scores(scores, classes)) == ["test_mean_iou", "test_hausdorff_m"]


def test_two_settings_of_a_metric_that_give_one_name_are_refused(built: World) -> None:
    """The second would silently take the first one's place."""
    twice = [{"name": "hausdorff", "params": {"on": on, "forms": ["hausdorff"]}} for on in ("boundary", "mask")]
    asked = replace(built, study=replace(built.study, metrics=twice))
    with pytest.raises(RunError, match="test_hausdorff_px is given twice, by metric 'hausdorff' for the second time"):
        measured(asked)
    both = [{"name": "mean_iou", "params": {"leave_out": leave_out}} for leave_out in (None, ["water"])]
    scores = measured(replace(built, study=replace(built.study, metrics=both)))["scores"]
    assert {"test_mean_iou", "test_mean_iou_without_water"} <= set(scores)


def test_scores_of_the_last_epochs(built: World) -> None:
    config = built.study.config.model_copy(update={"last_epochs": 3})
    table = build_table(replace(built.study, config=config), built.results)
    history = open_run(built.study.runs[0], built.results, "val_mean_iou").history()
    assert table["val_mean_iou_last"].iloc[0] == sorted(history["val_mean_iou"].tail(3))[1]
    assert table["val_mean_iou_last"].isna().tolist() == [False] * 4 + [True] * 2
    assert lower_is_better("val_loss_last") and last_scores(None, 3) == {}
    config = config.model_copy(update={"last_epochs": 4, "last_statistic": "mean"})
    table = build_table(replace(built.study, config=config), built.results)
    assert table["val_mean_iou_last"].iloc[0] == pytest.approx(history["val_mean_iou"].tail(4).mean())
    assert "val_mean_iou_last" not in build_table(built.study, built.results)


def test_what_is_missing_is_one_line(world: World) -> None:
    asked = asking(world, "roc_auc")
    with pytest.raises(RunError, match="has no run 'nothing'"):
        measure_run(asked.study, "nothing", world.results, world.root / "data")
    path = world.folder(world.study.runs[1].id) / "predictions" / "probabilities-best_jaccard.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=r"probabilities-best_jaccard\.npz cannot be used") as caught:
        measured(asked, 1)
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(
        RunError, match=r"best_jaccard\.npz is missing.*predictions and run it again: nothing is trained"
    ):
        measured(asked, 1)
