"""A chip store that is drawn, not downloaded, and runs on it: what the training benchmarks share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.blocks import Blocks
from pipeline.dataset.joined import data_hashes
from pipeline.dataset.store import writing
from pipeline.train.engine import prepare
from pipeline.train.loop import Trainer
from pipeline.train.options import Options

BANDS = 3
CLASSES = ("urban", "forest", "fields", "water")
PATCH_PX = 16  # edge of the squares that a label is made of
REGION = {"region": "drawn", "imagery": "rgb", "recipe": "squares", "split": "row", "normalize": "unit"}


def write_store(data: Path, chip_px: int, train: int, val: int, test: int = 1) -> None:
    """Write stores of `train` + `val` + `test` chips and their split below ``data/drawn``.

    A label is made of squares of the four classes; the image has a colour per class under noise, so that a network
    learns to tell them apart. Images are uint8 [N, 3, H, W].
    """
    place, rng = data / "drawn", np.random.default_rng(0)
    colours = rng.integers(40, 216, (len(CLASSES), BANDS))
    meta: dict[str, Any] = {"source": "drawn", "gsd_m": 1.0}
    scheme = {"classes": list(CLASSES), "colours": colours.tolist()}
    valid = np.ones((chip_px, chip_px), bool)
    squares = -(-chip_px // PATCH_PX)
    with (
        writing(place / "chips" / "rgb", BANDS, np.uint8, chip_px, meta) as images,
        writing(place / "chips" / "squares", 1, np.uint8, chip_px, {**meta, **scheme}) as labels,
    ):
        for number in range(train + val + test):
            coarse = rng.integers(0, len(CLASSES), (squares, squares), dtype=np.uint8)
            label = coarse.repeat(PATCH_PX, 0).repeat(PATCH_PX, 1)[:chip_px, :chip_px]
            noise = rng.integers(-40, 40, (BANDS, chip_px, chip_px), dtype=np.int8)
            facts = {"chip_id": f"c{number:06d}", "row_px": 0, "col_px": number * chip_px, "lon": 0.0, "lat": 0.0}
            images.append((np.moveaxis(colours[label], -1, 0) + noise).astype(np.uint8), valid, **facts)
            counts = dict(zip((f"px_{name}" for name in CLASSES), np.bincount(label.ravel(), minlength=4), strict=True))
            labels.append(label[None], valid, **facts, **{name: int(count) for name, count in counts.items()})
    codes = np.repeat(np.array([0, 1, 2], np.uint8), [train, val, test])[None]
    Blocks(codes, chip_px, 0, (0.0, 0.0)).save(place / "splits" / "row.parquet", {})


def a_run(model: dict[str, Any], loss: str = "cross_entropy", **train: Any) -> dict[str, Any]:
    """The spec of a run on the drawn chips: `model` is ``{"name": …, "params": …}``, `train` its settings."""
    return {
        "version": 1,
        "kind": "run",
        "data": dict(REGION),
        "model": model,
        "loss": {"name": loss, "params": {}},
        "train": {"flips": True, **train},
        "seed": 1,
    }


def prepared(data: Path, work: Path, spec: dict[str, Any], residency: str = "auto") -> Trainer:
    """The trainer of such a run, ready for its first step."""
    trainer = prepare(spec, data_hashes(data, spec["data"]), data, work, _silent, Options(residency=residency))
    trainer.learner.model.train()
    return trainer


def _silent(line: str) -> None:
    pass
