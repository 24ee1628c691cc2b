"""Scores against scikit-learn on the expanded pixels; selection, ties, writing and reading."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from pipeline.errors import DataError, RunError
from pipeline.report import table as T
from pipeline.report.results import lower_is_better, plain

from .conftest import CLASSES, SPLITS, World, build_world, chip_id, network, other, study_config


def pixels_of(world: World, run: str, checkpoint: str | None, split: str) -> tuple[np.ndarray, np.ndarray]:
    rows = list(SPLITS[split])
    truth, guess = world.labels[rows].ravel(), world.pixels[run, checkpoint][rows].ravel()
    return truth[truth != 255], guess[truth != 255]


def test_scores_equal_scikit_learn_on_every_pixel(world: World) -> None:
    table = T.build_table(world.study, world.results).set_index("run")
    for run in world.study.runs:
        row = table.loc[run.id]
        checkpoint = row["checkpoint"] if run.kind == "run" else None
        for split in SPLITS:
            truth, guess = pixels_of(world, run.id, checkpoint, split)
            assert row[f"{split}_accuracy"] == pytest.approx(metrics.accuracy_score(truth, guess), abs=1e-12)
            iou = metrics.jaccard_score(truth, guess, average=None, labels=range(4))
            assert row[f"{split}_mean_iou"] == pytest.approx(iou.mean(), abs=1e-12)
            f1 = metrics.f1_score(truth, guess, average="macro", labels=range(4))
            assert row[f"{split}_mean_f1"] == pytest.approx(f1, abs=1e-12)
        assert [row[f"test_iou_{name}"] for name in CLASSES] == pytest.approx(iou.tolist(), abs=1e-12)


def test_truth_scores_count_pixels_with_imagery_labelled_in_both(world: World) -> None:
    table = T.build_table(world.study, world.results, world.chips("truth")).set_index("run")
    rows = list(SPLITS["test"])
    for run in world.study.runs:
        row = table.loc[run.id]
        guess = world.pixels[run.id, row["checkpoint"] if run.kind == "run" else None][rows]
        both = (world.labels[rows] != 255) & (world.truth[rows] != 255) & world.seen[rows]
        truth = world.truth[rows][both]
        assert row["truth_accuracy"] == pytest.approx(metrics.accuracy_score(truth, guess[both]), abs=1e-12)
        iou = metrics.jaccard_score(truth, guess[both], average="macro", labels=range(4))
        assert row["truth_mean_iou"] == pytest.approx(iou, abs=1e-12)


def test_truth_by_region_leaves_other_regions_empty(world: World) -> None:
    filled = T.build_table(world.study, world.results, {"demo": world.chips("truth")})
    empty = T.build_table(world.study, world.results, {"elsewhere": world.chips("truth")})
    assert filled["truth_mean_iou"].notna().all() and empty["truth_mean_iou"].isna().all()


def test_a_class_absent_from_labels_and_prediction_is_counted_and_left_out(world: World) -> None:
    run = world.study.runs[0]
    path = world.folder(run.id) / "confusion.parquet"
    cells = pd.read_parquet(path)
    cells = cells[(cells["truth"] != 3) & (cells["predicted"] != 3)]
    cells.to_parquet(path)
    row = T.build_table(world.study, world.results).iloc[0]
    own = cells[(cells["checkpoint"] == row["checkpoint"]) & (cells["split"] == "test")]
    truth, guess = own["truth"].repeat(own["pixels"]), own["predicted"].repeat(own["pixels"])
    assert row["test_absent"] == 1 and math.isnan(row["test_iou_water"])
    assert row["test_mean_iou"] == pytest.approx(metrics.jaccard_score(truth, guess, average="macro"), abs=1e-12)


@pytest.mark.parametrize("select", ["val_mean_iou", "val_accuracy", "val_jaccard_coefficient", "val_loss"])
def test_the_selected_score_picks_the_checkpoint(world: World, select: str) -> None:
    study = dataclasses.replace(world.study, config=study_config(select=select))
    table = T.build_table(study, world.results).set_index("run")
    for run in (run for run in study.runs if run.kind == "run"):
        scores = {}
        for checkpoint in ("best_accuracy", "best_jaccard"):
            truth, guess = pixels_of(world, run.id, checkpoint, "val")
            batch = world.batch[run.id, checkpoint]["val"]
            scores[checkpoint] = {
                "val_mean_iou": metrics.jaccard_score(truth, guess, average="macro"),
                "val_accuracy": metrics.accuracy_score(truth, guess),
                "val_jaccard_coefficient": batch["jaccard_coefficient"],
                "val_loss": -batch["loss"],
            }[select]
        chosen = max(scores, key=scores.__getitem__)
        assert table.loc[run.id, "checkpoint"] == chosen
        assert (
            table.loc[run.id, "test_jaccard_coefficient"] == world.batch[run.id, chosen]["test"]["jaccard_coefficient"]
        )
    networks = table[table["kind"] == "run"]
    best = networks[select].idxmin() if select == "val_loss" else networks[select].idxmax()
    assert T.best_run(table.reset_index(), select) == best


def test_columns_and_order(world: World) -> None:
    table = T.build_table(world.study, world.results, world.chips("truth"))
    scores = ["accuracy", "mean_iou", "mean_f1", "jaccard_coefficient", "loss", "absent"]
    assert list(table.columns) == [
        "run", "kind", "model.name", "loss.name", "seed", "checkpoint",
        *(f"val_{name}" for name in scores), *(f"test_{name}" for name in scores),
        *(f"test_iou_{name}" for name in CLASSES), "truth_mean_iou", "truth_accuracy",
        "parameters", "epochs", "seconds",
    ]  # fmt: skip
    assert list(table["run"]) == [run.id for run in world.study.runs]
    assert list(table["epochs"].iloc[:4]) == [6] * 4 and table["epochs"].iloc[4:].isna().all()
    baseline = table[table["kind"] == "baseline"].iloc[0]
    assert pd.isna(baseline["loss.name"]) and pd.isna(baseline["val_jaccard_coefficient"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("run.json", "run"), ("confusion.parquet", "rule"), ("metrics.json", "run"), ("history.csv", "run")],
)
@pytest.mark.parametrize("fault", ["missing", "broken"])
def test_a_missing_or_broken_file_is_one_line_with_run_and_file(world: World, name: str, kind: str, fault: str) -> None:
    run = next(run for run in world.study.runs if run.kind == kind)
    path = world.folder(run.id) / name
    path.unlink()
    if fault == "broken":
        path.write_bytes(b"\x00\xff\n{")
    with pytest.raises(RunError) as error:
        T.build_table(world.study, world.results)
    assert run.id in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_folder_of_another_run_is_refused(world: World) -> None:
    path = world.folder(world.study.runs[0].id) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id": "somebody-else"}))
    with pytest.raises(RunError, match="belongs to run somebody-else"):
        T.build_table(world.study, world.results)


def test_a_chip_missing_from_the_truth_is_named(world: World) -> None:
    index = world.chips("truth") / "index.parquet"
    pd.read_parquet(index).replace({"chip_id": {chip_id(7): "other"}}).to_parquet(index)
    with pytest.raises(DataError, match=chip_id(7)):
        T.build_table(world.study, world.results, world.chips("truth"))


def test_no_validation_score_at_all_is_an_error(world: World) -> None:
    run = world.study.runs[1]
    path = world.folder(run.id) / "confusion.parquet"
    cells = pd.read_parquet(path)
    cells[cells["split"] == "test"].to_parquet(path)
    with pytest.raises(RunError, match=f"{run.id}.*no checkpoint has val_mean_iou"):
        T.build_table(world.study, world.results)


def test_best_rows_mark_every_tie_and_lower_losses() -> None:
    table = pd.DataFrame({"test_accuracy": [0.5, 0.75, 0.75, math.nan], "val_loss": [0.3, 0.1, math.nan, 0.1]})
    assert T.best_rows(table, "test_accuracy").to_list() == [False, True, True, False]
    assert T.best_rows(table, "val_loss").to_list() == [False, True, False, True]
    assert not T.best_rows(pd.DataFrame({"test_accuracy": [math.nan] * 2}), "test_accuracy").any()


def test_class_names_do_not_change_what_a_column_means() -> None:
    assert not lower_is_better("test_iou_loss") and T.is_score("test_iou_absent") and not T.is_score("test_absent")


def test_best_run_takes_networks_only(world: World) -> None:
    table = T.build_table(world.study, world.results)
    table.loc[table["kind"] == "rule", "val_mean_iou"] = 0.999
    assert T.best_run(table, "val_mean_iou") in set(table["run"][table["kind"] == "run"])
    with pytest.raises(RunError, match="no trained network"):
        T.best_run(table[table["kind"] != "run"], "val_mean_iou")


def test_summary_is_mean_and_sample_deviation_over_seeds_and_folds(tmp_path) -> None:  # type: ignore[no-untyped-def]
    runs = [
        network(model, "focal", seed=seed, split=fold, **{"data.split": fold})
        for model in ("unet", "fpn") for seed in (0, 1) for fold in ("fold_0", "fold_1")
    ]  # fmt: skip
    world = build_world(tmp_path, [*runs, other("baseline", "landcover", **{"data.split": "fold_0"})])
    table = T.build_table(world.study, world.results)
    summary = T.summary(table)
    assert list(summary["n"]) == [4, 4, 1] and "data.split" not in summary and "seed" not in summary
    for at, model in enumerate(("unet", "fpn")):
        values = table["test_mean_iou"][table["model.name"] == model].to_list()
        mean = sum(values) / 4
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 3)
        assert summary["test_mean_iou_mean"][at] == pytest.approx(mean)
        assert summary["test_mean_iou_sd"][at] == pytest.approx(deviation)
    assert math.isnan(summary["test_mean_iou_sd"][2])


def test_summary_averages_no_two_methods(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Baselines of one name with other parameters; networks of which only one has the parameter at all."""
    forests = [
        dataclasses.replace(other("baseline", "random_forest", **{"model.trees": n}), id=f"f{n}") for n in (5, 100)
    ]
    plain = network("smp", "focal")
    wide = dataclasses.replace(plain, id="wide", varied=plain.varied | {"model.decoder_channels": [64, 32]})
    world = build_world(tmp_path, [plain, wide, *forests])
    table = T.build_table(world.study, world.results)
    summary = T.summary(table)
    assert list(summary["n"]) == [1, 1, 1, 1]
    assert list(summary["test_mean_iou_mean"]) == list(table["test_mean_iou"])
    assert list(summary["model.trees"].iloc[2:]) == [5, 100]
    assert list(summary["model.decoder_channels"].isna()) == [True, False, True, True]


