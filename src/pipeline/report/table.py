"""The comparison table of a study: one row per run, scores from summed confusion counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.errors import DataError, RunError
from pipeline.files import atomic_file, write_text
from pipeline.metrics import from_confusion
from pipeline.metrics.statistics import mean_of_last, median_of_last, seed_summary
from pipeline.report.results import (
    IGNORE,
    Array,
    Chips,
    RunResult,
    is_loss,
    lower_is_better,
    open_run,
    plain,
    scores_of,
)

if TYPE_CHECKING:
    from pipeline.runs import Study

REPEATS = ("seed", "data.split")  # what `summary` averages over
COUNTS = ("parameters", "epochs", "val_absent", "test_absent", "seed")
LEADING = ("run", "kind")


def build_table(
    study: Study,
    results: Path,
    truth_chips: Path | Mapping[str, Path] | None = None,
    measures: Mapping[str, Mapping[str, float]] | None = None,
) -> pd.DataFrame:
    """Tabulate a study: one row per run, in the study's order.

    Args:
        study: the resolved study; ``study.config.select`` picks each run's checkpoint.
        results: the folder that holds ``runs/<id>``.
        truth_chips: label store of a truth that no training saw, ``data/<region>/chips/truth``, or one such folder
            per region. The run's own labels are looked up beside it (``../<recipe>``); the comparison counts the
            test pixels where neither is 255. Runs of regions without a folder get NaN.
        measures: run id → further scores ``val_*``, ``test_*`` (`measures.headline_scores`), a column each.

    Returns:
        Columns ``run, kind``, the varied settings by dotted path, ``seed, checkpoint``, ``val_*`` and ``test_*``
        (accuracy, mean_iou, mean_f1, jaccard_coefficient, loss, absent), with `last_epochs` the
        ``val_<score>_last`` of what history.csv has, the further scores, ``test_iou_<class>``, with a truth
        ``truth_mean_iou, truth_accuracy``, then ``parameters, epochs, seconds``. accuracy, mean_iou, mean_f1 and IoU
        come from confusion counts summed over all pixels of a split; ``jaccard_coefficient`` and ``loss`` are the
        batch means that training wrote (NaN for baselines and rules); ``absent`` counts the classes in neither labels
        nor prediction. A missing setting is NaN (a baseline has no loss), a setting that is None reads ``none``.

    Raises RunError in one line naming run and file when something is missing or broken.
    """
    opened = [open_run(run, results, study.config.select) for run in study.runs]
    settings = list(dict.fromkeys(path for run in study.runs for path in run.varied if path != "seed"))
    classes = list(dict.fromkeys(name for result in opened for name in result.classes))
    further = list(dict.fromkeys(name for scores in (measures or {}).values() for name in scores))
    rows = []
    for result in opened:
        run = result.run
        row: dict[str, Any] = {"run": run.id, "kind": run.kind}
        row |= {path: plain(run.varied[path]) if path in run.varied else math.nan for path in settings}
        row |= {"seed": run.spec.get("seed"), "checkpoint": result.checkpoint}
        history = result.history()
        more = {name: (measures or {}).get(run.id, {}).get(name, math.nan) for name in further}
        if study.config.last_epochs is not None:
            more = last_scores(history, study.config.last_epochs, study.config.last_statistic) | more
        for split in ("val", "test"):
            row |= {f"{split}_{name}": result.scores[f"{split}_{name}"] for name in _ORDER}
            row |= {name: value for name, value in more.items() if name.startswith(f"{split}_")}
        iou = from_confusion(result.test) if result.test.sum() else {}
        by_name = {name: iou.get(f"iou_{index}", math.nan) for index, name in enumerate(result.classes)}
        row |= {f"test_iou_{name}": by_name.get(name, math.nan) for name in classes}
        if truth_chips is not None:
            row |= _truth_scores(result, truth_chips)
        row["parameters"] = result.info.get("parameters")
        row["epochs"] = None if history is None else len(history)
        row["seconds"] = _number(result.info.get("seconds"))
        rows.append(row)
    table = pd.DataFrame(rows)
    whole = [path for path in settings if all(_is_whole(run.varied[path]) for run in study.runs if path in run.varied)]
    return table.astype({name: "Int64" for name in (*COUNTS, *whole) if name in table})


_ORDER = ("accuracy", "mean_iou", "mean_f1", "jaccard_coefficient", "loss", "absent")


def last_scores(history: pd.DataFrame | None, last: int, statistic: str = "median") -> dict[str, float]:
    """``val_<score>_last``: median or mean of each validation score over a run's last epochs; {} without a history.

    The medical thesis's protocols report the median of the last five, or the mean of the last three. A shorter run
    takes the epochs it has.
    """
    if history is None:
        return {}
    of_last = {"median": median_of_last, "mean": mean_of_last}[statistic]
    scores = [str(name) for name in history if str(name).startswith("val_")]
    return {f"{name}_last": of_last(history[name].tolist(), last) for name in scores}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _truth_scores(result: RunResult, truth_chips: Path | Mapping[str, Path]) -> dict[str, float]:
    data = result.run.spec["data"]
    folder = truth_chips.get(data["region"]) if isinstance(truth_chips, Mapping) else truth_chips
    if folder is None:
        return {"truth_mean_iou": math.nan, "truth_accuracy": math.nan}
    chips = Path(folder).parent
    counts = truth_counts(result, Path(folder), chips / data["recipe"], chips / data["imagery"])
    scores = scores_of(counts, "truth")
    return {name: scores[name] for name in ("truth_mean_iou", "truth_accuracy")}


def truth_counts(result: RunResult, truth_chips: Path, label_chips: Path, image_chips: Path) -> Array:
    """Confusion [C, C] int64 (rows truth) of a run's test predictions against a truth that no training saw.

    Only pixels that the test scores count too: those with imagery where neither the label nor the truth is 255.
    """
    truth, labels, images = Chips(truth_chips), Chips(label_chips), Chips(image_chips)
    predicted, chips = result.predictions()
    classes = len(result.classes)
    counts = np.zeros((classes, classes), np.int64)
    for row, chip in enumerate(chips):
        expected, label, guess = truth[chip][0], labels[chip][0], np.asarray(predicted[row])
        if not expected.shape == label.shape == guess.shape:
            raise DataError(
                f"chip {chip}: {truth_chips} has {expected.shape}, {label_chips} {label.shape}, run {result.run.id} "
                f"{guess.shape} pixels; cut the chips again and repeat the run"
            )
        scored = (expected != IGNORE) & (label != IGNORE) & images.valid(chip)
        pairs = expected[scored].astype(np.int64) * classes + guess[scored]
        if pairs.size and max(int(expected[scored].max()), int(guess[scored].max())) >= classes:
            raise DataError(f"chip {chip}: {truth_chips} or run {result.run.id} has a class above {classes - 1}")
        counts += np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    return counts


def setting_columns(table: pd.DataFrame) -> list[str]:
    """The varied settings of a table: the columns between ``kind`` and ``seed``."""
    names = list(table.columns)
    return names[names.index("kind") + 1 : names.index("seed")]


def short_labels(table: pd.DataFrame, runs: Sequence[str]) -> list[str]:
    """A readable label per run id: the values of the settings that differ among `runs`, with the seed where needed."""
    rows = table.set_index("run").loc[list(runs)]
    differing = [name for name in setting_columns(table) if rows[name].astype(str).nunique() > 1]
    names = differing or ["model.name"] * ("model.name" in rows)
    labels = []
    for run, row in zip(runs, rows[names].itertuples(index=False), strict=True):
        parts = [
            str(value) if name.endswith(".name") else f"{name.rsplit('.', 1)[-1]} {value}"
            for name, value in zip(names, row, strict=True)
            if not pd.isna(value)
        ]
        labels.append(" · ".join(parts) or run)
    seeds = rows["seed"].astype(str).to_list()
    repeated = len(set(labels)) < len(labels) and len(set(seeds)) > 1
    labels = [f"{label} · seed {seed}" for label, seed in zip(labels, seeds, strict=True)] if repeated else labels
    return labels if len(set(labels)) == len(labels) else list(runs)


def is_score(column: str) -> bool:
    """Whether a column holds a score: ``val_*``, ``test_*`` or ``truth_*``, but not the count of absent classes."""
    return column.startswith(("val_", "test_", "truth_")) and column not in COUNTS


def score_columns(table: pd.DataFrame) -> list[str]:
    """The columns that hold scores, in table order; counts of absent classes are none."""
    return [name for name in table.columns if is_score(name)]


def comparable_columns(table: pd.DataFrame) -> list[str]:
    """The score columns whose best value may be marked: a loss only where all networks minimise the same one.

    Losses are the same when name and parameters are; a table has a column ``loss.*`` for all that differs.
    """
    settings = [name for name in table.columns if name.startswith("loss.")]
    losses = table[table["kind"] == "run"][settings].astype(str).drop_duplicates()
    return [name for name in score_columns(table) if not (is_loss(name) and len(losses) > 1)]


def best_rows(table: pd.DataFrame, column: str) -> pd.Series[bool]:
    """Which rows hold the best value of a score column: all of them at a tie, none where all are NaN."""
    values = table[column].astype(float)
    best = values.min() if lower_is_better(column) else values.max()
    return values == best


def best_run(table: pd.DataFrame, select: str) -> str:
    """The id of the network (kind ``run``) with the best `select`, the first at a tie; RunError if there is none."""
    if select not in table:
        raise RunError(f"the table has no column {select!r}; its scores are {', '.join(score_columns(table))}")
    networks = table[(table["kind"] == "run") & table[select].notna()]
    if networks.empty:
        raise RunError(f"no trained network has a {select}: a study needs at least one model and one loss")
    return str(networks["run"][best_rows(networks, select)].iloc[0])


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over seeds and folds.

    Rows alike in kind and every varied setting other than ``seed`` and ``data.split`` are one group. For each score
    column s there are ``s_mean`` and ``s_sd`` (n − 1 in the denominator; NaN for a single row; rows where the score is
    NaN are left out), besides ``n``, the number of rows.
    """
    settings = [name for name in setting_columns(table) if name not in REPEATS]
    groups: dict[tuple[str, ...], list[int]] = {}
    for position, values in enumerate(table[["kind", *settings]].to_numpy(object)):
        groups.setdefault(tuple(str(value) for value in values), []).append(position)
    rows = []
    for positions in groups.values():
        part = table.iloc[positions]
        row: dict[str, Any] = {name: part[name].iloc[0] for name in ("kind", *settings)} | {"n": len(part)}
        for score in score_columns(table):
            over = seed_summary(part[score].astype(float).tolist())
            row |= {f"{score}_mean": over["mean"], f"{score}_sd": over["sd"]}
        rows.append(row)
    return pd.DataFrame(rows)


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    """The table with networks first, baselines and rules below, each in the order of the table."""
    return pd.concat([table[table["kind"] == "run"], table[table["kind"] != "run"]])


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write the table as CSV; floats are the shortest text that reads back as the same number, NaN is empty."""
    with atomic_file(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table that `write_csv` wrote; the text ``none`` in a setting stays text. DataError when it cannot be."""
    try:
        table = pd.read_csv(
            path, float_precision="round_trip", keep_default_na=False, na_values=[""], dtype_backend="numpy_nullable"
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({' '.join(str(error).split())}); build the study's table again"
        ) from None
    floats = [name for name in table if is_score(str(name)) or table[name].dtype == "Float64"]
    return table.astype({name: "float64" for name in (*floats, "seconds") if name in table})


