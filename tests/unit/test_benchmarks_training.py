"""The benchmarks of training count what they say: operations, steps, runs; and their bounds can be missed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import grid, models, startup, training
from benchmarks.training_data import a_run, prepared, write_store
from benchmarks.training_jobs import Chips, Setting, Timed, flops, our_jobs, plain_jobs, time_steps
from pipeline.dataset.joined import join
from pipeline.runs import expand_runs
from pipeline.train import engine, loop, step

ROOT = Path(__file__).resolve().parents[2]
TRAIN, VAL = 6, 3


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("drawn")
    write_store(folder / "data", 32, TRAIN, VAL)
    return Setting(folder / "data", folder / "work", 4, 32, 2, "fp32", False, "resnet18", 0, VAL)


def test_drawn_chips_join_and_can_be_learnt(setting: Setting) -> None:
    joined = join(setting.data, a_run(setting.ours)["data"])
    assert {split: len(rows) for split, rows in joined.rows.items()} == {"train": TRAIN, "val": VAL, "test": 1}
    images, masks = joined.batch(joined.rows["train"])
    assert images.shape == (TRAIN, 3, 32, 32) and images.dtype == np.uint8 and len(np.unique(masks)) == 4
    colours = np.array([images.transpose(0, 2, 3, 1)[masks == label].mean(axis=0) for label in range(4)])
    apart = np.abs(images.transpose(0, 2, 3, 1)[:, :, :, None] - colours).sum(axis=-1)
    assert (apart.argmin(axis=-1) == masks).mean() > 0.8


def test_operations_are_three_forwards_without_the_image_gradient() -> None:
    params = {"width": 16}
    _, multiply_adds = models.work("unet", params)
    first = 9 * 3 * 16 * 256 * 256
    assert flops({"name": "unet", "params": params}, 256) == 6 * multiply_adds - 2 * first


def test_the_clock_takes_as_many_steps_as_it_says_and_one_before() -> None:
    asked, taken = [], []

    def job(steps: int) -> Iterator[int]:
        asked.append(steps)
        for number in range(steps):
            taken.append(number)
            yield number

    assert time_steps(job, 5) >= 0 and asked == [6] and taken == list(range(6))


def test_our_jobs_run_and_only_those_of_the_epoch_train(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.nn.Module] = []
    create = engine.models.create

    def noted(*args: Any, **kwargs: Any) -> torch.nn.Module:
        made.append(create(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(engine.models, "create", noted)
    jobs = our_jobs(setting)
    assert {"epoch", "no data", "no model", "loader", "validation", "loader, memory"} <= set(jobs)
    for name, job in jobs.items():
        before = copy.deepcopy(made[0].state_dict())
        assert len(list(job(2))) == 2, name
        changed = any(not torch.equal(before[key], value) for key, value in made[0].state_dict().items())
        assert changed == (name in ("epoch", "no data")), name


def test_the_plain_loop_trains_and_its_image_and_mask_turn_together(setting: Setting) -> None:
    torch.manual_seed(0)
    losses = list(plain_jobs(setting, setting.ours, (0,))["fp32, 0"](40))
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])  # type: ignore[arg-type]
    chips = Chips(setting.data)
    image, mask = (torch.stack(parts) for parts in zip(*(chips[at] for at in range(len(chips))), strict=True))
    assert image.dtype == torch.float32 and image.max() <= 1 and mask.dtype == torch.int64
    image = image.movedim(1, -1)
    colours = torch.stack([image[mask == label].mean(dim=0) for label in range(4)])
    nearest = (image[..., None, :] - colours).abs().sum(dim=-1).argmin(dim=-1)
    assert (nearest == mask).float().mean() > 0.8


def rounds(**rates: float) -> training.Rounds:
    keys = {name: (*name.split("_"), 1) for name in rates}
    return training.Rounds({keys[name]: [Timed(1 / rate, 1, None)] * 2 for name, rate in rates.items()})  # type: ignore[misc]


@pytest.mark.parametrize(("plain", "loader", "beside", "limit"), [(9.0, 60.0, True, True), (11.0, 40.0, False, False)])
def test_bounds_are_held_and_missed(
    plain: float,
    loader: float,
    beside: bool,
    limit: bool,
    setting: Setting,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = rounds(ours_epoch=10.0, ours_loader=loader)
    found.timed["plain", "fp32, 0", 1] = [Timed(1 / plain, 1, None)] * 2
    monkeypatch.setattr(training, "GPU", False)
    monkeypatch.setattr(training, "LOOP_BOUND", 1.0)
    assert training.rivals(found, setting, [1], {"ours": 1, "plain": 1}, [100.0]) is beside
    assert training.limits(found, [1]) is limit
    assert ("| NO |" in capsys.readouterr().out) is not beside


def test_a_run_of_the_grid_is_the_sum_of_its_parts() -> None:
    one = grid.Slice("unet", "focal", 32, per_chip=0.5, per_validated=0.25, fixed=7.0, flops=30)
    length = grid.Grid(epochs=3, chips=10, val=4, test=6)
    assert one.run_seconds(length) == 3 * (10 * 0.5 + 4 * 0.25) + 2 * (4 + 6) * 0.25 + 7.0
    assert one.run_flops(length) == pytest.approx(30 * (3 * 10 + (3 * 4 + 2 * 10) / 3))


def test_the_grids_study_has_the_runs_that_are_extrapolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    specs = [run.spec for run in expand_runs("frankfurt_grid").runs]
    assert len(specs) == 108 == len(grid.NETWORKS) * len(grid.LOSSES) * len(grid.BATCHES) * grid.ALIKE
    settings = {
        (
            spec["model"]["name"],
            spec["model"]["params"]["dropout"],
            spec["loss"]["name"],
            spec["train"]["batch_size"],
            spec["train"]["lr"],
        )
        for spec in specs
    }
    assert len(settings) == 108
    assert {one[0] for one in settings} == set(grid.NETWORKS) and {one[1] for one in settings} == {0.0, 0.1, 0.3}
    assert {one[2] for one in settings} == set(grid.LOSSES) and {one[3] for one in settings} == set(grid.BATCHES)
    assert {one[4] for one in settings} == {1e-3, 1e-4, 1e-5}
    assert {(spec["train"]["epochs"], spec["train"]["patience"], spec["data"]["train_subset"]) for spec in specs} == {
        (30, 5, 6400)
    }


def test_the_parts_of_a_start_are_clocked(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in (
        (engine, "data_hashes"),
        (engine, "join"),
        (engine.models, "create"),
        (engine, "make_optimizer"),
        (loop, "score_chips"),
        (engine, "_publish"),
        (engine.state.Saver, "save"),
        (step.Stepper, "epoch"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # back as it was, after the test
    taken: startup.Parts = {}
    startup._watch(taken, 0.0)
    spec = a_run(setting.ours, batch_size=2, epochs=1)
    engine.train("a", spec, "code", data=setting.data, out=tmp_path / "out", work=tmp_path / "work", log=lambda _: None)
    assert {"imports", "data", "model", "optimizer", "first step", "step", "validation", "publish"} == set(taken)
    assert all(value > 0 for value in taken.values())


def test_prepared_is_ready_to_train(setting: Setting, tmp_path: Path) -> None:
    trainer = prepared(setting.data, tmp_path, a_run(setting.ours, batch_size=2), "memory")
    assert trainer.learner.model.training and trainer.stepper.feed.residency == "memory"
