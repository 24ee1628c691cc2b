"""The split counts what training will see: labels under imagery, classes that are anywhere in the region."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import ChipConfig, SplitConfig
from pipeline.dataset.region_split import split_region
from pipeline.dataset.store import chip_id, positions, writing
from pipeline.errors import DataError
from pipeline.grid import Grid

PX, SIDE = 16, 12
GRID = Grid("EPSG:32632", 500_000.0, 5_500_000.0, 1.0, 1.0, SIDE * PX, SIDE * PX, 1.0, 1.0, 4096)
Array = np.ndarray[Any, np.dtype[Any]]


def write_store(folder: Path, bands: Array, valid: Array, classes: list[str] | None = None) -> None:
    """Cut [bands, rows, cols] into a store; chips without any valid pixel are left out, as `cut_chips` does."""
    meta: dict[str, Any] = {"source": "test", "gsd_m": 1.0}
    if classes is not None:
        meta |= {"classes": classes, "colours": [[0, 0, 0]] * len(classes)}
    with writing(folder, len(bands), np.uint8, PX, meta) as store:
        for row, col in positions(SIDE * PX, SIDE * PX, PX, 0, False):
            window = (slice(row, row + PX), slice(col, col + PX))
            if not valid[window].any():
                continue
            facts: dict[str, Any] = {
                "chip_id": chip_id(row, col, PX),
                "row_px": row,
                "col_px": col,
                "lon": 0.0,
                "lat": 0.0,
            }
            chip = bands[(slice(None), *window)]
            for index, name in enumerate(classes or []):
                facts[f"px_{name}"] = int((chip[0] == index).sum())
            store.append(chip, valid[window], valid_px=int(valid[window].sum()), **facts)


def split(folder: Path, labels: Array, *images: Array) -> dict[str, Any]:
    """The facts of a block split of `labels` under imagery with these valid masks."""
    write_store(folder / "labels", labels[None], np.ones(labels.shape, bool), ["ground", "roof"])
    for number, valid in enumerate(images):
        write_store(folder / f"image{number}", np.zeros((3, *labels.shape), np.uint8), valid)
    config = SplitConfig(kind="block", block_px=2 * PX, buffer_m=0, balance="labels", seed=3)
    places = [folder / f"image{number}" for number in range(len(images))]
    out = folder / "split.parquet"
    split_region(
        "test", config, ChipConfig(px=PX), GRID, folder / "labels", places, out, folder / "split.png", lambda _: None
    )
    return dict(json.loads(out.with_suffix(".json").read_text()))


def striped(every: int) -> Array:
    """Roofs on every `every`-th row of pixels."""
    labels = np.zeros((SIDE * PX, SIDE * PX), np.uint8)
    labels[::every] = 1
    return labels


def test_pixels_that_no_imagery_shows_are_not_counted(tmp_path: Path) -> None:
    labels = striped(4)
    one, other = np.zeros(labels.shape, bool), np.zeros(labels.shape, bool)
    one[:, : 7 * PX + 5] = True
    other[:, 7 * PX - 3 : 9 * PX + 1] = True
    counted = split(tmp_path, labels, one, other)["class_pixels"]
    shown = one | other
    for index, name in enumerate(("ground", "roof")):
        assert sum(part[name] for part in counted.values()) == int((shown & (labels == index)).sum())


def test_a_class_without_imagery_is_no_class_of_the_split(tmp_path: Path) -> None:
    labels = np.zeros((SIDE * PX, SIDE * PX), np.uint8)
    labels[:, -3:] = 1
    valid = np.ones(labels.shape, bool)
    valid[:, -3:] = False
    assert all(part["roof"] == 0 for part in split(tmp_path, labels, valid)["class_pixels"].values())


def test_a_class_in_one_place_alone_is_an_error(tmp_path: Path) -> None:
    labels = np.zeros((SIDE * PX, SIDE * PX), np.uint8)
    labels[:4, :4] = 1
    with pytest.raises(DataError, match="class 'roof' has no pixel in"):
        split(tmp_path, labels, np.ones(labels.shape, bool))
