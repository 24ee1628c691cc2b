"""The demo study end to end: what a user gets from `make`, checked against independent computations."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.vrt import WarpedVRT
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score

from tests.support.project import NOTHING, Project

pytestmark = pytest.mark.workflow

STUDY = "results/studies/demo"
REPORT = f"{STUDY}/report.html"
CLASSES = ["forest", "fields", "urban", "water"]
COLOURS = [(4, 135, 29), (231, 231, 25), (229, 109, 109), (14, 10, 214)]
IGNORE = 255


@pytest.fixture(scope="module")
def table(demo: Project) -> pd.DataFrame:
    return pd.read_csv(demo.path(f"{STUDY}/table.csv"), float_precision="round_trip").set_index("run", drop=False)


@pytest.fixture(scope="module")
def best(table: pd.DataFrame) -> pd.Series:
    networks = table[table["kind"] == "run"]
    return networks.loc[networks["val_mean_iou"].idxmax()]


# --- the table ---------------------------------------------------------------------------------------------------


def test_the_table_has_the_columns_and_rows_of_a_comparison(table: pd.DataFrame) -> None:
    columns = list(table.columns)
    assert columns[:6] == ["run", "kind", "model.name", "loss.name", "seed", "checkpoint"]
    scores = [re.sub(r"_.*", "", name) for name in columns[6:-3]]
    assert scores == sorted(scores, key=["val", "test", "truth"].index)
    for name in ("accuracy", "mean_iou", "mean_f1", "jaccard_coefficient", "loss"):
        assert {f"val_{name}", f"test_{name}"} <= set(columns)
    assert [name for name in columns if name.startswith("test_iou_")] == [f"test_iou_{name}" for name in CLASSES]
    assert "truth_mean_iou" in columns and "parameters" in columns
    networks = table[table["kind"] == "run"]
    assert len(networks) >= 4
    assert len(networks.groupby(["model.name", "loss.name"])) == len(networks)
    assert networks["model.name"].nunique() == networks["loss.name"].nunique() == 2
    assert sorted(run.partition(".")[0] for run in table.index[table["kind"] == "baseline"]) == [
        "landcover",
        "random_forest",
    ]


def test_the_demo_is_worth_its_name(table: pd.DataFrame, best: pd.Series) -> None:
    landcover = table[table["run"].str.startswith("landcover.")].iloc[0]
    forest = table[table["run"].str.startswith("random_forest.")].iloc[0]
    assert best["test_mean_iou"] > 0.75
    assert best["truth_mean_iou"] >= landcover["truth_mean_iou"] + 0.05
    assert forest["test_mean_iou"] <= best["test_mean_iou"] - 0.10


def chips_by_id(folder: Path) -> tuple[dict[str, int], np.ndarray, np.ndarray]:
    """(row of each chip id, chips [N, bands, H, W], which pixels have data [N, H, W]) of a store."""
    ids = pd.read_parquet(folder / "index.parquet")["chip_id"]
    chips = np.load(folder / "chips.npy", mmap_mode="r")
    valid = np.unpackbits(np.load(folder / "valid.npy"), axis=-1, count=chips.shape[-1]).astype(bool)
    return {name: row for row, name in enumerate(ids)}, chips, valid


def expected_scores(demo: Project, row: pd.Series) -> dict[str, float]:
    """Scores from the predictions and the chips on disk alone."""
    stores = {name: chips_by_id(demo.path(f"data/demo/chips/{name}")) for name in ("osm", "summer", "truth")}
    folder = demo.path(f"results/runs/{row['run']}/predictions")
    ids = json.loads((folder / "chips.json").read_text())
    name = "test" if row["kind"] == "baseline" else f"test-{row['checkpoint']}"
    predicted = np.load(folder / f"{name}.npy")
    assert predicted.dtype == np.uint8 and len(predicted) == len(ids) == len(set(ids))
    labels, truth = (np.stack([stores[key][1][stores[key][0][chip], 0] for chip in ids]) for key in ("osm", "truth"))
    seen = np.stack([stores["summer"][2][stores["summer"][0][chip]] for chip in ids])
    scored = (labels != IGNORE) & seen
    both = scored & (truth != IGNORE)
    true, guess = labels[scored], predicted[scored]
    per_class = jaccard_score(true, guess, labels=range(len(CLASSES)), average=None)
    return {
        "test_accuracy": accuracy_score(true, guess),
        "test_mean_iou": float(np.mean(per_class)),
        "test_mean_f1": f1_score(true, guess, average="macro"),
        **{f"test_iou_{name}": score for name, score in zip(CLASSES, per_class, strict=True)},
        "truth_mean_iou": jaccard_score(truth[both], predicted[both], average="macro"),
        "truth_accuracy": accuracy_score(truth[both], predicted[both]),
    }


def test_scores_agree_with_scikit_learn_on_the_stored_predictions(demo: Project, table: pd.DataFrame) -> None:
    for _, row in table.iterrows():
        for name, value in expected_scores(demo, row).items():
            assert row[name] == pytest.approx(value, abs=1e-9), (row["run"], name)


def test_the_confusion_counts_per_chip_are_those_of_the_predictions(demo: Project, best: pd.Series) -> None:
    folder = demo.path(f"results/runs/{best['run']}")
    cells = pd.read_parquet(folder / "confusion.parquet")
    cells = cells[(cells["checkpoint"] == best["checkpoint"]) & (cells["split"] == "test")]
    rows, labels, _ = chips_by_id(demo.path("data/demo/chips/osm"))
    predicted = np.load(folder / "predictions" / f"test-{best['checkpoint']}.npy")
    ids = json.loads((folder / "predictions" / "chips.json").read_text())
    assert set(cells["chip_id"]) == set(ids)
    for chip, guess in list(zip(ids, predicted, strict=True))[::5]:
        own = cells[cells["chip_id"] == chip]
        counts = np.zeros((len(CLASSES), len(CLASSES)), int)
        counts[own["truth"], own["predicted"]] = own["pixels"]
        true = labels[rows[chip], 0]
        kept = true != IGNORE
        assert (counts == confusion_matrix(true[kept], guess[kept], labels=range(len(CLASSES)))).all()


def test_every_network_scores_the_same_chips_and_the_best_of_its_epochs(demo: Project, table: pd.DataFrame) -> None:
    ids = {demo.path(f"results/runs/{run}/predictions/chips.json").read_text() for run in table.index}
    assert len(ids) == 1
    for run, row in table[table["kind"] == "run"].iterrows():
        history = pd.read_csv(demo.path(f"results/runs/{run}/history.csv"), float_precision="round_trip")
        column = {"best_accuracy": "val_accuracy", "best_jaccard": "val_jaccard_coefficient"}[row["checkpoint"]]
        assert row[column] == pytest.approx(history[column].max(), abs=1e-6)
        assert row["epochs"] == len(history)


# --- the map -----------------------------------------------------------------------------------------------------


def web_mercator_corner(lon: float, lat: float, zoom: int) -> tuple[float, float, float]:
    """(left, top, pixel size) in EPSG:3857 metres of the x/y/z tile that holds a point."""
    half = math.pi * 6378137.0
    tiles = 2**zoom
    column = math.floor((lon + 180) / 360 * tiles)
    row = math.floor((1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * tiles)
    size = 2 * half / tiles
    return -half + column * size, half - row * size, size / 256


def test_the_prediction_is_a_map_of_the_region(demo: Project) -> None:
    with rasterio.open(demo.path(f"{STUDY}/prediction.tif")) as raster:
        left, top, size = web_mercator_corner(8.5035, 50.0095, 17)
        assert raster.crs.to_epsg() == 3857
        assert raster.transform.to_gdal() == pytest.approx((left, size, 0, top, 0, -size), abs=1e-6)
        assert (raster.width, raster.height, raster.count, raster.dtypes[0]) == (2560, 2560, 1, "uint8")
        palette = raster.colormap(1)
        assert [palette[index][:3] for index in range(len(CLASSES))] == COLOURS
        predicted = raster.read(1)
        with (
            rasterio.open(demo.path("data/demo/source/truth.tif")) as source,
            WarpedVRT(
                source,
                crs=raster.crs,
                transform=raster.transform,
                width=raster.width,
                height=raster.height,
                nodata=IGNORE,
            ) as warped,
        ):
            truth = warped.read(1)
    known = (truth != IGNORE) & (predicted != IGNORE)
    assert known.mean() > 0.99
    assert (truth[known] == predicted[known]).mean() > 0.8


# --- the page ----------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page would fetch, how many pictures it holds, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.pictures = 0
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            loads = name in ("src", "srcset", "poster", "data") or (name == "href" and tag in ("link", "use", "image"))
            if loads and value is not None:
                if value.startswith("data:"):
                    self.pictures += tag == "img"
                else:
                    self.fetched.append(value)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_report_is_one_small_page_that_fetches_nothing(demo: Project, table: pd.DataFrame) -> None:
    path = demo.path(REPORT)
    assert path.stat().st_size < 5_000_000
    html = path.read_text(encoding="utf-8")
    page = Page()
    page.feed(html)
    assert page.fetched == []
    assert re.findall(r"@import|url\((?!['\"]?data:)", html) == []
    assert page.pictures >= 6
    text = " ".join(page.text)
    assert [run for run in table.index if run not in text] == []
    assert [name for name in CLASSES if name not in text] == []


# --- how it was made ---------------------------------------------------------------------------------------------


def test_no_job_but_the_comparison_reads_the_truth(demo: Project, tmp_path: Path) -> None:
    jobs = demo.copy(tmp_path / "copy", leave_out=("results", "work", "cache")).jobs(REPORT, "--forceall")
    readers = {(job.rule, job.wildcards.get("store")) for job in jobs if any("truth" in name for name in job.inputs)}
    assert readers == {("compare_runs", None), ("render_report", None)}
    assert {job.rule for job in jobs} >= {"train", "evaluate", "random_forest", "split_region"}


def test_make_again_runs_no_job_and_names_the_report(demo: Project) -> None:
    done = demo.run("make", "PYTHON=true")  # `true` in the place of Python: the set-up is not this test's
    print(f"a second invocation takes {done.seconds:.1f} s")
    assert NOTHING in done.text
    assert f"report: {demo.path(REPORT)}" in done.stdout


def test_every_result_says_what_it_was_made_from(demo: Project, table: pd.DataFrame) -> None:
    for run in table.index:
        facts: dict[str, Any] = json.loads(demo.path(f"results/runs/{run}/run.json").read_text())
        assert facts["id"] == run
        assert set(facts["hashes"]) == {"images", "labels", "split", "code"}
        store = json.loads(demo.path("data/demo/chips/summer/store.json").read_text())
        assert facts["hashes"]["images"] == store["sha256"]
    assert not list(demo.path("work").glob("*"))
