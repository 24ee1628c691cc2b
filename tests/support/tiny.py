"""A tiny region of chips that a network learns in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.blocks import Blocks
from pipeline.dataset.store import chip_id, positions, writing

PX = 32
SIDE = 8  # chips per side


def write_region(data: Path, invalid: bool = False) -> Path:
    """Two classes that a 3 x 3 neighbourhood tells apart; chip stores and a split in columns below ``data/tiny``."""
    place = data / "tiny"
    rng = np.random.default_rng(0)
    meta: dict[str, Any] = {"source": "tiny", "gsd_m": 1.0}
    scheme = {"classes": ["dark", "bright"], "colours": [[0, 0, 0], [255, 255, 255]]}
    with (
        writing(place / "chips" / "rgb", 3, np.uint8, PX, meta) as images,
        writing(place / "chips" / "osm", 1, np.uint8, PX, {**meta, **scheme}) as labels,
    ):
        for row, col in positions(SIDE * PX, SIDE * PX, PX, 0, False):
            label = np.kron(rng.integers(0, 2, (4, 4)), np.ones((8, 8), int)).astype(np.uint8)
            image = np.clip(label * 90 + 60 + rng.normal(0, 45, (3, PX, PX)), 0, 255).astype(np.uint8)
            valid = np.ones((PX, PX), bool)
            if invalid:
                valid[:4] = False
            facts = {"chip_id": chip_id(row, col, PX), "row_px": row, "col_px": col, "lon": 0.0, "lat": 0.0}
            images.append(image, valid, **facts, valid_px=int(valid.sum()))
            counts = {f"px_{name}": int((label == k).sum()) for k, name in enumerate(scheme["classes"])}
            labels.append(label[None], np.ones((PX, PX), bool), **facts, valid_px=PX * PX, **counts)
    codes = np.zeros((SIDE, SIDE), np.uint8)
    codes[:, 5], codes[:, 7] = 1, 2
    Blocks(codes, PX, 0, (0.0, 0.0)).save(place / "splits" / "columns.parquet", {})
    return data


def a_spec(**train: Any) -> dict[str, Any]:
    """A resolved run on the tiny region."""
    settings = {
        "optimizer": "adam",
        "lr": 0.01,
        "weight_decay": 0.0,
        "batch_size": 8,
        "epochs": 4,
        "patience": 10,
        "flips": True,
        "precision": "fp32",
        "threads": 1,
    }
    return {
        "version": 1,
        "kind": "run",
        "data": {
            "region": "tiny",
            "imagery": "rgb",
            "recipe": "osm",
            "split": "columns",
            "normalize": "standard",
            "train_subset": None,
        },
        "model": {
            "name": "unet",
            "params": {"width": 4, "depth": 3, "dropout": 0.2, "bn_momentum": 0.1, "bn_eps": 1e-3},
        },
        "loss": {"name": "focal", "params": {"alpha": 0.25, "gamma": 2.0, "reduction": "classes"}},
        "train": settings | train,
        "seed": 3,
    }
