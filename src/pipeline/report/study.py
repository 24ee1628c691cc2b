"""A study from its config to its page: which runs, which files, which figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
from rasterio.enums import Resampling

from pipeline.config import load_classes, load_region
from pipeline.files import atomic_folder, read_json, write_json
from pipeline.grid import Grid
from pipeline.report import figures as draw
from pipeline.report import panels
from pipeline.report.intervals import score_intervals
from pipeline.report.measures import headline_scores
from pipeline.report.render import render_report
from pipeline.report.results import open_run, provenance
from pipeline.report.table import best_run, build_table, read_csv, score_columns, summary, write_csv, write_markdown
from pipeline.runs import Study, expand_runs

Log = Callable[[str], None]
OVERVIEW_PX = 1600


def compare_runs(name: str, results: Path, data: Path, out: Path, log: Log) -> pd.DataFrame:
    """Write the tables of study `name` to the folder `out`.

    They are table.csv, table.md and summary.csv; intervals.csv and paired.csv (`intervals.score_intervals`);
    metrics.json, the best network's scores; curves.csv, every epoch of every network (run, epoch, losses, scores). The
    further scores of runs are read from ``measures/`` there.
    """
    study = expand_runs(name)
    table = build_table(study, results, _truth_folders(study, data), _measures(study, out / "measures"))
    write_csv(table, out / "table.csv")
    write_markdown(table, out / "table.md", title=study.config.title or name, select=study.config.select)
    write_csv(summary(table), out / "summary.csv")
    best = best_run(table, study.config.select)
    intervals, paired = score_intervals(study, results, data, best)
    write_csv(intervals, out / "intervals.csv")
    write_csv(paired, out / "paired.csv")
    row = table[table["run"] == best].iloc[0]
    scores = {name: float(row[name]) for name in score_columns(table) if pd.notna(row[name])}
    write_json(out / "metrics.json", {"best_run": best, **scores})
    write_csv(_curves(study, results), out / "curves.csv")
    shown = [name for name in ("test_mean_iou", "test_accuracy", "truth_mean_iou") if name in scores]
    networks = int((table["kind"] == "run").sum())
    log(f"best of {networks} networks: {best}, " + ", ".join(f"{name} {scores[name]:.4f}" for name in shown))
    return table


def _measures(study: Study, folder: Path) -> dict[str, dict[str, float]]:
    """Run id → the further scores that a table shows; empty where the study asks for none."""
    if not study.metrics:
        return {}
    found = {}
    for run in study.runs:
        measured = read_json(folder / f"{run.id}.json")
        found[run.id] = headline_scores(measured["scores"], measured["classes"])
    return found


def _curves(study: Study, results: Path) -> pd.DataFrame:
    parts = []
    for run in study.runs:
        if run.kind == "run":
            history = pd.read_csv(results / "runs" / run.id / "history.csv")
            history.insert(0, "run", run.id)
            parts.append(history)
    return pd.concat(parts, ignore_index=True)


def _truth_folders(study: Study, data: Path) -> dict[str, Path] | None:
    regions = {run.spec["data"]["region"] for run in study.runs}
    folders = {region: data / region / "chips" / "truth" for region in regions if load_region(region).truth}
    return folders or None


def render_study(
    name: str, table: Path, prediction: Path, results: Path, data: Path, figures: Path, out: Path, log: Log
) -> None:
    """Draw the figures of study `name` into the folder `figures` and write the page `out`.

    intervals.csv and paired.csv lie beside the table.
    """
    study = expand_runs(name)
    frame = read_csv(table)
    captions: dict[str, str] = {}
    with atomic_folder(figures) as folder:
        paths = _draw_figures(study, frame, prediction, results, data, folder, captions)
        context: Any = {
            "runs": provenance(study, results),
            "regions": _regions(study, data),
            "splits": _splits(study, data),
            "captions": captions,
            "intervals": (read_csv(table.with_name("intervals.csv")), read_csv(table.with_name("paired.csv"))),
            "command": f".venv/bin/snakemake --cores all {out}",
        }
        render_report(study, frame, out, figures=paths, context=context)
    log(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {len(paths)} figures")


def _draw_figures(
    study: Study,
    table: pd.DataFrame,
    prediction: Path,
    results: Path,
    data: Path,
    folder: Path,
    captions: dict[str, str],
) -> dict[str, Path]:
    best = next(run for run in study.runs if run.id == best_run(table, study.config.select))
    result = open_run(best, results, study.config.select)
    place = data / best.spec["data"]["region"]
    chips = place / "chips"
    truth = chips / "truth" if (chips / "truth" / "store.json").is_file() else None
    key = {name: folder / f"{name}.png" for name in ("class_iou", "confusion", "learning_curves", "label_distribution")}
    key |= {name: folder / f"{name}.jpg" for name in ("panel", "region")}
    names, colours = result.classes, result.colours
    captions["class_iou"] = draw.class_iou_bars(table, study.config.select, key["class_iou"])
    captions["confusion"] = draw.confusion_matrix(result.test, names, key["confusion"])
    captions["learning_curves"] = draw.learning_curves(study, results, key["learning_curves"], table)
    found = _splits(study, data)
    several = len({split["region"] for split in found}) > 1
    splits = {
        f"{split['region']}, {split['name']}" if several else split["name"]: split["facts"]["class_pixels"]
        for split in found
    }
    captions["label_distribution"] = draw.label_distribution(
        splits, dict(zip(names, colours, strict=True)), key["label_distribution"]
    )
    captions["panel"] = panels.prediction_panel(
        result, chips / best.spec["data"]["imagery"], chips / best.spec["data"]["recipe"], truth, key["panel"]
    )
    grid = Grid.load(place / "grid.json")
    step = max(1, -(-max(grid.width, grid.height) // OVERVIEW_PX))
    captions["region"] = panels.region_overview(
        region_image(place / "imagery" / best.spec["data"]["imagery"], grid, step),
        _thin(prediction, grid, step),
        names=names,
        colours=colours,
        out=key["region"],
        gsd_m=grid.gsd_m * step,
    )
    return key


def region_image(folder: Path, grid: Grid, step: int) -> Any:
    """The region's imagery thinned by `step`, uint8 [ceil(H / step), ceil(W / step), 3]."""
    height, width = -(-grid.height // step), -(-grid.width // step)
    picture: Any = None
    for shard in grid.shards():
        with rasterio.open(folder / f"{shard.name}.tif") as raster:
            rows, cols = -(-shard.height // step), -(-shard.width // step)
            bands = raster.read(out_shape=(raster.count, rows, cols), resampling=Resampling.average)
        if picture is None:
            picture = np.zeros((bands.shape[0], height, width), bands.dtype)
        top, left = shard.row_px // step, shard.col_px // step
        part = picture[:, top : top + rows, left : left + cols]
        part[...] = bands[:, : part.shape[1], : part.shape[2]]
    return panels.display_rgb(picture[None])[0]


def _thin(prediction: Path, grid: Grid, step: int) -> Any:
    with rasterio.open(prediction) as raster:
        return raster.read(
            1, out_shape=(-(-grid.height // step), -(-grid.width // step)), resampling=Resampling.nearest
        )


def _regions(study: Study, data: Path) -> list[dict[str, Any]]:
    regions = []
    for name in dict.fromkeys(run.spec["data"]["region"] for run in study.runs):
        config = load_region(name)
        used = {run.spec["data"]["imagery"] for run in study.runs if run.spec["data"]["region"] == name}
        imagery = [
            {"name": key, "attribution": source.attribution, "terms": source.terms}
            for key, source in config.imagery.items()
            if key in used
        ]
        grid = Grid.load(data / name / "grid.json")
        classes = load_classes(config.classes).names
        regions.append(
            {
                "name": name,
                "title": config.title,
                "gsd_m": grid.gsd_m,
                "bbox": config.bbox,
                "imagery": imagery,
                "classes": classes,
            }
        )
    return regions


def _splits(study: Study, data: Path) -> list[dict[str, Any]]:
    pairs = dict.fromkeys((run.spec["data"]["region"], run.spec["data"]["split"]) for run in study.runs)
    return [
        {
            "name": split,
            "region": region,
            "facts": _split_facts(data / region / "splits" / f"{split}.json", region),
            "picture": data / region / "splits" / f"{split}.png",
        }
        for region, split in pairs
    ]


def _split_facts(path: Path, region: str) -> dict[str, Any]:
    """A split's JSON, its class pixels as one reads them: train, val, test, and the classes in the scheme's order."""
    facts: dict[str, Any] = read_json(path)
    names = load_classes(load_region(region).classes).names
    pixels = facts["class_pixels"]
    facts["class_pixels"] = {part: {name: pixels[part][name] for name in names} for part in ("train", "val", "test")}
    return facts
