"""The multi-task loss against the paper's equations in float64 NumPy, and what a foreign network is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline import losses
from pipeline.errors import ConfigError, RunError

TASKS = ("mask", "boundary", "distance", "colour")


def tanimoto(p: np.ndarray, truth: np.ndarray, valid: np.ndarray, s: float) -> float:
    """1 − (T(p, l) + T(1 − p, 1 − l)) / 2 with w = V⁻²; [N, C, P] with valid [N, P]."""

    def coefficient(p: np.ndarray, truth: np.ndarray, sample: int) -> float:
        volumes = [np.mean([truth[n, c][valid[n]].sum() for n in range(len(p))]) for c in range(p.shape[1])]
        weights = [1 / v**2 if v > 0 else None for v in volumes]
        largest = max((w for w in weights if w is not None), default=1.0)
        above = below = s
        for c, weight in enumerate(weights):
            w = largest if weight is None else weight
            a, b = p[sample, c][valid[sample]], truth[sample, c][valid[sample]]
            above += w * np.dot(a, b)
            below += w * (np.dot(a, a) + np.dot(b, b) - np.dot(a, b))
        return above / below

    values = [1 - (coefficient(p, truth, n) + coefficient(1 - p, 1 - truth, n)) / 2 for n in range(len(p))]
    return float(np.mean(values))


def case(classes: int, seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    rng = np.random.default_rng(seed)
    size = {"mask": classes, "boundary": classes, "distance": classes, "colour": 3}
    outputs = {task: torch.tensor(rng.normal(0, 2, (2, size[task], 5, 4))) for task in TASKS}
    target: dict[str, torch.Tensor] = {"mask": torch.tensor(rng.integers(0, max(2, classes), (2, 5, 4)))}
    target["mask"][0, :2] = 255
    target["boundary"] = torch.tensor(rng.integers(0, 2, (2, classes, 5, 4)).astype(float))
    target["distance"] = torch.tensor(rng.random((2, classes, 5, 4)))
    target["colour"] = torch.tensor(rng.random((2, 3, 5, 4)))
    return outputs, target


def reference(outputs: dict[str, Any], target: dict[str, Any], s: float = 1e-5) -> dict[str, float]:
    flat = {task: tensor.numpy().reshape(*tensor.shape[:2], -1) for task, tensor in outputs.items()}
    mask = target["mask"].numpy().reshape(len(target["mask"]), -1)
    classes = flat["mask"].shape[1]
    truth = {task: target[task].numpy().reshape(flat[task].shape) for task in TASKS[1:]}
    indices = [1] if classes == 1 else range(classes)
    truth["mask"] = np.stack([(mask == index).astype(float) for index in indices], axis=1)
    values = {}
    for task in TASKS:
        if task in ("mask", "distance") and classes > 1:
            p = np.exp(flat[task]) / np.exp(flat[task]).sum(axis=1, keepdims=True)
        else:
            p = 1 / (1 + np.exp(-flat[task]))
        values[task] = tanimoto(p, truth[task], mask != 255, s)
    return values


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_is_the_mean_of_four_tanimotos_with_complement(classes: int) -> None:
    outputs, target = case(classes)
    expected = reference(outputs, target)
    assert len({round(value, 6) for value in expected.values()}) == 4
    assert losses.create("multi_task")(outputs, target).item() == pytest.approx(
        np.mean(list(expected.values())), abs=1e-6
    )
    half = {task: tensor.half() for task, tensor in outputs.items()}
    single = {task: tensor.float() if task != "mask" else tensor for task, tensor in target.items()}
    assert losses.create("multi_task")(half, single).item() == pytest.approx(np.mean(list(expected.values())), abs=2e-3)


@pytest.mark.parametrize("task", TASKS)
def test_task_weights_pick_a_task(task: str) -> None:
    outputs, target = case(3, seed=5)
    shares = [3.0 * (name == task) for name in TASKS]
    value = losses.create("multi_task", task_weights=shares)(outputs, target).item()
    assert value == pytest.approx(reference(outputs, target)[task], abs=1e-6)


def test_ignored_pixels_count_in_no_task() -> None:
    outputs, target = case(3)
    loss = losses.create("multi_task")
    before = loss(outputs, target)
    for tensor in (*outputs.values(), *(target[task] for task in TASKS[1:])):
        tensor[0, :, :2] = 1 - tensor[0, :, :2]
    assert torch.equal(loss(outputs, target), before)
    target["mask"][:] = 255
    logits = [tensor.requires_grad_() for tensor in outputs.values()]
    value = loss(outputs, target)
    value.backward()
    assert value.item() == 0 and not any(tensor.grad.any() for tensor in logits)


def test_every_head_gets_a_gradient() -> None:
    outputs, target = case(4)
    for tensor in outputs.values():
        tensor.requires_grad_()
    losses.create("multi_task")(outputs, target).backward()
    assert all(tensor.grad.abs().max() > 1e-6 for tensor in outputs.values())


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"smooth": 0.0}, "smooth 0.0 is not above 0"),
        ({"task_weights": [1.0, 1.0]}, "task_weights must be 4 finite numbers"),
        ({"task_weights": [0, 0, 0, 0]}, "task_weights must be 4 finite numbers"),
        ({"task_weights": [1, 1, 1, -1]}, "task_weights must be 4 finite numbers"),
    ],
)
def test_impossible_parameters(params: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        losses.create("multi_task", **params)


def test_a_network_without_the_heads_is_told_which_has_them() -> None:
    outputs, target = case(3)
    for given in (outputs["mask"], {"mask": outputs["mask"]}):
        with pytest.raises(
            RunError, match=r"gives no boundary and no distance and no colour logits; .*head: cmtsk"
        ) as e:
            losses.create("multi_task")(given, target)
        assert "\n" not in str(e.value)
    with pytest.raises(RunError, match="the target has no mask and no boundary"):
        losses.create("multi_task")(outputs, target["mask"])
    outputs["colour"] = outputs["colour"][:, :2]
    with pytest.raises(RunError, match=r"logits of colour are \[2, 2, 5, 4\], not \[2, 3, 5, 4\]"):
        losses.create("multi_task")(outputs, target)
