"""Intervals of test scores: blocks of ground are what is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, jaccard_score

from pipeline.dataset.blocks import Blocks
from pipeline.errors import DataError, RunError
from pipeline.report.intervals import block_counts, score_intervals
from pipeline.report.results import open_run
from pipeline.report.table import read_csv, write_csv
from tests.unit.report.conftest import BLOCK_CHIPS, CHIPS, PX, SPLITS, World, chip_id

TEST = list(SPLITS["test"])


def opened(world: World, number: int = 0):
    return open_run(world.study.runs[number], world.results, "val_mean_iou")


def test_counts_of_blocks_are_those_of_their_chips(world: World) -> None:
    result = opened(world)
    counts = block_counts(result, world.root / "data")
    blocks = sorted({chip // BLOCK_CHIPS for chip in TEST})
    assert counts.shape == (len(blocks), 4, 4) and counts.dtype == np.int64
    predicted = world.pixels[result.run.id, result.checkpoint]
    for block, table in zip(blocks, counts, strict=True):
        chips = [chip for chip in TEST if chip // BLOCK_CHIPS == block]
        true, guess = world.labels[chips], predicted[chips]
        known = true != 255
        for row in range(4):
            for column in range(4):
                assert table[row, column] == ((true == row) & (guess == column) & known).sum()


def test_a_chip_belongs_to_the_block_of_its_centre(world: World) -> None:
    """Blocks that begin in the middle of a chip, three chips high."""
    path = world.root / "data" / "demo" / "splits" / "block.parquet"
    Blocks(np.ones((9, 3), np.uint8), 3 * PX, -PX, (0.0, 0.0)).save(path, {})
    blocks = {(chip * PX + PX // 2 + PX) // (3 * PX) for chip in TEST}
    assert len(block_counts(opened(world), world.root / "data")) == len(blocks) == 3


def test_every_run_has_intervals_and_the_best_a_lead(world: World) -> None:
    runs = [run.id for run in world.study.runs]
    singles, pairs = score_intervals(world.study, world.results, world.root / "data", runs[0])
    assert list(singles["run"].unique()) == runs and list(pairs["other"].unique()) == runs[1:]
    assert set(pairs["run"]) == {runs[0]} and (singles["blocks"] == 4).all()
    values = singles.pivot(index="run", columns="score", values="value")
    for run in world.study.runs:
        result = open_run(run, world.results, "val_mean_iou")
        predicted = world.pixels[run.id, result.checkpoint][TEST]
        known = world.labels[TEST] != 255
        true, guess = world.labels[TEST][known], predicted[known]
        assert values.loc[run.id, "accuracy"] == pytest.approx(accuracy_score(true, guess))
        assert values.loc[run.id, "mean_iou"] == pytest.approx(jaccard_score(true, guess, average="macro"))
    assert (singles["low"] <= singles["value"]).all() and (singles["value"] <= singles["high"]).all()
    for row in pairs.to_dict("records"):
        lead = values.loc[row["run"], row["score"]] - values.loc[row["other"], row["score"]]
        assert row["difference"] == pytest.approx(lead) and 0 < row["p"] <= 1
    smallest = 2 / 2**4  # four blocks can be swapped in 16 ways, and the mirrored way is as far apart
    assert pairs["p"].min() == pytest.approx(smallest)


def test_runs_on_other_pixels_are_not_paired(world: World) -> None:
    first, second, *_ = world.study.runs
    second.spec["data"] = {**second.spec["data"], "imagery": "winter"}
    try:
        _, pairs = score_intervals(world.study, world.results, world.root / "data", first.id)
    finally:
        second.spec["data"] = first.spec["data"]
    assert second.id not in set(pairs["other"]) and len(pairs) == 3 * (len(world.study.runs) - 2)


def test_a_rule_that_scores_fewer_chips_is_not_paired_and_stops_nothing(world: World) -> None:
    """A method of one's own may leave chips, or whole blocks, without a prediction."""
    best, rule = world.study.runs[0].id, world.study.runs[-1].id
    path = world.folder(rule) / "confusion.parquet"
    cells = pd.read_parquet(path)
    for gone in (TEST[:1], TEST[:2]):  # part of the first block, which has one test chip; the first block and more
        cells[~cells["chip_id"].isin([chip_id(chip) for chip in gone])].to_parquet(path)
        singles, pairs = score_intervals(world.study, world.results, world.root / "data", best)
        assert rule in set(singles["run"]) and rule not in set(pairs["other"])
        assert len(pairs) == 3 * (len(world.study.runs) - 2)


def test_a_single_run_has_no_pair(world: World) -> None:
    alone = type(world.study)("demo", world.study.config, world.study.runs[:1])
    singles, pairs = score_intervals(alone, world.results, world.root / "data", alone.runs[0].id)
    assert len(singles) == 3 and pairs.empty and "difference" in pairs.columns


def test_tables_read_back_as_written(world: World, tmp_path: Path) -> None:
    singles, pairs = score_intervals(world.study, world.results, world.root / "data", world.study.runs[0].id)
    singles.loc[0, "low"] = np.nan
    for name, written in (("a", singles), ("b", pairs), ("c", pairs.iloc[:0])):
        write_csv(written, tmp_path / name)
        back = read_csv(tmp_path / name)
        assert list(back) == list(written) and len(back) == len(written)
        if len(written):
            assert np.array_equal(back["low"].to_numpy(float), written["low"].to_numpy(float), equal_nan=True)


def test_what_is_missing_is_one_line(world: World) -> None:
    index = world.chips("osm") / "index.parquet"
    whole = pd.read_parquet(index)
    whole.iloc[: CHIPS - 1].to_parquet(index)
    with pytest.raises(DataError, match=r"chip r000011c000000p16 is not in"):
        block_counts(opened(world), world.root / "data")
    index.unlink()
    with pytest.raises(DataError, match="cut it again"):
        block_counts(opened(world), world.root / "data")
    (world.root / "data" / "demo" / "splits" / "block.parquet").unlink()
    with pytest.raises((DataError, RunError), match="split"):
        block_counts(opened(world), world.root / "data")
