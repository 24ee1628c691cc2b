"""What the charts draw, read back from the figures themselves, and that equal input gives equal bytes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from pipeline.errors import RunError
from pipeline.report import figures as F
from pipeline.report import table as T

from .conftest import CLASSES, COLOURS, World, build_world, network, other


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that a test saves, laid out and still open to inspection."""
    kept: list[Figure] = []
    real = F.save

    def keep(figure: Figure, out: Path, dpi: int = 130) -> None:
        real(figure, out, dpi)
        kept.append(figure)

    monkeypatch.setattr(F, "save", keep)
    return kept


def lines(figure: Figure, title: str) -> list[Any]:
    return next(ax for ax in figure.axes if ax.get_title(loc="left") == title).get_lines()


def grid_world(root: Path, count: int) -> World:
    runs = [
        network(model, loss, lr=lr, **{"train.lr": lr})
        for model in ("unet", "fpn") for loss in ("focal", "jaccard") for lr in np.geomspace(1e-4, 1e-2, count).tolist()
    ]  # fmt: skip
    return build_world(root, runs)


def test_learning_curves_draw_every_epoch_of_every_run(world: World, drawn: list[Figure]) -> None:
    table = T.build_table(world.study, world.results)
    caption = F.learning_curves(world.study, world.results, world.root / "curves.png", table)
    assert "4 networks" in caption and "black" not in caption
    by_loss = {
        loss: [r for r in world.study.runs if r.name in r.id and f"-{loss}-" in r.id] for loss in ("focal", "jaccard")
    }
    for loss, runs in by_loss.items():
        got = lines(drawn[0], f"Loss: {loss}")
        assert len(got) == 2 * len(runs) == 4
        wanted = [pd.read_csv(world.folder(run.id) / "history.csv") for run in runs]
        for style, column in (("--", "train_loss"), ("-", "val_loss")):
            values = sorted(tuple(line.get_ydata()) for line in got if line.get_linestyle() == style)
            assert values == sorted(tuple(history[column]) for history in wanted)
    scores = lines(drawn[0], "Validation mean IoU")
    assert len(scores) == 4 and len({line.get_color() for line in scores}) == 4
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels == ["unet · focal", "unet · jaccard", "fpn · focal", "fpn · jaccard"]


def test_many_runs_share_colours_and_the_best_is_black(tmp_path: Path, drawn: list[Figure]) -> None:
    world = grid_world(tmp_path, 4)
    table = T.build_table(world.study, world.results)
    F.learning_curves(world.study, world.results, tmp_path / "curves.svg", table)
    got = lines(drawn[0], "Validation mean IoU")
    best = T.best_run(table, "val_mean_iou")
    black = [line for line in got if line.get_color() == "black"]
    assert len(got) == 16 and len(black) == 1
    wanted = pd.read_csv(world.folder(best) / "history.csv")["val_mean_iou"]
    assert black[0].get_ydata().tolist() == wanted.to_list() and got[-1] is black[0]
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels == ["unet", "fpn", f"best: {table.set_index('run').loc[best, 'model.name']}"]


def test_no_network_no_curves(world: World) -> None:
    study = dataclasses.replace(world.study, runs=world.study.runs[4:])
    with pytest.raises(RunError, match="no trained network"):
        F.learning_curves(study, world.results, world.root / "x.png", pd.DataFrame())


def test_bars_are_the_table_with_baselines_hatched(world: World, drawn: list[Figure]) -> None:
    table = T.build_table(world.study, world.results).set_index("run", drop=False)
    table.loc[world.study.runs[4].id, "test_iou_water"] = np.nan
    F.class_iou_bars(table.reset_index(drop=True), "val_mean_iou", world.root / "bars.png")
    ax = drawn[0].axes[0]
    order = sorted(world.study.runs[:4], key=lambda run: -table.loc[run.id, "val_mean_iou"]) + world.study.runs[4:]
    assert len(ax.containers) == 6
    for bars, run in zip(ax.containers, order, strict=True):
        wanted = table.loc[run.id, [f"test_iou_{name}" for name in CLASSES]].fillna(0).to_list()
        assert [bar.get_width() for bar in bars] == pytest.approx(wanted)
        assert all((bar.get_hatch() is not None) == (run.kind != "run") for bar in bars)
    assert [text.get_text() for text in ax.texts].count("absent") == 1


def test_bars_keep_the_best_run_of_each_model_and_loss(tmp_path: Path) -> None:
    world = grid_world(tmp_path, 3)
    table = T.build_table(world.study, world.results)
    wanted = [table.loc[part["val_mean_iou"].idxmax(), "run"] for _, part in table.groupby(["model.name", "loss.name"])]
    assert sorted(F._bar_rows(table, "val_mean_iou")) == sorted(wanted)


