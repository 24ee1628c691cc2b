"""Schedules in training: rates and frozen parts outlive kills and a weight search that sets the history back."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pipeline import models, schedules, variants
from pipeline.errors import RunError
from pipeline.files import read_json
from pipeline.train import engine, loop, state
from tests.support.tiny import a_spec

STAGES = [{"part": "decoder", "lr": 3e-3, "epochs": 2}, {"part": "decoder_and_norms", "lr": 1e-3, "epochs": 1}]
STAGES += [{"part": "all", "lr": 1e-4, "epochs": None}]
SEARCH = {"schedule": "search", "first": 1, "every": 2, "candidates": [0.1, 0.9], "terms": ["focal", "jaccard"]}


def spec_of(name: str, params: dict[str, Any], **train: Any) -> dict[str, Any]:
    resolved = variants.check("schedules", name, params, "here")
    spec = a_spec(**{"epochs": 5, "patience": 50, "schedule": {"name": name, "params": resolved}, **train})
    spec["data"]["train_subset"] = 16
    return spec


def run(region: Path, folder: Path, spec: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    engine.train("tiny", spec, "code", data=region, out=folder / "out", work=folder / "work", log=lines.append)
    return lines


def history(folder: Path) -> list[dict[str, float]]:
    with open(folder / "out" / "history.csv") as handle:
        return [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(handle)]


def last(folder: Path) -> dict[str, Any]:
    return load_file(folder / "out" / "checkpoints" / "last.safetensors")


class Killed(Exception):
    """Stands for SIGKILL at a chosen moment."""


def run_killed_after_every_epoch(region: Path, folder: Path, spec: dict[str, Any], patch: pytest.MonkeyPatch) -> int:
    """Every process ends just after it has saved one epoch, until one finds nothing to do; the number of deaths."""
    save, deaths = state.Saver.save, 0

    def killing(saver: state.Saver, *arguments: Any, **named: Any) -> None:
        save(saver, *arguments, **{**named, "last": True})
        raise Killed

    patch.setattr(state.Saver, "save", killing)
    while True:
        try:
            run(region, folder, spec)
        except Killed:
            deaths += 1
        else:
            return deaths


@pytest.mark.parametrize(
    ("name", "params", "train", "loss"),
    [
        ("staged_unfreezing", {"stages": STAGES}, {"ema": 0.5, "weight_decay": 0.1}, None),
        ("reduce_on_plateau", {"monitor": "val_mean_f1", "threshold": 0.9, "patience": 1}, {}, None),
        ("reduce_on_plateau", {"monitor": "train_loss", "threshold": 0.9, "patience": 1}, {}, SEARCH),
    ],
)
def test_a_run_killed_after_every_epoch_is_an_undisturbed_one(
    region: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    params: dict[str, Any],
    train: dict[str, Any],
    loss: dict[str, Any] | None,
) -> None:
    spec = spec_of(name, params, **train)
    spec |= {"loss": {"name": "weighted_sum", "params": loss}} if loss else {}
    run(region, tmp_path / "whole", spec)
    assert run_killed_after_every_epoch(region, tmp_path / "killed", spec, monkeypatch) == (9 if loss else 5)
    rows = history(tmp_path / "whole")
    assert history(tmp_path / "killed") == rows
    one, other = last(tmp_path / "whole"), last(tmp_path / "killed")
    assert all(np.array_equal(one[key], other[key]) for key in one)
    made = schedules.create(name, **params)
    assert [row["lr"] for row in rows] == [made(epoch, 0.01, rows[:epoch]).lr for epoch in range(5)]
    assert len({row["lr"] for row in rows}) > 2


def test_the_encoder_stands_still_until_its_stage_begins(region: Path, tmp_path: Path) -> None:
    """Weights, running statistics and the moving average; what run.json counts are all parameters all the same."""
    spec = spec_of("staged_unfreezing", {"stages": STAGES}, epochs=2, weight_decay=0.1, optimizer="adamw", ema=0.9)
    torch.manual_seed(spec["seed"])
    begin = models.create("unet", in_channels=3, classes=2, **spec["model"]["params"])
    counted = sum(parameter.numel() for parameter in begin.parameters())
    spec["train"]["schedule"]["params"]["stages"][-1]["epochs"] = 3
    run(region, tmp_path, spec)
    weights, moved = last(tmp_path), set()
    for key, tensor in begin.state_dict().items():
        if not np.array_equal(weights[key], tensor.numpy()):
            moved.add(key.partition(".")[0])
    assert moved == {"up", "decoder", "head"}
    assert read_json(tmp_path / "out" / "run.json")["parameters"] == counted


def test_the_early_stop_begins_anew_with_a_stage(region: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience 2, and no epoch is ever better: without stages the run would end after two."""
    monkeypatch.setattr(loop, "better", lambda *_: False)
    stages = [{"part": "all", "lr": 1e-3, "epochs": 1}] * 3 + [{"part": "all", "lr": 1e-3, "epochs": None}]
    train = {"epochs": 20, "patience": 2, "checkpoints": ["last"]}
    run(region, tmp_path, spec_of("staged_unfreezing", {"stages": stages}, **train))
    assert len(history(tmp_path)) == 5


def test_an_annealing_without_a_length_falls_over_the_runs_epochs(region: Path, tmp_path: Path) -> None:
    run(region, tmp_path, spec_of("polynomial", {"power": 1.0}, epochs=2, lr=0.01))
    assert [row["lr"] for row in history(tmp_path)] == [0.01, 0.005]


def test_a_score_that_only_the_schedule_watches_is_a_column(region: Path, tmp_path: Path) -> None:
    run(region, tmp_path, spec_of("reduce_on_plateau", {"monitor": "val_iou_bright"}, epochs=1))
    assert 0 <= history(tmp_path)[0]["val_iou_bright"] <= 1


def test_a_part_of_a_model_without_parts_is_one_line(
    region: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run.json from elsewhere comes past the checks of studies."""
    declared = variants.declared
    monkeypatch.setattr(variants, "declared", lambda *args: None or declared(*args) if args[2] != "ENCODER" else ())
    with pytest.raises(RunError, match="part 'decoder' of a UNet"):
        run(region, tmp_path, spec_of("staged_unfreezing", {"stages": STAGES}))
