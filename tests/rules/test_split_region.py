"""Rule split_region: which ground belongs to which split, and what came of it."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.support.project import Project

pytestmark = pytest.mark.workflow
PX, BLOCK_PX, BUFFER_M = 32, 64, 40


@pytest.fixture(scope="module")
def held_out(meadow: Project) -> pd.DataFrame:
    """The validation and test chips as a run scored them."""
    run = next(run["id"] for run in meadow.runs("meadow") if run["name"] == "constant")
    cells = pd.read_parquet(meadow.path(f"results/runs/{run}/confusion.parquet"))
    index = pd.read_parquet(meadow.path("data/meadow/chips/cover/index.parquet"))
    return cells[["chip_id", "split"]].drop_duplicates().merge(index, on="chip_id")


@pytest.fixture(scope="module")
def facts(meadow: Project) -> dict[str, dict[str, object]]:
    return dict(json.loads(meadow.path("data/meadow/splits/blocks.json").read_text()))


def test_held_out_chips_lie_in_blocks_of_their_split(meadow: Project, held_out: pd.DataFrame) -> None:
    blocks = pd.read_parquet(meadow.path("data/meadow/splits/blocks.parquet"))
    assert set(blocks["split"]) == {"train", "val", "test"}
    split_at = {(block.row_px, block.col_px): block.split for block in blocks.itertuples()}
    for chip in held_out.itertuples():
        place = (chip.row_px // BLOCK_PX * BLOCK_PX, chip.col_px // BLOCK_PX * BLOCK_PX)
        assert split_at[place] == chip.split


def test_splits_are_a_buffer_apart(meadow: Project, held_out: pd.DataFrame, facts: dict[str, dict[str, int]]) -> None:
    places = {name: part[["row_px", "col_px"]].to_numpy() for name, part in held_out.groupby("split")}
    blocks = pd.read_parquet(meadow.path("data/meadow/splits/blocks.parquet"))
    index = pd.read_parquet(meadow.path("data/meadow/chips/cover/index.parquet"))
    inside = blocks[blocks["split"] == "train"][["row_px", "col_px"]].to_numpy()
    chips = index[["row_px", "col_px"]].to_numpy()
    in_train = np.array([tuple(chip // BLOCK_PX * BLOCK_PX) in set(map(tuple, inside)) for chip in chips])
    others = np.concatenate([places["val"], places["test"]])
    gap = np.maximum(np.abs(chips[:, None] - others[None]) - PX, 0)  # one pixel is one metre
    far = np.hypot(gap[..., 0], gap[..., 1]).min(axis=1) >= BUFFER_M
    assert facts["chips"]["train"] == int((in_train & far).sum())
    assert facts["chips"]["dropped"] == int((in_train & ~far).sum()) > 0
    between = [np.maximum(np.abs(one - other) - PX, 0) for one, other in itertools.product(*places.values())]
    assert min(np.hypot(*gap) for gap in between) >= BUFFER_M


def test_the_facts_are_counts_of_the_labels_under_imagery(
    meadow: Project, held_out: pd.DataFrame, facts: dict[str, dict[str, int]]
) -> None:
    run = next(run["id"] for run in meadow.runs("meadow") if run["name"] == "constant")
    cells = pd.read_parquet(meadow.path(f"results/runs/{run}/confusion.parquet"))  # what was scored: under imagery
    for split, part in held_out.groupby("split"):
        assert facts["chips"][str(split)] == len(part)
        scored = cells[cells["split"] == split].groupby("truth")["pixels"].sum()
        names = ("grass", "soil", "roof")
        assert facts["class_pixels"][str(split)] == {name: scored.get(index, 0) for index, name in enumerate(names)}
        assert sum(facts["class_pixels"][str(split)].values()) <= part[[f"px_{name}" for name in names]].sum().sum()


def test_a_picture_and_a_line_tell_the_share_that_was_dropped(meadow: Project, facts: dict[str, object]) -> None:
    with Image.open(meadow.path("data/meadow/splits/blocks.png")) as picture:
        assert min(picture.size) > 400
    line = meadow.path("logs/split_region/meadow/blocks.log").read_text()
    assert f"{facts['dropped_share_of_train']:.1%} of the training chips dropped for a buffer of 40 m" in line