def test_one_loss_with_other_parameters_is_another_loss(tmp_path: Path, drawn: list[Figure]) -> None:
    runs = [network("unet", "focal", lr=lr, **{"loss.gamma": gamma}) for lr, gamma in ((1e-3, 1.0), (1e-4, 2.0))]
    world = build_world(tmp_path, runs)
    table = T.build_table(world.study, world.results)
    F.learning_curves(world.study, world.results, tmp_path / "curves.png", table)
    for title in ("Loss: focal gamma 1.0", "Loss: focal gamma 2.0"):
        assert len(lines(drawn[0], title)) == 2
    assert sorted(F._bar_rows(table, "val_mean_iou")) == sorted(run.id for run in runs)


def test_label_distribution_stacks_shares_to_one_in_scheme_colours(tmp_path: Path, drawn: list[Figure]) -> None:
    pixels = {"train": [40, 30, 20, 10], "val": [1, 1, 1, 1], "test": [0, 0, 3, 1]}
    splits = {"block": {part: dict(zip(CLASSES, counts, strict=True)) for part, counts in pixels.items()}}
    colours = dict(zip(CLASSES, map(tuple, COLOURS), strict=True))
    F.label_distribution(splits, colours, tmp_path / "labels.png")  # type: ignore[arg-type]
    ax = drawn[0].axes[0]
    widths = np.array([bar.get_width() for bar in ax.patches]).reshape(3, 4)
    assert widths == pytest.approx(np.array(list(pixels.values())) / [[100], [4], [4]])
    first = [tuple(round(255 * part) for part in to_rgb(bar.get_facecolor())) for bar in ax.patches[:4]]
    assert first == list(colours.values())
    ends = [bar.get_x() + bar.get_width() for bar in ax.patches[3::4]]
    assert ends == pytest.approx([1, 1, 1])


def test_confusion_rows_are_shares_of_the_labelled_class(tmp_path: Path, drawn: list[Figure]) -> None:
    F.confusion_matrix(np.array([[3, 1], [0, 0]]), ["a", "b"], tmp_path / "confusion.png")
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["75.0%", "25.0%", "—", "—"]


def test_equal_input_gives_equal_bytes(world: World) -> None:
    table = T.build_table(world.study, world.results)
    colours = dict(zip(CLASSES, map(tuple, COLOURS), strict=True))
    splits = {"block": {"train": dict.fromkeys(CLASSES, 5)}}
    found = []
    for attempt in "ab":
        names = ("curves.svg", "bars.png", "labels.svg", "confusion.png")
        paths = [world.root / f"{attempt}{name}" for name in names]
        F.learning_curves(world.study, world.results, paths[0], table)
        F.class_iou_bars(table, "val_mean_iou", paths[1])
        F.label_distribution(splits, colours, paths[2])  # type: ignore[arg-type]
        F.confusion_matrix(np.eye(4, dtype=np.int64), CLASSES, paths[3])
        found.append([path.read_bytes() for path in paths])
    assert found[0] == found[1] and len(set(found[0])) == 4


def test_labels_tell_runs_apart(tmp_path: Path) -> None:
    runs = [network("unet", loss, seed=seed) for loss in ("focal", "jaccard") for seed in (0, 1)]
    world = build_world(tmp_path, [*runs, other("baseline", "landcover")])
    table = T.build_table(world.study, world.results)
    ids = [run.id for run in world.study.runs]
    assert F.short_labels(table, ids[:1]) == ["unet"]
    assert F.short_labels(table, [ids[0], ids[2]]) == ["focal", "jaccard"]
    assert F.short_labels(table, ids[:2]) == ["unet · seed 0", "unet · seed 1"]
    assert len(set(F.short_labels(table, ids))) == 5


def test_long_settings_stay_inside_the_iou_chart(tmp_path: Path, drawn: list[Figure]) -> None:
    """A weighted sum names its terms and their parameters."""
    terms = [{"boundary_f1": {"theta": 5, "theta0": 3}}, "cross_entropy", {"tversky": {"alpha": 0.7, "beta": 0.3}}]
    runs = [network("unet", "weighted_sum", lr=lr, **{"loss.terms": terms, "train.lr": lr}) for lr in (1e-3, 1e-4)]
    runs[1].varied["loss.terms"] = [*terms, "generalized_dice", {"focal": {"reduction": "pixels", "gamma": 3.0}}]
    world = build_world(tmp_path, runs)
    F.class_iou_bars(T.build_table(world.study, world.results), "val_mean_iou", tmp_path / "bars.png")
    (legend,), width = drawn[0].legends, drawn[0].get_figwidth() * 130  # px as saved
    for text in legend.get_texts():
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= width
