"""The search for a loss's weight: what it does to the run, and that a kill changes nothing."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pipeline import losses
from pipeline.evaluate.network import evaluate
from pipeline.train import engine, state
from pipeline.train.weight_search import WeightSearch
from tests.support.tiny import a_spec

SEARCH = {"schedule": "search", "first": 1, "every": 2, "candidates": [0.1, 0.9, 0.5], "terms": ["focal", "jaccard"]}


def spec_of(epochs: int = 4, **params: Any) -> dict[str, Any]:
    spec = a_spec(epochs=epochs, patience=50, batch_size=4) | {
        "loss": {"name": "weighted_sum", "params": {**SEARCH, **params}}
    }
    spec["data"]["train_subset"] = 8
    return spec


def run(region: Path, folder: Path, spec: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    engine.train("tiny", spec, "code", data=region, out=folder / "out", work=folder / "work", log=lines.append)
    return lines


def history(folder: Path) -> list[dict[str, str]]:
    with open(folder / "out" / "history.csv") as handle:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(handle)]


def same_weights(one: Path, other: Path) -> bool:
    files = [sorted((folder / "out" / "checkpoints").glob("*.safetensors")) for folder in (one, other)]
    pairs = [(load_file(a), load_file(b)) for a, b in zip(*files, strict=True)]
    return len(pairs) == 3 and all(np.array_equal(a[key], b[key]) for a, b in pairs for key in a)


@pytest.fixture(scope="module")
def whole(region: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """An undisturbed run: an epoch, three tries of two epochs each, and three of one, since the run has four."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(region, folder, spec_of())


def test_every_weight_is_tried_and_the_best_kept(whole: tuple[Path, list[str]]) -> None:
    folder, lines = whole
    rows, tries = history(folder), [line for line in lines if line.startswith("loss weight ")]
    assert [row["epoch"] for row in rows] == [str(number) for number in range(1, 5)]
    weights = [float(row["loss_weight"]) for row in rows]
    for first, (begin, end) in zip((0, 4), ((1, 3), (3, 4)), strict=True):
        scores = {}
        for line in tries[first : first + 3]:
            words = line.replace(":", "").split()
            assert words[-1] == str(end) and words[3] == "val_mean_iou"
            scores[float(words[2])] = float(words[4])
        assert list(scores) == SEARCH["candidates"] and len(set(scores.values())) > 1
        best = max(scores, key=lambda weight: scores[weight])
        assert weights[begin:end] == [best] * (end - begin)
        assert float(rows[end - 1]["val_mean_iou"]) == pytest.approx(scores[best], abs=5e-5)
        assert tries[first + 3] == f"loss weight {best:g} is kept; training goes on after epoch {end}"
    assert weights[0] == 0.5 and len(tries) == 8
    assert sum(line.startswith("epoch ") for line in lines) == 1 + 3 * 2 + 3 * 1


def test_the_run_is_what_training_with_the_kept_weight_gives(
    whole: tuple[Path, list[str]], region: Path, tmp_path: Path
) -> None:
    """A try begins from the state after `first` epochs with the run's own batches: no trace of the tries before."""
    kept = [float(row["loss_weight"]) for row in history(whole[0])]
    alone = spec_of(candidates=[kept[1]], epochs=3)
    run(region, tmp_path, alone)
    assert [{**row} for row in history(tmp_path)] == history(whole[0])[:3]


def test_a_try_may_be_shorter_than_the_time_to_the_next_search(region: Path, tmp_path: Path) -> None:
    lines = run(region, tmp_path, spec_of(epochs=3, try_epochs=1))
    assert sum(line.startswith("epoch ") for line in lines) == 1 + 3 * 1 + 1
    weights = [row["loss_weight"] for row in history(tmp_path)]
    assert len(weights) == 3 and weights[1] == weights[2] in {"0.1", "0.9", "0.5"}


def wish(every: int) -> dict[str, Any]:
    return losses.create("weighted_sum", **{**SEARCH, "first": 2, "every": every}).search


class Killed(Exception):
    """Stands for SIGKILL at a chosen moment."""


