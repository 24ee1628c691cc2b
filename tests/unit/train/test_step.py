"""A step: parts of a batch add up, gradients are clipped, weights averaged, chips flipped, errors noted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pipeline.augment._transform import Batch, Transform
from pipeline.defaults import FROZEN_TRAIN
from pipeline.errors import RunError
from pipeline.evaluate.network import evaluate
from pipeline.train import engine
from pipeline.train.average import MovingAverage
from pipeline.train.inference import Scaler
from pipeline.train.objective import Objective
from pipeline.train.state import Learner, Progress
from pipeline.train.step import Part, Stepper, flip, parts_of
from pipeline.train.world import World
from tests.support.tiny import a_spec

Array = np.ndarray[Any, np.dtype[Any]]
CPU = torch.device("cpu")
CHIPS, PX = 22, 6


class Chips:
    """A feed of chips in memory; `given` counts the batches that were asked for."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.image = rng.integers(0, 256, (CHIPS, 3, PX, PX)).astype(np.uint8)
        self.mask = (self.image[:, 0] > 128).astype(np.int64)
        self.given = 0

    def batch(self, at: Array) -> Batch:
        return {"image": torch.from_numpy(self.image[at]), "mask": torch.from_numpy(self.mask[at])}

    def batches(self, split: str, positions: Iterable[Array]) -> Iterator[Batch]:
        assert split == "train"
        for at in positions:
            self.given += 1
            yield self.batch(at)


def a_network(seed: int = 1) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(5, 2, 3, padding=1)
    )


def a_stepper(
    network: torch.nn.Module, chips: Chips, transforms: Iterable[Transform] = (), watch: bool = False, **train: Any
) -> Stepper:
    settings = FROZEN_TRAIN | {"batch_size": 8, **train}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9)
    average = None if settings["ema"] is None else MovingAverage(network, settings["ema"])
    learner = Learner(network, optimizer, Progress(), average)
    learner.errors = torch.full((CHIPS,), torch.nan)
    return Stepper(
        learner=learner,
        network=network,
        feed=chips,  # type: ignore[arg-type]
        scaler=Scaler.of([0.0] * 3, [255.0] * 3, CPU),
        objective=Objective({"name": "cross_entropy", "params": {}}, 1, CPU),
        transforms=list(transforms),
        settings=settings,
        seed=7,
        world=World(CPU),
        watch_errors=watch,
    )


def steps_of(stepper: Stepper, epochs: int = 3) -> list[float]:
    """Train; the loss of each step."""
    settings, losses = stepper.settings, []
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(CHIPS)
        steps = parts_of(order, settings["batch_size"], settings["micro_batch"])
        losses += [float(loss) for loss in stepper.epoch(epoch, steps)]
    return losses


def state_of(stepper: Stepper) -> list[Array]:
    return [value.numpy().copy() for value in stepper.learner.model.state_dict().values()]


# --- parts of a batch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro", [None, 1, 2, 3, 8, 100])
@pytest.mark.parametrize(("chips", "size"), [(22, 8), (24, 8), (5, 8), (8, 8), (1, 8), (7, 1)])
def test_whole_batches_in_their_order_the_incomplete_last_one_left_out(
    chips: int, size: int, micro: int | None
) -> None:
    order = np.random.default_rng(0).permutation(100)[:chips]
    steps = parts_of(order, size, micro)
    real = min(size, chips)
    assert len(steps) == chips // real
    for number, parts in enumerate(steps):
        at = np.concatenate([part.at for part in parts])
        assert np.array_equal(at, order[number * real : (number + 1) * real])
        assert [(part.step, part.number) for part in parts] == [(number, place) for place in range(len(parts))]
        assert max(len(part.at) for part in parts) == min(micro or real, real)
        assert all(len(part.at) for part in parts)


def test_no_chip_is_one_line() -> None:
    with pytest.raises(RunError, match=r"train.sampler has chosen no training chip"):
        parts_of(np.empty(0, np.int64), 8, None)


@pytest.mark.parametrize("micro", [1, 2, 3, 4])
def test_gradients_of_parts_add_up_to_the_batchs(micro: int) -> None:
    whole, parts = (a_stepper(a_network(), Chips(), micro_batch=one) for one in (None, micro))
    losses = steps_of(whole), steps_of(parts)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    assert len(losses[0]) == 6 and losses[0][-1] < 0.9 * losses[0][0]
    for one, other in zip(state_of(whole), state_of(parts), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)


@pytest.mark.parametrize("micro", [8, 100])
def test_a_part_that_is_the_batch_changes_no_bit(micro: int) -> None:
    whole, part = (a_stepper(a_network(), Chips(), micro_batch=one, flips=True) for one in (None, micro))
    assert steps_of(whole) == steps_of(part)
    assert all(np.array_equal(one, other) for one, other in zip(state_of(whole), state_of(part), strict=True))