def test_losses_of_one_name_with_other_parameters_do_not_compare() -> None:
    columns = {"kind": ["run", "run", "baseline"], "loss.name": ["focal", "focal", None], "val_loss": [0.1, 0.2, None]}
    table = pd.DataFrame(columns | {"test_accuracy": [0.5, 0.6, 0.7]})
    assert T.comparable_columns(table) == ["val_loss", "test_accuracy"]
    table.insert(2, "loss.gamma", [1.0, 2.0, math.nan])
    assert T.comparable_columns(table) == ["test_accuracy"]
    table["loss.gamma"] = [2.0, 2.0, math.nan]
    assert T.comparable_columns(table) == ["val_loss", "test_accuracy"]
    table["loss.weights"] = [None, "[1, 2]", None]  # only one of the two has the parameter
    assert T.comparable_columns(table) == ["test_accuracy"]


def test_csv_reads_back_bit_for_bit_and_is_stable(world: World) -> None:
    table = T.build_table(world.study, world.results, world.chips("truth"))
    table.insert(2, "train.batch_size", pd.array([32, 32, 64, 64, None, None], dtype="Int64"))
    path = world.root / "table.csv"
    T.write_csv(table, path)
    first = path.read_bytes()
    back = T.read_csv(path)
    for name in table:
        assert table[name].isna().to_list() == back[name].isna().to_list(), name
        assert table[name].dropna().to_list() == back[name].dropna().to_list(), name
    assert back["train.batch_size"].dtype == "Int64" and back["test_mean_iou"].dtype == "float64"
    T.write_csv(back, path)
    assert path.read_bytes() == first