def write_markdown(table: pd.DataFrame, path: Path, *, title: str, select: str) -> None:
    """Write the table as Markdown: networks first, then baselines and rules; best values bold, 4 decimals.

    The best value of a score column is taken over all rows; at a tie each one is bold. A loss column has no best value
    when the networks minimise different losses.
    """
    rows = ranked(table)
    marked = {name: best_rows(rows, name).to_list() for name in comparable_columns(rows)}
    scores = score_columns(rows)
    lines = [
        f"# {_cell(title)}",
        "",
        f"Checkpoints and the best run are picked by `{select}`. Best values are bold.",
        "",
    ]
    lines.append("| " + " | ".join(_cell(name) for name in rows.columns) + " |")
    right = {*scores, *COUNTS, "seconds"}
    lines.append("|" + "|".join("--:" if name in right else ":--" for name in rows.columns) + "|")
    for position, values in enumerate(rows.itertuples(index=False)):
        cells = []
        for name, value in zip(rows.columns, values, strict=True):
            text = _cell(show(name, value))
            cells.append(f"**{text}**" if name in marked and marked[name][position] else text)
        lines.append("| " + " | ".join(cells) + " |")
    write_text(path, "\n".join(lines) + "\n")


def show(column: str, value: Any) -> str:
    """A cell as people read it: scores with 4 decimals, parameters with thousands separators, nothing as —."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "—"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if is_score(column):
        return f"{float(value):.4f}"
    if column == "parameters":
        return f"{int(value):,}"
    if column == "seconds":
        return f"{float(value):.1f}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
