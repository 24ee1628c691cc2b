"""What the report says, as plain text and cells: sentences, the headline, tables. The template only lays it out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.report.results import is_loss, lower_is_better, plain
from pipeline.report.table import (
    REPEATS,
    best_rows,
    best_run,
    comparable_columns,
    is_score,
    ranked,
    score_columns,
    setting_columns,
    short_labels,
    show,
)

if TYPE_CHECKING:
    from pipeline.runs import Study

FEW_BLOCKS = 20  # below some 20, intervals of a bootstrap are too narrow
MOST_ROWS = 1000  # rows of the page's comparison table; table.csv always has all of them
NAMES = {
    "accuracy": "accuracy",
    "mean_iou": "mean IoU",
    "mean_f1": "mean F1",
    "jaccard_coefficient": "Jaccard coefficient",
    "loss": "loss",
    "absent": "absent classes",
}
PARTS = {"val": "Validation", "test": "Test", "truth": "Independent truth"}
View = dict[str, Any]


def score_name(column: str) -> str:
    """A score column in words: ``val_mean_iou`` → ``validation mean IoU``."""
    group, name = column_heading(column)
    return f"{group.lower()} {name}"


def column_heading(column: str) -> tuple[str, str]:
    """(group, name) of a column in the page's header."""
    if column.startswith("test_iou_"):
        return "Test IoU by class", column.removeprefix("test_iou_")
    part, _, rest = column.partition("_")
    if part in PARTS and (rest in NAMES or is_score(column)):
        return PARTS[part], NAMES.get(rest, rest.replace("_", " "))
    return ("Cost", column) if column in ("parameters", "epochs", "seconds") else ("Setting", column)


def count_of(number: int, thing: str) -> str:
    """``1 model``, ``3 models``, ``2 losses``."""
    plural = thing + ("es" if thing.endswith("s") else "s")
    return f"{number} {thing if number == 1 else plural}"


def listing(values: Sequence[Any], most: int = 6) -> str:
    """``a, b and c``; beyond `most` values the rest is counted."""
    texts = [str(value) for value in values]
    if len(texts) > most:
        texts = [*texts[: most - 1], f"{len(texts) - most + 1} more"]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def introduction(study: Study, table: pd.DataFrame) -> str:
    """One paragraph on what the study compares and how it scores, built from its runs."""
    networks = [run for run in study.runs if run.kind == "run"]
    models = list(dict.fromkeys(run.spec["model"]["name"] for run in networks))
    losses = list(dict.fromkeys(run.spec["loss"]["name"] for run in networks))
    text = (
        f"{count_of(len(networks), 'trained network')} {'is' if len(networks) == 1 else 'are'} compared: "
        f"{count_of(len(models), 'model')} ({listing(models)}) with {count_of(len(losses), 'loss')} ({listing(losses)})"
    )
    seeds = sorted({run.spec["seed"] for run in networks})
    others = [name for name in setting_columns(table) if name not in ("model.name", "loss.name")]
    axes = {name: values for name in others if len(values := table[name].dropna().unique()) > 1}
    parts = [f"{name} {listing([show(name, value) for value in values])}" for name, values in axes.items()]
    parts += [f"seeds {listing(seeds)}"] if len(seeds) > 1 else []
    text += f", over {'; '.join(parts)}." if parts else "."
    for kind in ("baseline", "rule"):
        names = list(dict.fromkeys(run.name for run in study.runs if run.kind == kind))
        verb = "stands" if len(names) == 1 else "stand"
        text += f" Beside them {verb} {count_of(len(names), kind)}: {listing(names)}." if names else ""
    return (
        f"{text} {_data_sentence(study)} The {score_name(study.config.select)} picks each network's checkpoint and the "
        "best network; test scores pick nothing. Accuracy, F1 and IoU come from confusion counts summed over all "
        "labelled pixels of a split; the Jaccard coefficient is the mean over batches of the soft quantity that "
        "training watches."
    )


def _data_sentence(study: Study) -> str:
    data = [run.spec["data"] for run in study.runs]
    region, imagery, recipe, split = (
        listing(list(dict.fromkeys(item[key] for item in data))) for key in ("region", "imagery", "recipe", "split")
    )
    return f"The data are region {region} with imagery {imagery}, labels by recipe {recipe}, split {split}."


