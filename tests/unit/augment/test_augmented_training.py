"""Augmentations within the engine: it trains, a run is a function of its spec, and a stopped one goes on to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import models
from pipeline.errors import ConfigError
from pipeline.train.engine import train
from tests.support.tiny import a_spec, write_region
from tests.unit.train.test_engine import FourHeads, history, run_training, same_weights

AUGMENT = [
    {"name": "flips", "params": {"quarter_turns": True}},
    {"name": "rotation", "params": {"zoom_min": 0.8, "probability": 0.7}},
]
BOUNDARY = {"name": "weighted_sum", "params": {"terms": ["focal", "boundary_distance"]}}


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_region(tmp_path_factory.mktemp("data"))


def augmented(loss: dict[str, Any], augment: list[dict[str, Any]] = AUGMENT, **settings: Any) -> dict[str, Any]:
    return a_spec(flips=False, augment=augment, **{"epochs": 3, **settings}) | {"loss": loss}


def losses(folder: Path) -> list[float]:
    return [float(row["train_loss"]) for row in history(folder)]


def test_signed_distances_move_along_and_it_learns(region: Path, tmp_path: Path) -> None:
    run_training(region, tmp_path / "a", augmented(BOUNDARY, epochs=6))
    found = losses(tmp_path / "a")
    assert found[-1] < found[0]
    assert max(float(row["val_accuracy"]) for row in history(tmp_path / "a")) > 0.8


def test_a_run_is_a_function_of_its_spec(region: Path, tmp_path: Path) -> None:
    specs = {
        "one": augmented(BOUNDARY, epochs=1, micro_batch=4),
        "again": augmented(BOUNDARY, epochs=1, micro_batch=4),
        "whole": augmented(BOUNDARY, epochs=1),
        "one_part": augmented(BOUNDARY, epochs=1, micro_batch=8),
        "plain": augmented(BOUNDARY, [], epochs=1),
    }
    for name, spec in specs.items():
        run_training(region, tmp_path / name, spec)
    assert same_weights(tmp_path / "one", tmp_path / "again")
    assert same_weights(tmp_path / "whole", tmp_path / "one_part")
    assert not same_weights(tmp_path / "one", tmp_path / "whole")
    assert not same_weights(tmp_path / "plain", tmp_path / "whole")


class Stopped(Exception):
    pass


def test_four_heads_stopped_between_epochs_go_on_to_the_bit(
    region: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "create", lambda name, in_channels, classes, **params: FourHeads(classes))
    spec = augmented({"name": "multi_task", "params": {}})
    run_training(region, tmp_path / "whole", spec)
    assert losses(tmp_path / "whole")[-1] < losses(tmp_path / "whole")[0]

    def log(line: str) -> None:
        if line.startswith("epoch 2/3"):
            raise Stopped

    folder = tmp_path / "stopped"
    with pytest.raises(Stopped):
        train("tiny-run", spec, "code", data=region, out=folder / "out", work=folder / "work", log=log)
    torch.manual_seed(99)  # what came between is of no account
    lines = run_training(region, folder, spec)
    assert any("resumed after epoch" in line for line in lines)
    assert history(folder) == history(tmp_path / "whole")
    assert same_weights(folder, tmp_path / "whole")


def test_crops_train_and_whole_chips_validate(region: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[bool, set[int]] = {True: set(), False: set()}

    class Watched(FourHeads):
        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            sizes[self.training].add(image.shape[-1])
            return super().forward(image)

    monkeypatch.setattr(models, "create", lambda name, in_channels, classes, **params: Watched(classes))
    crop = [{"name": "random_crop", "params": {"px": 16}}]
    run_training(region, tmp_path, augmented({"name": "multi_task", "params": {}}, crop, epochs=1))
    assert sizes == {True: {16}, False: {32}}


def test_crops_larger_than_the_chips_are_a_line(region: Path, tmp_path: Path) -> None:
    crop = [{"name": "random_crop", "params": {"px": 64}}]
    with pytest.raises(ConfigError, match="random_crop: px 64 is more than the chips' 32 px") as caught:
        run_training(region, tmp_path, augmented({"name": "focal", "params": {}}, crop))
    assert "\n" not in str(caught.value)
