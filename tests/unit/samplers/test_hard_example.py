"""Hard examples: what an epoch is made of, and that a killed training goes on with the same chips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pipeline import samplers
from pipeline.samplers._chips import Chips
from pipeline.train import state
from pipeline.train.display import Display
from pipeline.train.engine import train
from pipeline.train.step import Stepper
from tests.support.tiny import a_spec, write_region


def shown(errors: list[float], seed: int = 0, **params: Any) -> np.ndarray:
    known = Chips(np.ones((len(errors), 2), np.int64), ["a", "b"], np.asarray(errors, np.float32))
    return samplers.create("hard_example", **params)(known, np.random.default_rng([5, seed]))


def test_the_first_epoch_shows_every_chip_once() -> None:
    for count in (1, 2, 3, 8, 41):
        for params in ({}, {"share": 1.0}, {"share": 0.1, "hardest": 0.01}):
            found = shown([np.nan] * count, **params)
            assert sorted(found.tolist()) == list(range(count))
    assert shown([np.nan] * 41).tolist() != sorted(shown([np.nan] * 41).tolist())


def test_the_hardest_quarter_is_shown_twice_the_others_two_times_in_three() -> None:
    errors = np.random.default_rng(0).permutation(40) / 40
    times = sum(np.bincount(shown(errors.tolist(), seed), minlength=40) for seed in range(300))
    hard = errors >= 30 / 40
    assert (times[hard] == 2 * 300).all()
    assert times[~hard].sum() == 300 * 20
    assert np.abs(times[~hard] - 200).max() < 4 * np.sqrt(300 * 2 / 9)


@pytest.mark.parametrize(
    ("share", "hardest", "size"), [(0.5, 0.25, 8), (0.25, 0.5, 16), (1.0, 0.1, 20), (0.0, 0.5, 10)]
)
def test_a_share_of_the_epoch_is_of_the_hardest(share: float, hardest: float, size: int) -> None:
    errors = [number / 20 for number in range(20)]
    found = shown(errors, share=share, hardest=hardest, chips=size)
    assert len(found) == size
    top = set(range(20 - round(20 * hardest), 20))
    of_top = sum(int(chip) in top for chip in found)
    assert of_top >= round(share * size)
    if size * share <= len(top):  # drawn without replacement
        assert len(set(found.tolist())) == size
    if share == 1:
        assert set(found.tolist()) == top


def test_chips_never_shown_are_the_hardest_however_many() -> None:
    errors = [0.99] * 6 + [np.nan] * 10
    found = shown(errors, share=0.5, hardest=0.1, chips=10)
    assert sum(int(chip) >= 6 for chip in found) >= 5 and len(set(found.tolist())) == 10
    first = [set(shown([0.9, np.nan, 0.1, 0.8], seed, share=1.0, hardest=0.25, chips=1).tolist()) for seed in range(9)]
    assert first == [{1}] * 9


def test_ties_fall_at_random() -> None:
    hardest = {int(shown([0.5] * 10, seed, share=1.0, hardest=0.1, chips=1)[0]) for seed in range(60)}
    assert len(hardest) > 7


# --- through the engine ------------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands for the end of the process between two epochs."""


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_region(tmp_path_factory.mktemp("data"))


def spec_of(**params: Any) -> dict[str, Any]:
    return a_spec(epochs=4, sampler={"name": "hard_example", "params": {"chips": 16, **params}})


def run(data: Path, folder: Path, spec: dict[str, Any]) -> dict[str, np.ndarray]:
    train("tiny-run", spec, "code", data=data, out=folder / "out", work=folder / "work", log=lambda _: None)
    return load_file(folder / "out" / "checkpoints" / "last.safetensors")


def kill_after(epoch: int, data: Path, folder: Path, spec: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    def stop(self: Display, row: dict[str, float]) -> None:
        if row["epoch"] == epoch:
            raise Killed

    with patch.context() as one:
        one.setattr(Display, "epoch", stop)
        with pytest.raises(Killed):
            run(data, folder, spec)


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The chips of each epoch that is trained, in order, taken from the steps; the state is saved after each."""
    monkeypatch.setattr(state, "SHARE", 1e9)
    found: list[list[int]] = []
    real = Stepper.epoch

    def epoch(self: Stepper, number: int, steps: Any) -> Any:
        found.append([int(chip) for parts in steps for part in parts for chip in part.at])
        return real(self, number, steps)

    monkeypatch.setattr(Stepper, "epoch", epoch)
    return found


def test_a_killed_training_goes_on_with_the_same_chips(
    region: Path, tmp_path: Path, orders: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(region, tmp_path / "whole", spec_of())
    undisturbed = orders.copy()
    orders.clear()
    for epoch in (1, 3):
        kill_after(epoch, region, tmp_path / "killed", spec_of(), monkeypatch)
    resumed = run(region, tmp_path / "killed", spec_of())
    assert orders == undisturbed and len(orders) == 4
    assert whole.keys() == resumed.keys() and all(np.array_equal(whole[key], resumed[key]) for key in whole)


def test_what_was_wrong_is_part_of_the_state_and_decides(
    region: Path, tmp_path: Path, orders: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guard of the test above: with other errors in the state, other chips come."""
    run(region, tmp_path / "whole", spec_of())
    undisturbed = orders.copy()
    orders.clear()
    kill_after(3, region, tmp_path / "killed", spec_of(), monkeypatch)
    path = tmp_path / "killed" / "work" / "state.pt"
    saved = torch.load(path, weights_only=True)
    errors = saved["errors"].numpy()
    seen = sorted({chip for order in orders for chip in order})
    assert np.flatnonzero(~np.isnan(errors)).tolist() == seen
    assert ((errors[seen] >= 0) & (errors[seen] <= 1)).all() and len(set(errors[seen])) > 5
    saved["errors"] = torch.where(torch.isnan(saved["errors"]), 0.0, torch.nan)
    torch.save(saved, path)
    run(region, tmp_path / "killed", spec_of())
    assert orders[:3] == undisturbed[:3] and orders[3] != undisturbed[3]