@pytest.mark.parametrize("moment", ["before the state is saved", "after it"])
def test_a_run_killed_in_every_epoch_of_its_tries_ends_as_if_it_had_not_been(
    whole: tuple[Path, list[str]], region: Path, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every process gets one epoch further; before: each epoch and what the search made of it is done twice."""
    save, calls = state.Saver.save, []

    def killing(saver: state.Saver, learner: state.Learner, search: Any, last: bool) -> None:
        calls.append(last)
        if moment == "after it" or len(calls) % 2 == 0:
            save(saver, learner, search, last=True)
        if moment == "after it" or len(calls) % 2:
            raise Killed

    monkeypatch.setattr(state.Saver, "save", killing)
    deaths, lines = 0, []
    while True:
        try:
            lines += run(region, tmp_path, spec_of())
            break
        except Killed:
            deaths += 1
    assert deaths == 10
    assert history(tmp_path) == history(whole[0])
    assert same_weights(tmp_path, whole[0])


def test_checkpoints_are_those_of_the_epochs_in_the_history(whole: tuple[Path, list[str]], region: Path) -> None:
    folder = whole[0]
    metrics = evaluate(folder / "out", region, folder / "none", lambda _: None)["checkpoints"]
    values = [float(row["val_accuracy"]) for row in history(folder)]
    assert metrics["best_accuracy"]["epoch"] == int(np.argmax(values)) + 1
    assert metrics["best_accuracy"]["val"]["accuracy"] == pytest.approx(max(values), abs=1e-9)
    of_validation = [float(row["val_loss"]) for row in history(folder)]
    epoch = metrics["best_accuracy"]["epoch"]
    assert metrics["best_accuracy"]["val"]["loss"] == pytest.approx(of_validation[epoch - 1], rel=1e-6)


def test_a_try_without_patience_left_ends_and_the_next_begins() -> None:
    """Scores 0.3, not a number, 0.6 after one bad epoch each, where patience is one: the last is kept, the run over."""
    search = WeightSearch(wish(every=3), epochs=40, patience=1)
    model = torch.nn.Linear(1, 1)
    learner = state.Learner(model, torch.optim.Adam(model.parameters()), state.Progress(epoch=1))
    assert search.advance(learner) == []
    learner.progress.epoch = 2
    assert search.advance(learner) == ["loss weight: trying 0.1, 0.9, 0.5 from epoch 2 on, for 3 epochs at most"]
    begun = model.weight.item()
    for candidate, score in enumerate((0.3, float("nan"), 0.6)):
        progress = learner.progress
        assert progress.loss_weight == SEARCH["candidates"][candidate] and progress.history == []
        assert progress.epoch == 2 and model.weight.item() == begun
        with torch.no_grad():
            model.weight.fill_(candidate)
        progress.epoch, progress.bad_epochs = 3, 1
        progress.history.append({"val_mean_iou": score})
        lines = search.advance(learner)
    assert lines[1] == "loss weight 0.5 is kept; training goes on after epoch 3"
    assert model.weight.item() == 2 and learner.progress.loss_weight == 0.5 and learner.progress.bad_epochs == 1
    assert search.state() is None


def test_of_equal_scores_the_first_is_kept_and_its_weights_are_its_own() -> None:
    """The optimiser goes on in place after a snapshot was taken and after one was restored: neither may change."""
    search = WeightSearch(wish(every=1), 40, 40)
    model = torch.nn.Linear(1, 1)
    learner = state.Learner(model, torch.optim.Adam(model.parameters(), lr=0.1), state.Progress(epoch=2))

    def step() -> tuple[float, float]:
        learner.optimizer.zero_grad()
        (learner.model(torch.ones(1, 1)) * (learner.progress.loss_weight or 1.0)).sum().backward()
        learner.optimizer.step()
        return model.weight.item(), learner.optimizer.state_dict()["state"][0]["exp_avg"].item()

    step()
    search.advance(learner)
    ends = []
    for _ in range(3):
        assert learner.optimizer.state_dict()["state"][0]["step"].item() == 1
        step()
        ends.append(step())
        learner.progress.epoch += 1
        learner.progress.history.append({"val_mean_iou": 0.5})
        search.advance(learner)
    assert len(set(ends)) == 3 and search.state()["candidate"] == 0  # and the next search has begun
    found = learner.model.weight.item(), learner.optimizer.state_dict()["state"][0]["exp_avg"].item()
    assert found == ends[0]


def test_a_run_too_short_for_a_search_says_so(region: Path, tmp_path: Path, whole: tuple[Path, list[str]]) -> None:
    """With the paper's first search after epoch 8, a trial run of a few epochs never moves the weight."""
    lines = run(region, tmp_path, spec_of(epochs=2, first=2))
    said = "loss weight: no search, since the first comes after epoch 2 and the run has 2"
    assert said in lines and [row["loss_weight"] for row in history(tmp_path)] == ["0.5", "0.5"]
    assert not [line for line in whole[1] if "no search" in line]


def test_a_schedule_writes_the_weight_of_each_epoch(region: Path, tmp_path: Path) -> None:
    params = {"terms": ["focal", "boundary_distance"], "schedule": "rebalance", "every": 1, "change": 0.25}
    run(region, tmp_path, spec_of(epochs=3, **params))
    assert [float(row["loss_weight"]) for row in history(tmp_path)] == [0.5, 0.75, 1.0]
    assert (tmp_path / "work" / "targets" / "train-signed_distance.npy").is_file()


def test_a_constant_sum_has_no_such_column(region: Path, tmp_path: Path) -> None:
    run(region, tmp_path, spec_of(epochs=1, schedule="constant"))
    assert "loss_weight" not in history(tmp_path)[0]
