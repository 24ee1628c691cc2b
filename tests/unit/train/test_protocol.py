"""Which epochs are kept and when a run stops: through the training, its scores and the study's table."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline import schedules
from pipeline.errors import RunError
from pipeline.evaluate.network import evaluate
from pipeline.files import read_json
from pipeline.report.table import build_table, summary
from pipeline.runs import Run, Study
from pipeline.schedules._stage import Stage
from pipeline.train import loop
from pipeline.train.engine import train
from tests.support.tiny import a_spec

Rows = list[dict[str, float]]


def run_training(region: Path, folder: Path, name: str = "tiny", **settings: Any) -> list[str]:
    """Train below ``results/runs/<name>``; the lines of its log."""
    lines: list[str] = []
    place = {"out": folder / "results" / "runs" / name, "work": folder / "work" / name}
    seed = settings.pop("seed", 3)
    train(name, a_spec(**settings) | {"seed": seed}, "code", data=region, log=lines.append, **place)
    return lines


def score(region: Path, folder: Path, name: str = "tiny") -> dict[str, Any]:
    found = evaluate(folder / "results" / "runs" / name, region, folder / "work" / name, lambda _: None)
    return dict(found["checkpoints"])


def history(folder: Path, name: str = "tiny") -> Rows:
    with open(folder / "results" / "runs" / name / "history.csv") as handle:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(handle)]


def files(folder: Path, name: str = "tiny") -> list[str]:
    return sorted(path.stem for path in (folder / "results/runs" / name / "checkpoints").glob("*.safetensors"))


def best_epoch(rows: Rows, column: str) -> int:
    values = [row[column] for row in rows]
    return 1 + int(np.argmin(values) if column.endswith("_loss") else np.argmax(values))


def a_study(*runs: str, seeds: list[int] | None = None, select: str = "val_mean_iou") -> Any:
    found = [
        Run(name, "run", "unet", a_spec() | {"seed": seed}, {"seed": seed})
        for name, seed in zip(runs, seeds or [3] * len(runs), strict=True)
    ]
    return Study("own", SimpleNamespace(select=select, last_epochs=None), found)  # type: ignore[arg-type]


def test_the_last_epoch_alone(region: Path, tmp_path: Path) -> None:
    """The medical thesis's protocol."""
    run_training(region, tmp_path, epochs=3, checkpoints=["last"])
    assert files(tmp_path) == ["last"]
    rows, found = history(tmp_path), score(region, tmp_path)
    assert list(found) == ["last"] and found["last"]["epoch"] == 3
    assert found["last"]["val"]["mean_iou"] == pytest.approx(rows[-1]["val_mean_iou"], abs=1e-12)
    table = build_table(a_study("tiny"), tmp_path / "results")
    assert table["checkpoint"].tolist() == ["last"] and table["epochs"].tolist() == [3]


def test_a_checkpoint_per_score(region: Path, tmp_path: Path) -> None:
    kept = ["val_mean_iou", "val_iou_bright", "train_loss", "monitor", "last"]
    monitor = {"name": "mean_iou", "params": {"leave_out": ["dark"]}}
    run_training(region, tmp_path, epochs=5, checkpoints=kept, monitor=monitor, lr=0.02)
    names = ["best_iou_bright", "best_mean_iou", "best_monitor", "best_train_loss", "last"]
    rows = history(tmp_path)
    assert files(tmp_path) == names
    found = score(region, tmp_path)
    assert sorted(found) == names
    columns = ["val_iou_bright", "val_mean_iou", "val_monitor", "train_loss"]
    for name, column in zip(names, columns, strict=False):
        assert found[name]["epoch"] == best_epoch(rows, column), name
        facts = read_json(tmp_path / "results/runs/tiny/checkpoints" / f"{name}.json")
        assert facts[column] == rows[facts["epoch"] - 1][column] and facts["checkpoint"] == name
    assert found["last"]["epoch"] == 5
    assert read_json(tmp_path / "results/runs/tiny/run.json")["checkpoints"] == [
        "best_mean_iou", "best_iou_bright", "best_train_loss", "best_monitor", "last",
    ]  # fmt: skip
    table = build_table(a_study("tiny"), tmp_path / "results")
    best = max(found, key=lambda name: (found[name]["val"]["mean_iou"], -names.index(name)))
    assert table["checkpoint"].tolist() == [best]
    assert table["val_mean_iou"][0] == pytest.approx(found[best]["val"]["mean_iou"], abs=1e-12)


def test_the_last_epoch_is_kept_but_scored_only_where_it_is_named(region: Path, tmp_path: Path) -> None:
    run_training(region, tmp_path, epochs=2)
    assert files(tmp_path) == ["best_accuracy", "best_jaccard", "last"]
    assert sorted(score(region, tmp_path)) == ["best_accuracy", "best_jaccard"]


def scripted(monkeypatch: pytest.MonkeyPatch, **columns: list[float]) -> None:
    """Let validation give these values, an epoch after the other, the last of them from there on."""
    plain = {"val_loss": 1.0, "val_accuracy": 0.5, "val_jaccard_coefficient": 0.5, "val_mean_iou": 0.5}
    epoch = 0

    def validate(trainer: loop.Trainer) -> dict[str, float]:
        nonlocal epoch
        epoch += 1
        return plain | {name: values[min(epoch, len(values)) - 1] for name, values in columns.items()}

    monkeypatch.setattr(loop, "_validate", validate)


