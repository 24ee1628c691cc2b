"""Charts of a study: learning curves, label shares per split, IoU per class, confusion. Equal input, equal bytes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pandas as pd

from pipeline.errors import RunError
from pipeline.files import atomic_file
from pipeline.report.results import Array, lower_is_better, plain, read_history
from pipeline.report.table import best_run, short_labels

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

if TYPE_CHECKING:
    from pipeline.runs import Run, Study

# Okabe and Ito's palette, told apart by colour-blind readers too; yellow and black left out
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A5195", "#5C5C5C")
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "pipeline",
}
TITLE_WIDTH = 40  # characters that stand above a panel
LABEL_WIDTH = 84  # characters of a line in the legend of the IoU chart
FEW_RUNS = 8  # up to here each run has its own colour and name in the learning curves
MOST_BARS = 10  # rows of the per-class chart
SCORE_NAMES = {
    "val_accuracy": "Validation accuracy",
    "val_mean_iou": "Validation mean IoU",
    "val_jaccard_coefficient": "Validation Jaccard coefficient",
}


@contextmanager
def styled() -> Iterator[None]:
    """The house style for the figures drawn inside."""
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "Agg", **STYLE}):
        yield


def save(figure: Figure, out: Path, dpi: int = 130) -> None:
    """Write a figure as the suffix of `out` says (.png, .svg, .jpg), without dates or versions, and close it."""
    metadata: dict[str, Any] = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}.get(out.suffix, {})
    with atomic_file(out) as temporary:
        figure.savefig(temporary, dpi=dpi, metadata=metadata or None, facecolor="white")
    pyplot.close(figure)


def learning_curves(study: Study, results: Path, out: Path, table: pd.DataFrame) -> str:
    """Draw the losses and the validation scores of all networks over the epochs; return the caption.

    One panel per loss function (training dashed, validation solid: losses of different functions do not compare), then
    one per validation score. Up to 8 runs have a colour each; more share one per value of the setting that varies most
    usefully (`_colour_setting`) and the best run stands out in black.
    """
    networks = [run for run in study.runs if run.kind == "run"]
    if not networks:
        raise RunError(f"study {study.name!r} has no trained network, so there are no learning curves")
    histories = {run.id: _history(run, results) for run in networks}
    best = best_run(table, study.config.select)
    labels, colours = _groups(networks, table)
    losses = list(dict.fromkeys(_loss(run) for run in networks))
    scores = [name for name in SCORE_NAMES if any(name in history for history in histories.values())]
    columns = max(2, min(3, max(len(losses), len(scores))))
    rows = math.ceil(len(losses) / columns) + math.ceil(len(scores) / columns)
    with styled():
        figure, grid = pyplot.subplots(rows, columns, figsize=(3.6 * columns, 2.7 * rows), layout="constrained")
        axes = list(np.atleast_1d(grid).ravel())
        first_score = math.ceil(len(losses) / columns) * columns
        for ax, loss in zip(axes, losses, strict=False):
            own = [run for run in networks if _loss(run) == loss]
            _draw(ax, own, histories, labels, colours, best, {"train_loss": "--", "val_loss": "-"})
            ax.set_title(textwrap.shorten(f"Loss: {loss}", TITLE_WIDTH, placeholder=" …"))
        for ax, score in zip(axes[first_score:], scores, strict=False):
            _draw(ax, networks, histories, labels, colours, best, {score: "-"})
            ax.set_title(SCORE_NAMES[score])
        for ax in axes:
            if ax.has_data():
                ax.set_xlabel("epoch")
                ax.xaxis.get_major_locator().set_params(integer=True)
            else:
                ax.set_axis_off()
        _legend(figure, labels, colours, best if len(networks) > FEW_RUNS else None)
        save(figure, out)
    return (
        f"Learning curves of {len(networks)} networks. Losses: training dashed, validation solid; one panel per loss "
        "function, since their values do not compare."
        + (" The run with the best validation score is black." if len(networks) > FEW_RUNS else "")
    )


def _history(run: Run, results: Path) -> pd.DataFrame:
    history = read_history(run, Path(results) / "runs" / run.id)
    return pd.DataFrame({"epoch": []}) if history is None else history


def _loss(run: Run) -> str:
    """The loss with the parameters that the study varies: what has one scale."""
    own = {name.removeprefix("loss."): value for name, value in run.varied.items() if name.startswith("loss.")}
    name = own.pop("name", None) or run.spec.get("loss", {}).get("name", "loss")
    return " ".join([str(name), *(f"{key} {plain(value)}" for key, value in own.items())])


def _groups(networks: Sequence[Run], table: pd.DataFrame) -> tuple[dict[str, str], dict[str, str]]:
    """(run id → label, label → colour)."""
    if len(networks) <= FEW_RUNS:
        labels = dict(zip([run.id for run in networks], short_labels(table, [run.id for run in networks]), strict=True))
    else:
        path = _colour_setting(networks)
        prefix = "" if path.endswith(".name") else f"{path.rsplit('.', 1)[-1]} "
        labels = {run.id: f"{prefix}{plain(run.varied[path])}" if path in run.varied else run.name for run in networks}
    distinct = list(dict.fromkeys(labels.values()))
    return labels, {label: PALETTE[index % len(PALETTE)] for index, label in enumerate(distinct)}


def _colour_setting(networks: Sequence[Run]) -> str:
    """The first varied setting with 2 to 8 values; ``model.name`` when none has."""
    for path in dict.fromkeys(path for run in networks for path in run.varied):
        if 2 <= len({str(run.varied.get(path)) for run in networks}) <= len(PALETTE):
            return path
    return "model.name"


def _draw(
    ax: Axes,
    networks: Sequence[Run],
    histories: Mapping[str, pd.DataFrame],
    labels: Mapping[str, str],
    colours: Mapping[str, str],
    best: str,
    lines: Mapping[str, str],
) -> None:
    """Draw `lines` (column → line style) of the runs; with many runs thin and pale, the best black on top."""
    many = len(labels) > FEW_RUNS
    values: list[float] = []
    for run in sorted(networks, key=lambda run: run.id == best):
        history = histories[run.id]
        top = many and run.id == best
        for column, style in lines.items():
            if column not in history:
                continue
            series = history[column].astype(float)
            values += series[np.isfinite(series)].to_list()
            ax.plot(
                history["epoch"],
                series,
                linestyle=style,
                color="black" if top else colours[labels[run.id]],
                linewidth=1.8 if top else (0.7 if many else 1.5),
                alpha=1.0 if top or not many else 0.45,
                marker="." if len(series) == 1 else None,
            )
    if len(values) > 3 and max(values) > 4 * float(np.quantile(values, 0.95)) > 0:
        low = min(values)
        ax.set_ylim(low - 0.05 * abs(low), 1.3 * float(np.quantile(values, 0.95)))
        ax.annotate("off-scale values cut", (0.98, 0.95), xycoords="axes fraction", ha="right", va="top", fontsize=7)


def _legend(figure: Figure, labels: Mapping[str, str], colours: Mapping[str, str], best: str | None) -> None:
    handles = [Line2D([], [], color=colour, linewidth=2, label=label) for label, colour in colours.items()]
    if best is not None:
        handles.append(Line2D([], [], color="black", linewidth=2, label=f"best: {labels[best]}"))
    widest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(4, 100 // (widest + 8)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def label_distribution(
    splits: Mapping[str, Mapping[str, Mapping[str, int]]], colours: Mapping[str, tuple[int, int, int]], out: Path
) -> str:
    """Draw the share of each class in each split as stacked bars; return the caption.

    Args:
        splits: split name → ``train`` / ``val`` / ``test`` → class name → pixels, the ``class_pixels``
            of the split's JSON.
        colours: class name → colour, 0 to 255; classes are stacked in this order.
        out: the file to write, .png or .svg.
    """
    rows = [(name, part, counts) for name, parts in splits.items() for part, counts in parts.items()]
    with styled():
        figure, ax = pyplot.subplots(figsize=(7.2, 0.9 + 0.36 * len(rows)), layout="constrained")
        for position, (_, _, counts) in enumerate(rows):
            total, left = sum(counts.values()), 0.0
            for name, colour in colours.items():
                share = counts.get(name, 0) / total if total else 0.0
                ax.barh(
                    position, share, left=left, color=hex_colour(colour), edgecolor="white", linewidth=0.8, height=0.78
                )
                if share >= 0.05:
                    ax.text(
                        left + share / 2,
                        position,
                        f"{share:.1%}",
                        ha="center",
                        va="center",
                        fontsize=8,
                        color=_ink(colour),
                    )
                left += share
        names = [f"{name} · {part}" if len(splits) > 1 else part for name, part, _ in rows]
        ax.set_yticks(range(len(rows)), names)
        ax.invert_yaxis()
        ax.set_xlim(0, 1)
        ax.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
        ax.set_xlabel("share of labelled pixels")
        ax.grid(False)
        handles = [matplotlib.patches.Patch(color=hex_colour(colour), label=name) for name, colour in colours.items()]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 8))
        save(figure, out)
    return "Share of each class among the labelled pixels of every split."


def hex_colour(colour: tuple[int, int, int]) -> str:
    """A colour as ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _ink(colour: tuple[int, int, int]) -> str:
    """Black or white, whichever reads better on `colour`."""
    return "black" if 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140 else "white"