def test_a_batch_larger_than_the_split_is_the_split_each_part_by_its_chips() -> None:
    """Ten parts of 8 and 2 chips weigh as many chips as they have."""
    chips = Chips()
    stepper = a_stepper(a_network(), chips, batch_size=64, micro_batch=8)
    order = np.arange(10)
    (steps,) = parts_of(order, 64, 8)
    (loss,) = stepper.epoch(0, [steps])
    batch = chips.batch(order)
    expected = torch.nn.functional.cross_entropy(a_network()(batch["image"].float() / 255), batch["mask"])
    assert float(loss) == pytest.approx(expected.item(), rel=1e-6)


def test_one_part_of_a_batch_is_on_the_device_at_a_time() -> None:
    chips, seen = Chips(), []
    network = a_network()
    network.register_forward_hook(lambda *_: seen.append(chips.given))
    steps_of(a_stepper(network, chips, micro_batch=2), epochs=1)
    assert seen == list(range(1, 9))


# --- clipping -----------------------------------------------------------------------------------------------------


def test_clipping_is_that_of_all_gradients_together() -> None:
    """Beside a loop of its own with the norm from NumPy; the limit lies where some steps are clipped and some not."""
    chips, limit = Chips(), 0.25
    stepper = a_stepper(a_network(), chips, clip_norm=limit, micro_batch=2)
    steps_of(stepper)
    network = a_network()
    weights = list(network.parameters())
    speed = [np.zeros(tuple(w.shape)) for w in weights]
    norms = []
    for epoch in range(3):
        order = np.random.default_rng(epoch).permutation(CHIPS)
        for step in range(2):
            batch = chips.batch(order[step * 8 : step * 8 + 8])
            network.zero_grad()
            torch.nn.functional.cross_entropy(network(batch["image"].float() / 255), batch["mask"]).backward()
            gradients = [w.grad.double().numpy() for w in weights if w.grad is not None]
            norms.append(np.sqrt(sum((g**2).sum() for g in gradients)))
            factor = min(1.0, limit / (norms[-1] + 1e-6))
            speed = [0.9 * v + factor * g for v, g in zip(speed, gradients, strict=True)]
            with torch.no_grad():
                for w, v in zip(weights, speed, strict=True):
                    w -= torch.from_numpy(0.5 * v).float()
    assert min(norms) < limit < max(norms)
    for ours, w in zip(state_of(stepper), weights, strict=True):
        np.testing.assert_allclose(ours, w.detach().numpy(), atol=2e-6)
    free = a_stepper(a_network(), chips)
    steps_of(free)
    assert not np.allclose(state_of(free)[0], state_of(stepper)[0], atol=1e-3)


# --- the moving average -------------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands for SIGKILL."""