def test_the_early_stop_of_the_mars_protocol(region: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the mean IoU without a class, whatever the plain one does meanwhile."""
    scripted(monkeypatch, val_monitor=[0.1, 0.5, 0.4, 0.4, 0.4], val_mean_iou=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    monitor = {"name": "mean_iou", "params": {"leave_out": ["dark"]}}
    run_training(region, tmp_path, epochs=8, patience=3, monitor=monitor, checkpoints=["monitor"])
    assert len(history(tmp_path)) == 2 + 3
    assert read_json(tmp_path / "results/runs/tiny/checkpoints/best_monitor.json")["epoch"] == 2


def test_what_the_monitor_of_the_family_is(region: Path, tmp_path: Path) -> None:
    monitor = {"name": "mean_iou", "params": {"leave_out": ["dark"]}}
    run_training(region, tmp_path, epochs=2, monitor=monitor, checkpoints=["val_iou_bright", "val_iou_dark"])
    for row in history(tmp_path):
        assert row["val_monitor"] == row["val_iou_bright"]  # the mean over the one class that is left
        assert row["val_mean_iou"] == pytest.approx((row["val_iou_bright"] + row["val_iou_dark"]) / 2)


def test_early_stop_by_the_training_loss(region: Path, tmp_path: Path) -> None:
    run_training(region, tmp_path, epochs=40, patience=2, lr=0.3, monitor="train_loss")
    rows = history(tmp_path)
    assert len(rows) == best_epoch(rows, "train_loss") + 2 < 40


@pytest.mark.parametrize("score", ["val_loss", "val_accuracy"])
def test_a_score_that_is_never_a_number_stops_by_patience(
    region: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: str
) -> None:
    scripted(monkeypatch, **{score: [math.nan]})
    run_training(region, tmp_path, epochs=8, patience=3, monitor=score, checkpoints=["last"])
    assert len(history(tmp_path)) == 3


def test_without_a_number_there_is_no_checkpoint_and_a_line(
    region: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, val_iou_bright=[math.nan])
    lines = run_training(region, tmp_path, epochs=2, checkpoints=["val_iou_bright", "last"])
    assert "val_iou_bright was not a number in any of 2 epochs: no checkpoint of it" in lines
    assert files(tmp_path) == ["last"] and list(score_of := score(region, tmp_path)) == ["last"], score_of
    assert build_table(a_study("tiny"), tmp_path / "results")["checkpoint"].tolist() == ["last"]


def test_without_any_checkpoint_the_training_says_so(
    region: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, val_iou_bright=[math.nan])
    with pytest.raises(RunError) as caught:
        run_training(region, tmp_path, epochs=2, checkpoints=["val_iou_bright"])
    assert str(caught.value) == (
        "val_iou_bright was not a number in any of 2 epochs: no checkpoint of it, and nothing to score; name another "
        "score in the study's checkpoints, or last"
    )
    assert read_json(tmp_path / "results/runs/tiny/run.json")["finished"] is None


def test_numbers_after_none_count(region: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, val_iou_bright=[math.nan, 0.2, math.nan, 0.4, math.nan])
    run_training(region, tmp_path, epochs=5, checkpoints=["val_iou_bright"])
    assert read_json(tmp_path / "results/runs/tiny/checkpoints/best_iou_bright.json")["epoch"] == 4


def test_patience_counts_anew_with_every_stage(region: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses never fall; patience 3, stages of 2 epochs, the third without end: 2 + 2 + 3 epochs."""
    scripted(monkeypatch, val_loss=[1.0])
    stages = lambda **_: lambda epoch, lr, history: Stage(lr, number=min(epoch // 2, 2))  # noqa: E731
    monkeypatch.setattr(schedules, "create", lambda name, **params: stages())
    run_training(region, tmp_path, epochs=30, patience=3)
    assert len(history(tmp_path)) == 7


def test_seeds_are_runs_of_their_own_and_one_line_of_the_summary(region: Path, tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        run_training(region, tmp_path, f"run{seed}", epochs=2, seed=seed)
        score(region, tmp_path, f"run{seed}")
    weights = [load_file(tmp_path / f"results/runs/run{seed}/checkpoints/last.safetensors") for seed in (0, 1, 2)]
    assert all(any((weights[0][key] != other[key]).any() for key in other) for other in weights[1:])
    table = build_table(a_study("run0", "run1", "run2", seeds=[0, 1, 2]), tmp_path / "results")
    assert table["seed"].tolist() == [0, 1, 2] and table["val_mean_iou"].nunique() > 1
    (line,) = summary(table).to_dict("records")
    values = table["val_mean_iou"].to_numpy(float)
    assert line["n"] == 3 and line["val_mean_iou_mean"] == pytest.approx(values.mean())
    assert line["val_mean_iou_sd"] == pytest.approx(values.std(ddof=1))


def test_the_work_folder_goes_once_all_is_scored(region: Path, tmp_path: Path) -> None:
    run_training(region, tmp_path, epochs=1)
    assert {path.name for path in (tmp_path / "work/tiny").iterdir()} == {"history.csv", "lock", "state.pt"}
    assert (tmp_path / "work/tiny/history.csv").read_bytes() == (
        tmp_path / "results/runs/tiny/history.csv"
    ).read_bytes()
    score(region, tmp_path)
    assert not (tmp_path / "work/tiny").exists()