def class_iou_bars(table: pd.DataFrame, select: str, out: Path) -> str:
    """Draw the test IoU of each class for the best network of every model and loss and for all baselines and rules.

    At most 10 rows are drawn, the networks best by `select` first. Returns the caption.
    """
    chosen = _bar_rows(table, select)
    rows = table[table["run"].isin(chosen)].set_index("run").loc[chosen]
    classes = [name for name in table.columns if name.startswith("test_iou_")]
    labels = [
        textwrap.fill(label if kind == "run" else f"{label} ({kind})", LABEL_WIDTH)
        for label, kind in zip(short_labels(table, chosen), rows["kind"], strict=True)
    ]
    height = 0.82 / len(chosen)
    with styled():
        figure, ax = pyplot.subplots(figsize=(6.6, 0.9 + 0.19 * len(chosen) * len(classes)), layout="constrained")
        networks = 0
        for index, (label, kind) in enumerate(zip(labels, rows["kind"], strict=True)):
            values = rows[classes].iloc[index].astype(float).to_numpy()
            at = np.arange(len(classes)) + (index - (len(chosen) - 1) / 2) * height
            grey = str(0.55 + 0.12 * ((index - networks) % 3))
            colour = PALETTE[networks % len(PALETTE)] if kind == "run" else grey
            hatch = None if kind == "run" else "///"
            networks += kind == "run"
            ax.barh(at, np.nan_to_num(values), height * 0.92, color=colour, hatch=hatch, edgecolor="white", label=label)
            for y, value in zip(at, values, strict=True):
                text = "absent" if math.isnan(value) else f"{value:.3f}"
                ax.text(0.006 + (0.0 if math.isnan(value) else float(value)), float(y), text, va="center", fontsize=7)
        ax.set_yticks(range(len(classes)), [name.removeprefix("test_iou_") for name in classes])
        ax.invert_yaxis()
        ax.set_xlim(0, 1.06)
        ax.set_xticks(np.linspace(0, 1, 6))
        ax.set_xlabel("test IoU")
        ax.grid(False, axis="y")
        widest = max(len(line) for label in labels for line in label.splitlines())
        figure.legend(loc="outside upper center", ncols=max(1, min(3, 90 // (widest + 8))))
        save(figure, out)
    return "Test IoU per class: the best network of each model and loss, and the baselines and rules (hatched)."


def _bar_rows(table: pd.DataFrame, select: str) -> list[str]:
    others = list(table["run"][table["kind"] != "run"])
    networks = table[(table["kind"] == "run") & table[select].notna()]
    ordered = networks.sort_values(select, ascending=lower_is_better(select), kind="stable")
    groups = [name for name in map(str, table) if name == "model.name" or name.startswith("loss.")]
    best = ordered.drop_duplicates(groups) if groups else ordered.head(1)
    chosen = list(best["run"].head(max(1, MOST_BARS - len(others)))) + others
    if not chosen:
        raise RunError("the table has no rows, so there is no IoU to draw")
    return chosen


def confusion_matrix(counts: Array, names: Sequence[str], out: Path) -> str:
    """Draw confusion counts [C, C] (rows truth) as shares of each true class; return the caption."""
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    with styled():
        size = 1.5 + 0.5 * len(names)
        figure, ax = pyplot.subplots(figsize=(size + 0.6, size), layout="constrained")
        ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(*shares.shape):
            text = f"{shares[row, column]:.1%}" if totals[row, 0] else "—"
            ax.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=8,
                color="white" if shares[row, column] > 0.55 else "black",
            )
        ax.set_xticks(range(len(names)), list(names), rotation=30 if len(names) > 6 else 0)
        ax.set_yticks(range(len(names)), list(names))
        ax.spines[:].set_visible(False)
        ax.set_xlabel("predicted")
        ax.set_ylabel("label")
        ax.grid(False)
        save(figure, out)
    return "Confusion of the best run on the test split: shares of each labelled class (rows add up to 100 %)."
