"""A small results folder written from random pixels: 2 models × 2 losses, 2 checkpoints, a baseline and a rule."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.config import StudyConfig
from pipeline.dataset.blocks import Blocks
from pipeline.runs import Run, Study

CLASSES = ["forest", "fields", "urban", "water"]
COLOURS = [[4, 135, 29], [231, 231, 25], [229, 109, 109], [14, 10, 214]]
CHIPS, PX = 12, 16
GSD_M = 0.5
BLOCK_CHIPS = 2  # chips lie one above the other, two to a block
SPLITS = {"val": range(0, 5), "test": range(5, 12)}
DATA = {
    "region": "demo",
    "imagery": "aerial",
    "recipe": "osm",
    "split": "block",
    "normalize": "none",
    "train_subset": None,
}


def chip_id(row: int) -> str:
    return f"r{row:06d}c000000p{PX}"


@dataclass
class World:
    """The study, where its files lie, and the pixels they were written from."""

    root: Path
    study: Study
    labels: np.ndarray
    truth: np.ndarray
    images: np.ndarray
    seen: np.ndarray
    pixels: dict[tuple[str, str | None], np.ndarray] = field(default_factory=dict)
    batch: dict[tuple[str, str], dict[str, dict[str, float]]] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        return self.root / "results"

    def chips(self, name: str) -> Path:
        return self.root / "data" / "demo" / "chips" / name

    def folder(self, run: str) -> Path:
        return self.results / "runs" / run


def study_config(**changes: Any) -> StudyConfig:
    raw = {
        "title": "Demo",
        "description": "Two models.",
        "data": {key: DATA[key] for key in ("region", "imagery", "recipe", "split")},
        "models": ["unet", "fpn"],
        "losses": ["focal", "jaccard"],
        "select": "val_mean_iou",
    }
    return StudyConfig.model_validate(raw | changes)


def network(model: str, loss: str, *, seed: int = 0, lr: float = 1e-3, split: str = "block", **varied: Any) -> Run:
    spec = {
        "version": 1,
        "kind": "run",
        "data": DATA | {"split": split},
        "model": {"name": model, "params": {"width": 8}},
        "loss": {"name": loss, "params": {}},
        "train": {"lr": lr, "batch_size": 8},
        "seed": seed,
    }
    run = f"demo-{model}-{loss}-lr{lr:g}-s{seed}-{split}-0123456789"
    return Run(run, "run", model, spec, {"model.name": model, "loss.name": loss} | varied)


def other(kind: str, name: str, **varied: Any) -> Run:
    spec = {"version": 1, "kind": kind, "data": DATA, "model": {"name": name, "params": {}}, "seed": 0}
    return Run(f"{name}.abcdef0123", kind, name, spec, {"model.name": name} | varied)


def write_store(folder: Path, chips: np.ndarray, valid: np.ndarray) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "chips.npy", chips)
    np.save(folder / "valid.npy", np.packbits(valid, axis=-1))
    order = [chip_id(row) for row in range(len(chips))]
    corners = {"row_px": [row * PX for row in range(len(chips))], "col_px": 0}
    pd.DataFrame({"chip_id": order, **corners}).to_parquet(folder / "index.parquet")
    facts = {"chips": len(chips), "dtype": str(chips.dtype), "gsd_m": GSD_M}
    (folder / "store.json").write_text(json.dumps(facts))


def cells_of(labels: np.ndarray, predicted: np.ndarray) -> list[dict[str, Any]]:
    """Counts per chip, pixel by pixel: slow and plain."""
    rows: list[dict[str, Any]] = []
    for split, members in SPLITS.items():
        for row in members:
            pairs: dict[tuple[int, int], int] = {}
            for truth, guess in zip(labels[row].ravel().tolist(), predicted[row].ravel().tolist(), strict=True):
                if truth != 255:
                    pairs[truth, guess] = pairs.get((truth, guess), 0) + 1
            rows += [
                {"chip_id": chip_id(row), "split": split, "truth": t, "predicted": p, "pixels": n}
                for (t, p), n in pairs.items()
            ]
    return rows


def disturb(labels: np.ndarray, wrong: float, rng: np.random.Generator) -> np.ndarray:
    """A prediction that differs from the labels in about a share `wrong` of the pixels, more so in later chips."""
    share = wrong * np.linspace(0.4, 1.6, len(labels))[:, None, None]
    noise = rng.integers(0, len(CLASSES), labels.shape)
    return np.where((rng.random(labels.shape) < share) | (labels == 255), noise, labels).astype(np.uint8)


def write_run(world: World, run: Run, wrong: dict[str | None, float], rng: np.random.Generator) -> None:
    folder = world.folder(run.id)
    (folder / "predictions").mkdir(parents=True)
    info = {
        "id": run.id, "kind": run.kind, "name": run.name, "spec": run.spec, "classes": CLASSES, "colours": COLOURS,
        "parameters": 486_124 if run.kind == "run" else None, "started": "2026-01-02T03:04:05+00:00",
        "finished": "2026-01-02T03:05:05+00:00", "seconds": 60.25, "device": "cpu",
        "versions": {"python": "3.11.2", "torch": "2.14.0"},
        "hashes": {"data": "d" * 64, "split": "5" * 64, "code": (run.name[0].encode().hex() * 32)},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(info))
    cells, checkpoints = [], {}
    for number, (checkpoint, share) in enumerate(wrong.items()):
        predicted = disturb(world.labels, share, rng)
        world.pixels[run.id, checkpoint] = predicted
        own = pd.DataFrame(cells_of(world.labels, predicted))
        cells.append(own if checkpoint is None else own.assign(checkpoint=checkpoint))
        name = "test.npy" if checkpoint is None else f"test-{checkpoint}.npy"
        np.save(folder / "predictions" / name, predicted[SPLITS["test"].start :])
        if checkpoint is not None:
            histograms = {split: rng.integers(0, 50, (len(CLASSES), 2, 64)) for split in SPLITS}
            np.savez(folder / "predictions" / f"probabilities-{checkpoint}.npz", **histograms)
            checkpoints[checkpoint] = {"epoch": number + 1} | {
                split: {"jaccard_coefficient": float(rng.random()), "loss": float(rng.random())} for split in SPLITS
            }
            world.batch[run.id, checkpoint] = checkpoints[checkpoint]
    pd.concat(cells).to_parquet(folder / "confusion.parquet")
    (folder / "predictions" / "chips.json").write_text(json.dumps([chip_id(row) for row in SPLITS["test"]]))
    if run.kind == "run":
        (folder / "metrics.json").write_text(json.dumps({"checkpoints": checkpoints}))
        epochs = np.arange(1, 7)
        history = {"epoch": epochs, "lr": 1e-3, "seconds": 1.5}
        for at, name in enumerate(("train_loss", "val_loss")):
            history[name] = 0.9 * np.exp(-0.3 * epochs) + 0.1 * at + 0.02 * rng.random(6)
        for name in ("val_accuracy", "val_jaccard_coefficient", "val_mean_iou"):
            history[name] = 0.85 - 0.5 * np.exp(-0.4 * epochs) + 0.02 * rng.random(6)
        pd.DataFrame(history).to_csv(folder / "history.csv", index=False)


def build_world(root: Path, runs: list[Run], metrics: list[dict[str, Any]] | None = None, **config: Any) -> World:
    rng = np.random.default_rng(11)
    coarse = rng.integers(0, len(CLASSES), (CHIPS, PX // 4, PX // 4))
    labels = coarse.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)
    labels[:, :2, :5] = 255
    truth = disturb(labels, 0.2, rng)
    truth[:, -1, :] = 255
    images = rng.integers(0, 256, (CHIPS, 3, PX, PX)).astype(np.uint8)
    seen = np.ones(labels.shape, bool)
    seen[:, 5:9, 3:] = False
    world = World(root, Study("demo", study_config(**config), runs, metrics or []), labels, truth, images, seen)
    write_store(world.chips("aerial"), images, seen)
    write_store(world.chips("osm"), labels[:, None], np.ones(labels.shape, bool))
    write_store(world.chips("truth"), truth[:, None], np.ones(labels.shape, bool))
    codes = np.ones((CHIPS // BLOCK_CHIPS, 1), np.uint8)  # which split does not matter here: the cells say it
    Blocks(codes, PX * BLOCK_CHIPS, 0, (0.0, 0.0)).save(root / "data" / "demo" / "splits" / "block.parquet", {})
    for number, run in enumerate(runs):
        base = 0.15 + 0.05 * (number % 7)
        wrong: dict[str | None, float] = {None: 0.6}
        if run.kind == "run":
            better, worse = ("best_jaccard", "best_accuracy") if number % 2 else ("best_accuracy", "best_jaccard")
            wrong = {better: base, worse: base + 0.1}
        write_run(world, run, wrong, rng)
    return world


def demo_runs() -> list[Run]:
    networks = [network(model, loss) for model in ("unet", "fpn") for loss in ("focal", "jaccard")]
    return [*networks, other("baseline", "landcover"), other("rule", "rulebook")]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("built"), demo_runs())


@pytest.fixture
def world(built: World, tmp_path: Path) -> World:
    """A copy that a test may damage."""
    shutil.copytree(built.root, tmp_path, dirs_exist_ok=True)
    return replace(built, root=tmp_path)