def headline(table: pd.DataFrame, select: str) -> View:
    """The best network with its scores, and its margin over the best baseline on the same data.

    Returns ``run``, ``label``, ``cards`` (name, value, note) and ``sentence``.
    """
    best: dict[str, Any] = table[table["run"] == best_run(table, select)].to_dict("records")[0]  # type: ignore[assignment]
    label = _label(best)
    cards = [{"name": score_name(select), "value": show(select, best[select]), "note": "picked the network"}]
    for column in ("test_mean_iou", "test_accuracy", "test_jaccard_coefficient", "truth_mean_iou"):
        if column in best and not _empty(best[column]):
            note = "mean over batches" if column.endswith("coefficient") else ""
            cards.append({"name": score_name(column), "value": show(column, best[column]), "note": note})
    sentence = f"{label}, checkpoint {best['checkpoint']}, has the best {score_name(select)} ({cards[0]['value']})."
    score = "test_mean_iou" if _empty(best.get("truth_mean_iou")) else "truth_mean_iou"
    rival = _best_baseline(table, best, score)
    if rival is None or _empty(best[score]):
        sentence += " No baseline was scored on the same test data, so there is no margin to report."
    else:
        ours, theirs = float(best[score]), float(rival[score])
        points = 100 * (ours - theirs)
        verb = "ahead of" if points > 0 else "behind" if points < 0 else "level with"
        sentence += (
            f" In {score_name(score)} it is {f'{abs(points):.2f} points ' if points else ''}{verb} the best "
            f"{rival['kind']}, {rival.get('model.name', rival['run'])} ({ours:.4f} against {theirs:.4f})."
        )
        value = f"{points:+.2f}".replace("-", "−")
        cards.append(
            {"name": f"margin over the best {rival['kind']}", "value": value, "note": f"points of {score_name(score)}"}
        )
    if "model.name" in table and (table["model.name"] == "landcover").any():
        sentence += " The land cover is itself part of the labels, so its scores against them flatter it."
    return {"run": best["run"], "label": label, "cards": cards, "sentence": sentence}