def test_markdown_marks_the_best_and_lists_baselines_below(world: World) -> None:
    study = dataclasses.replace(world.study, runs=[world.study.runs[-1], *world.study.runs[:-1]])
    table = T.build_table(study, world.results)
    table.loc[table["run"] == study.runs[1].id, "test_accuracy"] = 0.98765
    table.loc[table["run"] == study.runs[2].id, "test_accuracy"] = 0.98765
    path = world.root / "table.md"
    T.write_markdown(table, path, title="A | title", select="val_mean_iou")
    lines = path.read_text().splitlines()
    assert lines[0] == "# A \\| title" and "`val_mean_iou`" in lines[2]
    header = [cell.strip() for cell in lines[4].strip("|").split("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[6:]]
    assert [row[1] for row in rows] == ["run"] * 4 + ["rule", "baseline"]
    accuracy = [row[header.index("test_accuracy")] for row in rows]
    assert accuracy[:2] == ["**0.9877**"] * 2 and not any("*" in text for text in accuracy[2:])
    assert not any("*" in row[header.index("val_loss")] for row in rows)  # two loss functions do not compare
    assert rows[-1][header.index("loss.name")] == "—"


def test_settings_are_cells_for_people() -> None:
    assert [plain(value) for value in (None, 2, 0.5, True, "a")] == ["none", 2, 0.5, True, "a"]
    assert (plain([64, 32]), plain([])) == ("[64, 32]", "[]")
    stages = [{"part": "decoder", "lr": 3e-3, "epochs": 1}, {"part": "all", "lr": 1e-4, "epochs": None}]
    assert plain(stages) == "part=decoder lr=0.003 epochs=1; part=all lr=0.0001 epochs=none"
    augment = [{"name": "flips", "params": {"quarter_turns": True}}, {"name": "blur", "params": {}}]
    assert plain(augment) == "flips quarter_turns=true; blur"