def test_the_moving_average_is_validated_and_kept_and_survives_a_kill(
    region: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the recursion e = d e + (1 − d) w over the weights and running statistics of every step, from e = w."""
    decay, steps = 0.8, []
    make = engine.make_optimizer

    def watched(model: torch.nn.Module, *arguments: Any) -> torch.optim.Optimizer:
        optimizer = make(model, *arguments)

        def note(*_: Any) -> None:
            steps.append({name: value.double().numpy().copy() for name, value in model.state_dict().items()})

        optimizer.register_step_post_hook(note)
        return optimizer

    def run(folder: str, stop: str = "never", **train: Any) -> dict[str, Array]:
        def log(line: str) -> None:
            if line.startswith(stop):
                raise Killed

        place = tmp_path / folder
        spec = a_spec(epochs=2, **train)
        engine.train("tiny-run", spec, "code", data=region, out=place / "out", work=place / "work", log=log)
        return load_file(place / "out" / "checkpoints" / "last.safetensors")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "make_optimizer", watched)
        whole = run("whole", ema=decay)
    assert len(steps) == 12 and whole.keys() == steps[0].keys()
    for name, kept in whole.items():
        if name.endswith("num_batches_tracked"):
            continue
        average = steps[0][name]
        for step in steps[1:]:
            average = decay * average + (1 - decay) * step[name]
        np.testing.assert_allclose(kept, average, rtol=1e-5, atol=1e-6, err_msg=name)
    assert any(np.abs(whole[name] - steps[-1][name]).max() > 1e-2 for name in whole if "running" not in name)

    history = np.genfromtxt(tmp_path / "whole" / "out" / "history.csv", delimiter=",", names=True)
    scored = evaluate(tmp_path / "whole" / "out", region, tmp_path / "whole" / "work", lambda _: None)["checkpoints"]
    for entry in scored.values():
        assert entry["val"]["accuracy"] == pytest.approx(history["val_accuracy"][entry["epoch"] - 1], abs=1e-9)

    plain = run("plain")
    for name, value in plain.items():  # the average has no say in what is trained
        np.testing.assert_array_equal(value.astype(np.float64), steps[-1][name])

    with pytest.raises(Killed):
        run("killed", "epoch 1/2", ema=decay)
    resumed = run("killed", ema=decay)
    assert resumed.keys() == whole.keys() and all(np.array_equal(resumed[name], whole[name]) for name in whole)


# --- flips and what is random -------------------------------------------------------------------------------------


def test_flips_are_the_squares_symmetries_of_all_tensors_together() -> None:
    """The draws are NumPy's, and so are the turns."""
    chips, side = 800, 5
    number = torch.arange(chips * side * side).reshape(chips, side, side)
    batch = {"image": torch.stack([number, -number], 1).float(), "mask": number, "boundary": number[:, None].half()}
    before = {name: tensor.clone() for name, tensor in batch.items()}
    found = flip(batch, np.random.default_rng(3))
    assert all(torch.equal(batch[name], before[name]) and found[name].dtype == before[name].dtype for name in batch)
    rng = np.random.default_rng(3)
    turns, mirror = rng.integers(0, 4, chips), rng.integers(0, 2, chips)
    for chip in range(chips):
        for name, tensor in before.items():
            expected = np.rot90(tensor[chip].numpy(), turns[chip], (-2, -1))
            expected = expected[..., ::-1] if mirror[chip] else expected
            np.testing.assert_array_equal(found[name][chip].numpy(), expected)
    shares = np.bincount(turns * 2 + mirror, minlength=8) / chips
    np.testing.assert_allclose(shares, 1 / 8, atol=0.04)


class Draws(Transform):
    """Puts what torch draws into the image, and notes it."""

    def __call__(self, batch: Batch) -> Batch:
        assert batch["image"].dtype == torch.float32
        return batch | {"image": torch.rand(batch["image"].shape)}


def test_what_is_random_is_a_function_of_seed_epoch_step_and_part() -> None:
    chips = Chips()
    stepper = a_stepper(a_network(), chips, [Draws()], flips=True)
    batch = chips.batch(np.arange(4))
    before = {name: tensor.clone() for name, tensor in batch.items()}

    def drawn(seed: int, epoch: int, step: int, number: int) -> bytes:
        stepper.seed = seed
        found = stepper.augmented(epoch, Part(step, number, np.arange(4)), batch)
        return found["image"].numpy().tobytes() + found["mask"].numpy().tobytes()

    places = [(s, e, t, n) for s in (0, 1) for e in (0, 1) for t in (0, 1) for n in (0, 1, 2)]
    first = [drawn(*place) for place in places]
    assert first == [drawn(*place) for place in places] and len(set(first)) == len(places)
    assert all(torch.equal(batch[name], before[name]) for name in batch)


# --- errors for samplers ------------------------------------------------------------------------------------------


class Answers(torch.nn.Module):
    """Logits of the images' own values: class 1 where the first band is above 100."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, image: torch.Tensor) -> Any:
        score = image[:, :1] * 255 - 100.5 + 0 * self.weight
        return score if self.outputs == 1 else {"mask": torch.cat([0 * score, score], dim=1), "aux_1": score}


@pytest.mark.parametrize("outputs", [1, 2])
def test_errors_are_the_share_of_wrong_pixels_of_each_chip_shown(outputs: int) -> None:
    chips = Chips()
    chips.mask[3, :2], chips.mask[5] = 255, 255
    stepper = a_stepper(Answers(outputs), chips, watch=True, micro_batch=4)
    stepper.objective = lambda output, batch: (  # type: ignore[assignment]
        output["mask"] if isinstance(output, dict) else output
    ).mean()
    order = np.array([9, 3, 5, 0, 21, 7, 2, 14, 1, 4])
    list(stepper.epoch(0, parts_of(order, 8, 4)))
    errors = stepper.learner.errors.numpy()
    shown = order[:8]
    assert np.isnan(np.delete(errors, shown)).all()
    for chip in shown:
        counted = chips.mask[chip] != 255
        wrong = ((chips.image[chip, 0] > 100) != chips.mask[chip]) & counted
        assert errors[chip] == pytest.approx(wrong.sum() / max(1, counted.sum()), abs=1e-7)
    assert errors[5] == 0 and 0 < errors[0] < 1


def test_nothing_is_noted_for_samplers_that_do_not_ask() -> None:
    stepper = a_stepper(a_network(), Chips())
    steps_of(stepper, epochs=1)
    assert torch.isnan(stepper.learner.errors).all()


# --- batch norm of too little -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("micro", "setting"), [(None, "batch_size"), (1, "micro_batch")])
def test_one_value_per_channel_names_the_setting_to_raise(micro: int | None, setting: str) -> None:
    network = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 2, 1), torch.nn.Upsample(PX)
    )
    stepper = a_stepper(network, Chips(), batch_size=8 if micro else 1, micro_batch=micro)
    with pytest.raises(RunError, match=f"at {setting} 1 with these chips; take a larger {setting}") as caught:
        steps_of(stepper)
    assert "\n" not in str(caught.value)