def _empty(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _best_baseline(table: pd.DataFrame, best: Mapping[str, Any], score: str) -> dict[str, Any] | None:
    """The baseline with the best `score` among those on the same region, imagery, labels and split.

    Without baselines a rule takes its place.
    """
    rows = table[table["kind"] == ("baseline" if (table["kind"] == "baseline").any() else "rule")]
    for name in ("data.region", "data.imagery", "data.recipe", "data.split"):
        if name in rows:
            rows = rows[rows[name].astype(str) == str(best[name])]
    rows = rows[rows[score].notna()]
    first = rows[best_rows(rows, score)].to_dict("records")
    return first[0] if first else None  # type: ignore[return-value]


def comparison(table: pd.DataFrame, select: str) -> View:
    """The comparison table as cells.

    Returns ``groups`` (name, span), ``columns`` (key, name, number, first of its group), ``bodies`` (title, rows) and
    ``left_out``, the number of networks beyond the best 1000. A row has ``number``, ``run``, ``kind``, ``picked`` and
    ``cells``; a cell has ``text``, ``sort`` and ``best``.
    """
    full = ranked(table).reset_index(drop=True)
    marks = {name: best_rows(full, name).to_list() for name in comparable_columns(full)}
    names = [name for name in full.columns if name not in ("run", "kind") and not _dull(full, name)]
    networks = full[full["kind"] == "run"]
    kept = networks.sort_values(select, ascending=lower_is_better(select), kind="stable").index[:MOST_ROWS]
    best = best_run(table, select)
    bodies = [{"title": "Networks", "rows": []}, {"title": "Baselines and rules", "rows": []}]
    for position, values in enumerate(full.to_dict("records")):
        network = values["kind"] == "run"
        if network and position not in kept:
            continue
        cells = [
            {
                "text": show(name, values[name]),
                "sort": _sort_key(values[name]),
                "best": name in marks and marks[name][position],
            }
            for name in names
        ]
        row = {"number": position + 1, "run": values["run"], "kind": values["kind"], "picked": values["run"] == best}
        bodies[not network]["rows"].append(row | {"cells": cells})  # type: ignore[attr-defined]
    columns: list[View] = []
    groups: list[View] = []
    for name in names:
        group, heading = column_heading(name)
        columns.append(
            {
                "key": name,
                "name": heading,
                "number": _numeric(full, name),
                "first": not groups or groups[-1]["name"] != group,
            }
        )
        if columns[-1]["first"]:
            groups.append({"name": group, "span": 0})
        groups[-1]["span"] += 1
    filled = [body for body in bodies if body["rows"]]
    return {"groups": groups, "columns": columns, "bodies": filled, "left_out": len(networks) - len(kept)}


def _dull(table: pd.DataFrame, column: str) -> bool:
    """Columns that would say nothing on the page: no class absent anywhere, or no value at all."""
    if column in ("val_absent", "test_absent"):
        return bool((table[column].fillna(0) == 0).all())
    return bool(table[column].isna().all())


def _numeric(table: pd.DataFrame, column: str) -> bool:
    return is_score(column) or pd.api.types.is_numeric_dtype(table[column].infer_objects())


def _sort_key(value: Any) -> str:
    """What the page sorts by: a number, or text; empty where there is no value."""
    if _empty(value):
        return ""
    return repr(float(value)) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def summary_view(summary: pd.DataFrame) -> View | None:
    """Mean ± standard deviation as cells; None when no group has two rows."""
    if summary.empty or int(summary["n"].max()) < 2:
        return None
    names = list(summary.columns)
    settings = names[1 : names.index("n")]
    scores = [name.removesuffix("_mean") for name in names if name.endswith("_mean") and is_score(name)]
    scores = [name for name in scores if not summary[f"{name}_mean"].isna().all()]
    marks = {
        name: best_rows(summary.rename(columns={f"{name}_mean": name}), name).to_list()
        for name in scores
        if not is_loss(name)
    }
    rows = []
    for position, row in enumerate(summary.to_dict("records")):
        cells = [{"text": show(name, row[name]), "best": False, "number": False} for name in settings]
        cells.append({"text": str(row["n"]), "best": False, "number": True})
        for name in scores:
            mean, deviation = row[f"{name}_mean"], row[f"{name}_sd"]
            text = show(name, mean) + ("" if _empty(deviation) else f" ± {deviation:.4f}")
            cells.append({"text": text, "best": name in marks and marks[name][position], "number": True})
        rows.append(cells)
    headings = [*settings, "n", *(score_name(name) for name in scores)]
    return {"headings": headings, "rows": rows, "over": " and ".join(REPEATS)}


def intervals_view(table: pd.DataFrame, intervals: pd.DataFrame, paired: pd.DataFrame) -> View | None:
    """Test mean IoU of each run with its interval, and the best network's lead over it; None without intervals.

    Returns ``blocks`` (how many there are, the fewest first), ``few`` (whether that is below some 20), ``least_p`` (the
    smallest p that so few blocks allow; empty where that is below 0.01) and ``rows`` of ``number`` (the run's on the
    page), ``label``, ``value``, ``interval``, ``lead``, ``lead_interval`` and ``p``.
    """
    own = intervals[intervals["score"] == "mean_iou"].set_index("run")
    if own.empty:
        return None
    leads = paired[paired["score"] == "mean_iou"].set_index("other")
    labels = _labels(table)
    rows = []
    for number, row in enumerate(ranked(table).head(MOST_ROWS).to_dict("records"), start=1):
        if row["run"] not in own.index:
            continue
        found = own.loc[row["run"]]
        entry = {"number": number, "label": labels[row["run"]], "value": show("test_mean_iou", found["value"])}
        entry |= {"interval": _range(found, ""), "lead": "—", "lead_interval": "—", "p": "—"}
        if row["run"] in leads.index:
            lead = leads.loc[row["run"]]
            p = "—" if _empty(lead["p"]) else f"{lead['p']:.3f}" if lead["p"] >= 0.001 else "< 0.001"
            entry |= {"lead": _signed(lead["difference"]), "lead_interval": _range(lead, "+"), "p": p}
        rows.append(entry)
    blocks = sorted({int(number) for number in own["blocks"]})
    least = min(1.0, 2.0 ** (1 - blocks[0]))  # all swaps, or none, are as far apart as the runs are
    least_p = f"{least:.3g}" if least >= 0.01 else ""
    return {"rows": rows, "blocks": listing(blocks), "few": blocks[0] < FEW_BLOCKS, "least_p": least_p}


def _labels(table: pd.DataFrame) -> dict[str, str]:
    """Run id → what the run is, with the settings and the seed that tell it from its like where several are alike."""
    labels = {row["run"]: _label(row) for row in table.to_dict("records")}
    networks = table.loc[table["kind"] == "run", "run"].to_list()
    if len({labels[run] for run in networks}) < len(networks):
        labels |= dict(zip(networks, short_labels(table, networks), strict=True))
    return labels


def _label(row: Mapping[Any, Any]) -> str:
    """A run by what it is: model and loss, or the name of a baseline."""
    parts = [str(row[name]) for name in ("model.name", "loss.name") if name in row and not _empty(row[name])]
    return " + ".join(parts) or str(row["run"])


def _signed(value: float) -> str:
    return "—" if _empty(value) else f"{value:+.4f}".replace("-", "−")


def _range(row: Mapping[Any, Any] | pd.Series[Any], sign: str) -> str:
    low, high = float(row["low"]), float(row["high"])
    if math.isnan(low) or math.isnan(high):
        return "—"
    return f"{low:{sign}.4f} to {high:{sign}.4f}".replace("-", "−")


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings by dotted path, as text; the level ``params`` is left out of the path."""
    found: dict[str, str] = {}
    for key, item in value.items():
        path = prefix if key == "params" else f"{prefix}.{key}" if prefix else str(key)
        if isinstance(item, Mapping):
            found |= flat(item, path)
        else:
            found[path] = json.dumps(item) if isinstance(item, bool) else str(plain(item))
    return found


def provenance_view(runs: Sequence[Mapping[str, Any]]) -> View:
    """Where each run comes from: what all share once, what differs per run.

    Returns ``shared`` (key → text) and ``rows`` (run, kind, facts), from the content of run.json files.
    """
    facts = []
    for info in runs:
        own = {key: info[key] for key in ("spec", "hashes", "versions", "device", "started", "finished") if key in info}
        spec = flat(own.pop("spec", {}))
        facts.append({key: text for key, text in (spec | flat(own)).items() if key != "kind"})
    keys = list(dict.fromkeys(key for item in facts for key in item))
    networks = [item for item, info in zip(facts, runs, strict=True) if info.get("kind") == "run"] or facts
    shared = {}
    for key in keys:
        values = {item[key] for item in facts if key in item}
        if len(values) == 1 and (len(facts) > 1 or len(networks) == 1) and all(key in item for item in networks):
            shared[key] = values.pop()
    rows = [
        {
            "run": info["id"],
            "kind": info.get("kind", ""),
            "facts": {key: text for key, text in item.items() if key not in shared},
        }
        for info, item in zip(runs, facts, strict=True)
    ]
    return {"shared": shared, "rows": rows}


def split_view(facts: Mapping[str, Any]) -> View:
    """A split's JSON as cells: chips per part, class shares per part, and the share of training chips dropped."""
    chips, pixels = facts["chips"], facts["class_pixels"]
    rows = []
    for part, counts in pixels.items():
        total = sum(counts.values())
        shares = {name: f"{count / total:.2%}" if total else "—" for name, count in counts.items()}
        rows.append(
            {"part": part, "chips": f"{chips.get(part, 0):,}", "pixels": f"{total:,}", "shares": list(shares.values())}
        )
    dropped = float(facts.get("dropped_share_of_train", 0.0))
    sentence = (
        f"Kind {facts['kind']}, seed {facts.get('seed', '—')}, buffer {float(facts.get('buffer_m') or 0):g} m; "
        f"{chips.get('dropped', 0):,} chips dropped for the buffer, {dropped:.1%} of the training chips."
    )
    return {"rows": rows, "classes": list(next(iter(pixels.values()), {})), "sentence": sentence}


def losses_note(table: pd.DataFrame) -> str:
    """Why a loss column has no best value, where that is so; else empty."""
    unmarked = [name for name in score_columns(table) if name not in comparable_columns(table)]
    return "Loss columns have no best value: the networks minimise different losses." if unmarked else ""
