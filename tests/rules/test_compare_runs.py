"""Rule compare_runs: one table of a network and two baselines, from their counts."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, jaccard_score

from tests.support.project import Project

pytestmark = pytest.mark.workflow
CLASSES = ["grass", "soil", "roof"]


@pytest.fixture(scope="module")
def table(meadow: Project) -> pd.DataFrame:
    return pd.read_csv(meadow.path("results/studies/meadow/table.csv"), float_precision="round_trip")


def test_rows_and_scores_are_those_of_the_stored_predictions(meadow: Project, table: pd.DataFrame) -> None:
    assert list(table["kind"]) == ["run", "baseline", "baseline"]
    folder = meadow.path("data/meadow/chips/cover")
    rows = {chip: row for row, chip in enumerate(pd.read_parquet(folder / "index.parquet")["chip_id"])}
    labels = np.load(folder / "chips.npy")[:, 0]
    seen = np.unpackbits(np.load(meadow.path("data/meadow/chips/aerial/valid.npy")), axis=-1).astype(bool)
    for row in table.to_dict("records"):
        place = meadow.path(f"results/runs/{row['run']}/predictions")
        name = "test" if row["kind"] == "baseline" else f"test-{row['checkpoint']}"
        at = [rows[chip] for chip in json.loads((place / "chips.json").read_text())]
        scored = (labels[at] != 255) & seen[at]
        true, guess = labels[at][scored], np.load(place / f"{name}.npy")[scored]
        iou = jaccard_score(true, guess, labels=range(3), average=None, zero_division=0)
        assert row["test_accuracy"] == pytest.approx(accuracy_score(true, guess), abs=1e-12)
        assert row["test_mean_iou"] == pytest.approx(iou.mean(), abs=1e-12)
        assert [row[f"test_iou_{name}"] for name in CLASSES] == pytest.approx(list(iou), abs=1e-12)


def test_baselines_score_what_they_must(table: pd.DataFrame) -> None:
    scores = table.set_index(table["run"].str.partition(".")[0])
    assert scores.loc["landcover", "test_mean_iou"] == 1  # the labels are the land cover
    assert scores.loc["constant", ["test_iou_soil", "test_iou_roof"]].tolist() == [0, 0]
    assert scores.loc["constant", "test_iou_grass"] == scores.loc["constant", "test_accuracy"]


def test_the_markdown_table_marks_the_best_value(meadow: Project, table: pd.DataFrame) -> None:
    text = meadow.path("results/studies/meadow/table.md").read_text()
    assert all(run in text for run in table["run"])
    line = next(line for line in text.splitlines() if "landcover." in line)
    assert re.search(r"\*\*1\.0", line)


def test_dvc_finds_the_best_networks_scores_and_its_curve(meadow: Project, table: pd.DataFrame) -> None:
    metrics = json.loads(meadow.path("results/studies/meadow/metrics.json").read_text())
    network = table.iloc[0]
    assert metrics["best_run"] == network["run"]
    assert metrics["test_mean_iou"] == pytest.approx(network["test_mean_iou"])
    curves = pd.read_csv(meadow.path("results/studies/meadow/curves.csv"))
    assert list(curves["run"]) == [network["run"]] and list(curves["epoch"]) == [1]


def test_further_metrics_are_columns_of_the_table(meadow: Project, table: pd.DataFrame) -> None:
    network, grass, cover = table.to_dict("records")
    measured = json.loads(meadow.path(f"results/studies/meadow/measures/{network['run']}.json").read_text())
    assert measured["checkpoint"] == network["checkpoint"]
    for name in ("val_mcc", "test_mcc", "test_roc_auc", "test_boundary_f1_3"):
        assert network[name] == measured["scores"][name]
    assert cover["test_mcc"] == 1 and cover["test_boundary_f1_3"] == 1 and np.isnan(cover["test_roc_auc"])
    assert np.isnan(grass["test_boundary_f1_3"])  # one class everywhere has no boundary
    assert 0.5 < network["test_roc_auc"] <= 1 and 0 < network["test_boundary_f1_3"] <= 1
    assert network["val_mean_iou_last"] == network["val_mean_iou"]  # one epoch


def test_intervals_and_the_lead_over_each_other_run(meadow: Project, table: pd.DataFrame) -> None:
    intervals = pd.read_csv(meadow.path("results/studies/meadow/intervals.csv"), float_precision="round_trip")
    scores = intervals.pivot(index="run", columns="score", values="value")["mean_iou"]
    assert scores.to_dict() == pytest.approx(table.set_index("run")["test_mean_iou"].to_dict(), abs=1e-12)
    assert (intervals["blocks"] > 1).all() and (intervals["low"] <= intervals["high"]).all()
    paired = pd.read_csv(meadow.path("results/studies/meadow/paired.csv"))
    assert set(paired["run"]) == {table["run"].iloc[0]} and set(paired["other"]) == set(table["run"].iloc[1:])
    behind = paired[(paired["score"] == "mean_iou") & paired["other"].str.startswith("landcover")].iloc[0]
    assert behind["high"] < 0 and behind["p"] <= 1


def test_another_select_measures_again_and_trains_nothing(meadow: Project) -> None:
    """Scores are of the checkpoint that `select` picks, and a table must not mix two."""
    with meadow.edited("config/studies/meadow.yaml", lambda text: text + "select: val_accuracy\n"):
        jobs = meadow.jobs("results/studies/meadow/table.csv")
    assert sorted(job.rule for job in jobs) == ["compare_runs", *["measure_run"] * 3]


def test_a_table_asks_for_the_chips_whose_place_its_intervals_need(meadow: Project) -> None:
    """A clone that has the runs and not the chips cuts them, rather than fail."""
    with meadow.edited("src/pipeline/report/intervals.py", lambda text: text + "\n# edited\n"):
        job = next(job for job in meadow.jobs("results/studies/meadow/table.csv") if job.rule == "compare_runs")
    assert {"data/meadow/splits/blocks.parquet", "data/meadow/chips/cover/store.json"} <= set(job.inputs)
