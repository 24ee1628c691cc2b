"""The boundary loss against its sum in float64 NumPy, with distances of SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from pipeline import losses
from pipeline.errors import ConfigError, RunError


def distances(target: np.ndarray, index: int) -> np.ndarray:
    """Signed distance to the other side, in px; 0 without both sides."""
    inside, outside = target == index, (target != index) & (target != 255)
    if not inside.any() or not outside.any():
        return np.zeros(target.shape)
    to_inside, to_outside = distance_transform_edt(~inside), distance_transform_edt(~outside)
    return np.where(inside, -to_outside, np.where(outside, to_inside, 0))


def reference(logits: np.ndarray, target: np.ndarray, clamp_px: float) -> float:
    c, e = logits.shape[1], np.exp(logits)
    s = e / (1 + e) if c == 1 else e / e.sum(axis=1, keepdims=True)
    total = 0.0
    for k in range(c):
        for image, labels in zip(s[:, k], target, strict=True):
            pull = np.clip(distances(labels, 1 if c == 1 else k), -clamp_px, clamp_px) / clamp_px
            total += (pull * image)[labels != 255].sum()
    return total / (target != 255).sum() / c


@pytest.fixture(params=[1, 2, 4])
def case(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Logits and target with ignored pixels; the second image is of one class."""
    classes = request.param
    rng = np.random.default_rng(classes)
    logits = rng.normal(0, 2, (2, classes, 9, 7))
    target = np.kron(rng.integers(0, max(2, classes), (2, 3, 7)), np.ones((1, 3, 1))).astype(np.int64)
    target[rng.random(target.shape) < 0.2] = 255
    target[1][target[1] != 255] = 1
    return logits, target


def dressed(target: np.ndarray, classes: int) -> dict[str, torch.Tensor]:
    derive = losses.derivations("boundary_distance")["signed_distance"]
    maps = np.stack([derive(np.zeros((3, *chip.shape), np.uint8), chip.astype(np.uint8), classes) for chip in target])
    return {"mask": torch.tensor(target), "signed_distance": torch.tensor(maps)}


@pytest.mark.parametrize("clamp_px", [128.0, 1.5])
def test_equals_the_sum(case: tuple[np.ndarray, np.ndarray], clamp_px: float) -> None:
    logits, target = case
    loss = losses.create("boundary_distance", clamp_px=clamp_px)
    expected = reference(logits, target, clamp_px)
    assert loss(torch.tensor(logits), torch.tensor(target)).item() == pytest.approx(expected, rel=1e-6)
    single = loss(torch.tensor(logits, dtype=torch.float32), torch.tensor(target)).item()
    assert single == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["boundary_distance", "hausdorff"])
def test_distances_of_the_data_give_what_those_of_the_step_give(case: tuple[np.ndarray, np.ndarray], name: str) -> None:
    logits, target = torch.tensor(case[0]), torch.tensor(case[1])
    loss, classes = losses.create(name), case[0].shape[1]
    given = dressed(case[1], classes)
    assert torch.equal(loss(logits, given), loss(logits, target))
    other = {**given, "signed_distance": given["signed_distance"] * 2}
    assert not torch.isclose(loss(logits, other), loss(logits, target))


@pytest.mark.parametrize("name", ["boundary_distance", "hausdorff"])
def test_a_class_ignored_besides_255_shapes_no_distance(case: tuple[np.ndarray, np.ndarray], name: str) -> None:
    """Distances of the data hold it as a class like any other; the loss then computes its own."""
    logits, target = torch.tensor(case[0]), torch.tensor(case[1])
    got = losses.create(name, ignore_index=0)(logits, dressed(case[1], case[0].shape[1]))
    assert torch.equal(got, losses.create(name)(logits, target.masked_fill(target == 0, 255)))


@pytest.mark.parametrize("name", ["boundary_distance", "hausdorff"])
def test_declares_and_checks_what_it_needs(name: str) -> None:
    assert losses.needs(name) == ((), ("signed_distance",)) and set(losses.derivations(name)) == {"signed_distance"}
    target = {"mask": torch.zeros(1, 4, 4, dtype=torch.int64), "signed_distance": torch.zeros(1, 2, 4, 4)}
    with pytest.raises(RunError, match=f"loss {name}: signed_distance"):
        losses.create(name)(torch.zeros(1, 3, 4, 4), target)


def test_a_pixel_farther_out_costs_more() -> None:
    target = torch.zeros(1, 1, 9, dtype=torch.int64)
    target[0, 0, 0] = 1
    loss, costs = losses.create("boundary_distance"), []
    for column in range(1, 9):
        logits = torch.full((1, 1, 1, 9), -800.0)
        logits[..., column] = 800.0
        costs.append(loss(logits, target).item())
    assert costs == pytest.approx([column / 128 / 9 for column in range(1, 9)])


def test_least_at_the_truth() -> None:
    """The sum over the plane is least where s is the indicator of the true region."""
    rng = np.random.default_rng(3)
    target = torch.tensor(rng.integers(0, 2, (1, 6, 6)))
    loss = losses.create("boundary_distance")
    truth = (target * 2.0 - 1).unsqueeze(1) * 800
    best = loss(truth, target).item()
    for seed in range(20):
        other = torch.randn(truth.shape, generator=torch.Generator().manual_seed(seed)) * 5
        assert best < loss(other, target).item()


@pytest.mark.parametrize("clamp_px", [0, -3.0])
def test_impossible_clamp(clamp_px: float) -> None:
    with pytest.raises(ConfigError, match="clamp_px"):
        losses.create("boundary_distance", clamp_px=clamp_px)
