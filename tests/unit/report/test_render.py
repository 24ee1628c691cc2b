"""The page: parses, loads nothing, escapes everything, marks what it should, stays small, and is the same twice."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import RunError
from pipeline.report import render as R
from pipeline.report import table as T
from pipeline.report import views as V
from pipeline.report.intervals import score_intervals
from pipeline.report.results import provenance

from .conftest import CLASSES, World, build_world, network, other, study_config

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags nest; collects tags, attributes and the cells of every table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[tuple[str, dict[str, str | None]]]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append(("", dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data
        if {"th", "td"} & set(self.open):
            text, attrs = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = (text + data, attrs)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def picture(path: Path, size: tuple[int, int] = (60, 40), noise: bool = False) -> Path:
    pixels = (
        np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)) if noise else np.zeros((size[1], size[0], 3))
    )
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def facts(classes: list[str]) -> dict[str, Any]:
    parts = {part: {name: 10 * (k + 1) for k, name in enumerate(classes)} for part in ("train", "val", "test")}
    chips = {"train": 10, "val": 2, "test": 3, "dropped": 4}
    return {
        "kind": "block", "seed": 5, "buffer_m": 98.304, "chips": chips, "dropped_share_of_train": 4 / 14,
        "class_pixels": parts,
    }  # fmt: skip


def render(world: World, **changes: Any) -> tuple[str, Page]:
    table = changes.pop("table", None)
    table = T.build_table(world.study, world.results, world.chips("truth")) if table is None else table
    figures = {
        "panel": picture(world.root / "panel.png"), "region:demo": picture(world.root / "region.jpg"),
        "learning_curves": picture(world.root / "curves.png"), "extra_plot": picture(world.root / "extra.png"),
    }  # fmt: skip
    context: dict[str, Any] = {
        "runs": provenance(world.study, world.results),
        "regions": [{"name": "demo", "title": "A valley", "gsd_m": 0.5, "bbox": (1.0, 2.0, 3.0, 4.0), "imagery": [
            {"name": "aerial", "attribution": "© Somebody", "terms": "https://example.org/terms"},
            {"name": "other", "attribution": "", "terms": "javascript:alert(1)"},
        ]}],
        "splits": [{"name": "block", "region": "demo", "facts": facts(CLASSES), "picture": figures["panel"]}],
        "captions": {"panel": "Five chips."},
        "command": ".venv/bin/snakemake --cores all results/studies/demo/report.html",
    }  # fmt: skip
    out = world.root / "report.html"
    R.render_report(
        changes.pop("study", world.study),
        table,
        out,
        figures=changes.pop("figures", figures),
        context=context | changes,
    )  # type: ignore[arg-type]
    text = out.read_text(encoding="utf-8")
    return text, Page(text)


def test_page_parses_loads_nothing_and_is_accessible(world: World) -> None:
    text, page = render(world)
    assert page.open == [] and page.count("h1") == 1 and dict(page.tags[0][1]) == {"lang": "en"}
    sources = [attrs["src"] for _, attrs in page.tags if "src" in attrs]
    assert len(sources) == 5 and all(str(source).startswith("data:image/") for source in sources)
    assert not page.count("link") and not page.count("iframe") and "@import" not in text and "url(" not in text
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    assert all(attrs.get("scope") for tag, attrs in page.tags if tag == "th")
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    links = [str(attrs["href"]) for tag, attrs in page.tags if tag == "a"]
    assert len(ids) == len(set(ids)) and {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert [link for link in links if not link.startswith("#")] == ["https://example.org/terms"]
    assert len(text.encode()) < R.MOST_BYTES


def test_page_is_the_same_twice(world: World) -> None:
    assert render(world)[0] == render(world)[0]


def test_comparison_marks_the_best_and_shows_missing_as_a_dash(world: World) -> None:
    table = T.build_table(world.study, world.results)
    table.loc[[1, 3], "test_accuracy"] = 0.97531
    _, page = render(world, table=table)
    rows = page.tables[0]
    names = [str(attrs.get("title")) for _, attrs in rows[1]]
    assert not {"val_absent", "test_absent"} & set(names)  # nothing is absent here
    body = [row for row in rows[2:] if len(row) == len(names)]
    accuracy = [row[names.index("test_accuracy")] for row in body]
    assert [text for text, attrs in accuracy if "best" in str(attrs["class"])] == ["0.9753", "0.9753"]
    assert all("num" in str(attrs["class"]) for _, attrs in accuracy)
    mean_iou = [float(text) for text, attrs in (row[names.index("test_mean_iou")] for row in body)]
    marked = [
        attrs for _, attrs in (row[names.index("test_mean_iou")] for row in body) if "best" in str(attrs["class"])
    ]
    assert [float(str(attrs["data-v"])) for attrs in marked] == [table["test_mean_iou"].max()] and len(mean_iou) == 6
    assert not any("best" in str(row[names.index("val_loss")][1]["class"]) for row in body)
    assert [row[names.index("loss.name")][0] for row in body[4:]] == ["—", "—"]
    assert [row[0][0] for row in rows if len(row) == 1] == ["Networks", "Baselines and rules"]


def test_headline_names_the_best_run_and_its_margin(world: World) -> None:
    table = T.build_table(world.study, world.results)
    best = table[table["run"] == T.best_run(table, "val_mean_iou")].iloc[0]
    baseline = table[table["kind"] == "baseline"].iloc[0]
    table.loc[table["kind"] == "rule", "val_mean_iou"] = 0.99  # a rule is no baseline
    _, page = render(world, table=table)
    points = 100 * (best["test_mean_iou"] - baseline["test_mean_iou"])
    assert f"{best['model.name']} + {best['loss.name']}, checkpoint {best['checkpoint']}, has the best" in page.text
    assert f"it is {points:.2f} points ahead of the best baseline, landcover" in page.text
    table.loc[table["kind"] == "baseline", "test_mean_iou"] = best["test_mean_iou"] + 0.0123
    assert "1.23 points behind the best baseline" in render(world, table=table)[1].text
    table["test_mean_iou"] = math.nan
    assert "no margin to report" in render(world, table=table)[1].text


def test_the_margin_is_over_a_baseline_of_the_same_fold(tmp_path: Path) -> None:
    folds = ("fold_0", "fold_1")
    runs = [network("unet", "focal", split=fold, **{"data.split": fold}) for fold in folds]
    baselines = [other("baseline", f"landcover{fold[-1]}", **{"data.split": fold}) for fold in folds]
    world = build_world(tmp_path, [*runs, *baselines])
    table = T.build_table(world.study, world.results)
    fold = str(table.loc[table["run"] == T.best_run(table, "val_mean_iou"), "data.split"].iloc[0])
    table.loc[3 - folds.index(fold), "val_mean_iou"] = 0.999  # the other fold's baseline looks better
    assert f"the best baseline, landcover{fold[-1]}" in render(world, table=table)[1].text


def test_nothing_breaks_out_of_its_place(world: World) -> None:
    evil = '<script>alert("x")</script>'
    study = dataclasses.replace(world.study, name=evil, config=study_config(title=evil, description=evil))
    table = T.build_table(world.study, world.results).rename(columns={"test_iou_water": f"test_iou_{evil}"})
    table.loc[0, "model.name"] = f'"><img src=x onerror=1>{evil}'
    region = {"name": evil, "title": evil, "imagery": [{"name": evil, "attribution": evil, "terms": evil}]}
    text, page = render(
        world, study=study, table=table, regions=[region], command=evil, captions={"panel": evil},
        splits=[{"name": evil, "region": evil, "facts": facts([evil, "b"]), "picture": None}],
        runs=[{"id": evil, "kind": evil, "device": evil, "spec": {evil: evil}}],
    )  # fmt: skip
    assert page.count("script") == 1 and text.count("<script>") == 1 and page.open == []
    assert page.text.count(evil) > 10 and all("onerror" not in attrs for _, attrs in page.tags)


def test_intervals_stand_beside_the_scores(world: World) -> None:
    assert "intervals" not in {attrs.get("id") for _, attrs in render(world)[1].tags}
    best = T.best_run(T.build_table(world.study, world.results), "val_mean_iou")
    singles, pairs = score_intervals(world.study, world.results, world.root / "data", best)
    text, page = render(world, intervals=(singles, pairs))
    rows = next(table for table in page.tables if table[0][1][0] == "run" and "lead of the best" in table[0][4][0])[1:]
    assert len(rows) == len(world.study.runs) and "4 blocks of ground" in text and "too narrow" in text
    own = singles[singles["score"] == "mean_iou"].set_index("run")
    for run, row in zip(T.ranked(T.build_table(world.study, world.results))["run"], rows, strict=True):
        cells = [cell[0].strip() for cell in row]
        assert cells[2] == f"{own.loc[run, 'value']:.4f}"
        assert cells[3] == f"{own.loc[run, 'low']:.4f} to {own.loc[run, 'high']:.4f}"
        assert (cells[4] == "—") == (run == best)
        if run != best:
            lead = pairs[(pairs["other"] == run) & (pairs["score"] == "mean_iou")].iloc[0]
            assert cells[4] == f"{lead['difference']:+.4f}".replace("-", "−") and 0 < float(cells[6]) <= 1


def test_intervals_say_what_they_leave_open(world: World) -> None:
    best = T.best_run(T.build_table(world.study, world.results), "val_mean_iou")
    tables = score_intervals(world.study, world.results, world.root / "data", best)
    split = {"name": "s", "region": "demo", "facts": facts(["a"]), "picture": None}

    def said(kind: str, blocks: int = 4) -> str:
        few = [table.assign(blocks=blocks) for table in tables]
        chosen = {**split, "facts": {**split["facts"], "kind": kind}}
        return " ".join(render(world, intervals=tuple(few), splits=[chosen])[1].text.split())

    assert "p cannot be below 0.125" in said("block") and "beside ground that was trained on" not in said("block")
    assert "beside ground that was trained on" in said("random")
    assert "p cannot be" not in said("block", 15) and "too narrow" in said("block", 15)
    assert "too narrow" not in said("block", 30) and "not corrected" in said("block", 30)
    assert "p cannot be below 1:" in said("block", 1)


def test_runs_that_differ_in_seed_alone_are_told_apart_beside_their_intervals(tmp_path: Path) -> None:
    runs = [network("unet", "focal", seed=seed) for seed in (0, 1)] + [other("baseline", "landcover")]
    world = build_world(tmp_path, runs)
    table = T.build_table(world.study, world.results)
    found = score_intervals(world.study, world.results, world.root / "data", T.best_run(table, "val_mean_iou"))
    view = V.intervals_view(table, *found)
    assert view is not None
    assert [row["label"] for row in view["rows"]] == ["unet · seed 0", "unet · seed 1", "landcover"]


def test_summary_appears_with_several_seeds_only(world: World, tmp_path: Path) -> None:
    assert "Seeds and folds" not in render(world)[1].text
    seeds = build_world(tmp_path / "seeds", [network("unet", "focal", seed=seed) for seed in (0, 1, 2)])
    table = T.build_table(seeds.study, seeds.results)
    values = table["test_mean_iou"].to_numpy()
    wanted = f"{values.mean():.4f} ± {values.std(ddof=1):.4f}"
    assert wanted in [text for row in render(seeds, table=table)[1].tables[1] for text, _ in row]


def test_provenance_lists_what_is_shared_once(world: World) -> None:
    text, page = render(world)
    assert page.text.count("2.14.0") == 1 and page.text.count("d" * 64) == 1
    for run in world.study.runs:
        assert run.id in page.text
    assert len(re.findall(r'<tr id="run-\d+">', text)) == 6


def test_many_rows_are_cut_to_the_best(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.report.views.MOST_ROWS", 2)
    table = T.build_table(world.study, world.results)
    _, page = render(world, table=table)
    numbers = [row[0][0] for row in page.tables[0] if row[0][1].get("scope") == "row"]
    best = table[table["kind"] == "run"]["val_mean_iou"].nlargest(2).index
    assert sorted(numbers) == sorted([str(at + 1) for at in best] + ["5", "6"])
    assert "The 2 networks with the lowest validation scores are left out" in page.text


def test_big_pictures_are_made_smaller(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    big = picture(world.root / "big.png", (900, 700), noise=True)
    whole = len(render(world, figures={"panel": big})[0])
    monkeypatch.setattr(R, "MOST_BYTES", 400_000)
    text, page = render(world, figures={"panel": big})
    image = next(attrs for tag, attrs in page.tags if tag == "img")
    assert len(text.encode()) < 400_000 < big.stat().st_size < whole
    assert str(image["src"]).startswith("data:image/jpeg") and (image["width"], image["height"]) == ("900", "700")
    monkeypatch.setattr(R, "MOST_BYTES", 10_000)
    with pytest.raises(RunError, match=r"report\.html would be .* MB"):
        render(world)


def test_faults_are_one_line(world: World) -> None:
    with pytest.raises(RunError, match=r"gone\.png is missing"):
        render(world, figures={"panel": world.root / "gone.png"})
    (world.root / "bad.png").write_text("no image")
    with pytest.raises(RunError, match=r"bad\.png is no readable image"):
        render(world, figures={"panel": world.root / "bad.png"})
    with pytest.raises(RunError, match="unknown context 'run'; runs, regions"):
        render(world, run=[])


def test_svg_size_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    path.write_text('<?xml version="1.0"?><svg width="72pt" height="36pt" viewBox="0 0 72 36"></svg>')
    shown = R.embed(path, 100, 50)
    assert (shown["width"], shown["height"]) == (96, 48) and shown["src"].startswith("data:image/svg+xml;base64,")


def test_the_report_needs_neither_torch_nor_geopandas() -> None:
    code = (
        "import sys, pipeline.report.render, pipeline.report.panels; print({'torch', 'geopandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
