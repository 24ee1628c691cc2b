"""Nothing in an epoch waits for a GPU: no value of a tensor is looked at on the way.

The meta device stands for a GPU: it takes the same branches and has no values, so that looking at one is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import losses, models, variants
from pipeline.dataset.joined import data_hashes
from pipeline.errors import RunError
from pipeline.metrics._tally import added_ones, tally
from pipeline.metrics.confusion import confusion_counts_torch, confusion_tables, counts_of
from pipeline.metrics.histograms import ProbabilityHistograms
from pipeline.metrics.jaccard_coefficient import BatchMeanJaccard
from pipeline.train import numerics
from pipeline.train.engine import prepare
from pipeline.train.objective import Objective
from pipeline.train.optimizers import make_optimizer
from pipeline.train.step import parts_of
from tests.support.tiny import a_spec

META = torch.device("meta")
CLASSES, PX = 4, 16
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A device without values; autocast and pinned memory, which it does not know, do nothing."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**12, 10**12))
    return META


def test_looking_at_a_value_is_an_error(gpu: torch.device) -> None:
    """Guard of the guards."""
    values = torch.zeros(4, device=gpu)
    for look in (float, bool, int):
        with pytest.raises(RuntimeError, match="meta"):
            look(values[0])
    for wait in (
        torch.nonzero,
        lambda x: x[x > 0],
        torch.Tensor.cpu,
        torch.Tensor.numpy,
        lambda x: x.long().bincount(),
    ):
        with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
            wait(values)


def outputs_and_targets(name: str, device: torch.device) -> tuple[Any, dict[str, torch.Tensor]]:
    needs = losses.needs(name, **variants.declared("losses", name, "SMALL", {}))
    channels = {kind: 3 if kind == "colour" else CLASSES for kind in (*needs.outputs, *needs.targets)}
    logits = torch.zeros(2, CLASSES, PX, PX, device=device, requires_grad=True)
    outputs = {kind: torch.zeros(2, channels[kind], PX, PX, device=device) for kind in needs.outputs}
    targets = {kind: torch.zeros(2, channels[kind], PX, PX, device=device) for kind in needs.targets}
    mask = torch.zeros(2, PX, PX, dtype=torch.int64, device=device)
    return ({"mask": logits, **outputs} if outputs else logits), {"mask": mask, **targets}


@pytest.mark.parametrize("name", variants.names("losses"))
def test_no_loss_waits(name: str, gpu: torch.device) -> None:
    params = variants.declared("losses", name, "SMALL", {})
    weighted = {"class_weights": [1.0, 2.0, 3.0, 4.0]} if "class_weights" in variants.parameters("losses", name) else {}
    for more in ({}, weighted):
        objective = Objective({"name": name, "params": {**params, **more}}, 1, gpu)
        output, targets = outputs_and_targets(name, gpu)
        objective(output, targets).backward()


def test_class_weights_are_sent_to_a_device_once(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    make = torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda *args, **kwargs: sent.append(args) or make(*args, **kwargs))
    loss = losses.create("jaccard", class_weights=[0.125, 2.0, 3.0, 4.0])
    output, targets = outputs_and_targets("jaccard", gpu)
    for _ in range(3):
        loss(output, targets["mask"])
    assert len(sent) == 1


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam", "adamw", "sgd"])
def test_no_step_waits(
    optimizer: str, gpu: torch.device, region: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole step of the engine: chips gathered on the device, flips, loss, clipping, parts, noted errors."""
    spec = a_spec(optimizer=optimizer, clip_norm=1.0, micro_batch=4, sampler={"name": "hard_example", "params": {}})
    trainer = prepare(spec, data_hashes(region, spec["data"]), region, tmp_path, lambda _: None)
    stepper = trainer.stepper
    with gpu:
        model = models.create("unet", 3, 2, width=4, depth=2)
    stepper.world = type(stepper.world)(gpu)
    stepper.learner.model = stepper.network = model
    stepper.learner.optimizer = make_optimizer(model, stepper.settings, gpu)
    stepper.learner.errors = torch.zeros(48, device=gpu)
    stepper.watch_errors = True
    stepper.scaler = type(stepper.scaler).of([0.0] * 3, [1.0] * 3, gpu)
    stepper.feed.device = gpu
    steps = parts_of(np.arange(48), 8, 4)[:2]
    total = torch.zeros(len(steps), device=gpu)
    for number, loss in enumerate(stepper.epoch(0, steps)):
        total[number] = loss
    assert number == 1 and total.device == gpu and stepper.feed.residency == "device"


def test_no_score_waits(gpu: torch.device) -> None:
    target = torch.zeros(2, PX, PX, dtype=torch.int64, device=gpu)
    probabilities = torch.zeros(2, CLASSES, PX, PX, device=gpu)
    assert confusion_tables(target, probabilities.argmax(dim=1), CLASSES).device == gpu
    for score in (BatchMeanJaccard(CLASSES), ProbabilityHistograms(CLASSES)):
        score.update(probabilities, target)  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_counts_of_a_gpu_are_those_of_the_cpu(dtype: torch.dtype) -> None:
    values = torch.randint(0, 30, (1000,), generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(added_ones(values, 40), tally(values, 40)) and added_ones(values, 40).sum() == 1000
    assert torch.equal(added_ones(values[:0], 3), torch.zeros(3, dtype=torch.int64))


def test_classes_out_of_range_are_told_at_the_end() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 3, (2, 8, 8), generator=generator)
    predicted = torch.randint(0, 3, (2, 8, 8), generator=generator)
    truth[0, 0, :3] = 255
    tables = confusion_tables(truth, predicted, 3)
    np.testing.assert_array_equal(counts_of(tables), confusion_counts_torch(truth, predicted, 3).numpy())
    truth[1, 0, :5] = 7
    with pytest.raises(RunError, match=r"5 pixels .* beyond 0 to 2"):
        counts_of(torch.cat([tables, confusion_tables(truth, predicted, 3)]))


# --- how a device computes ---------------------------------------------------------------------------------------


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    torch.use_deterministic_algorithms(before[0])
    cudnn.deterministic, cudnn.benchmark = before[1:]


@pytest.mark.usefixtures("flags")
@pytest.mark.parametrize(
    ("device", "deterministic", "algorithms", "benchmark", "workspace"),
    [
        ("cpu", False, True, False, None),
        ("cpu", True, True, False, None),
        ("cuda", False, False, True, None),
        ("cuda", True, True, False, ":4096:8"),
    ],
)
def test_a_gpu_repeats_bit_by_bit_where_it_is_asked_to_and_the_cpu_always(
    device: str, deterministic: bool, algorithms: bool, benchmark: bool, workspace: str | None
) -> None:
    import os

    torch.backends.cudnn.benchmark = False
    numerics.set_numerics(torch.device(device), deterministic)
    assert torch.are_deterministic_algorithms_enabled() is algorithms
    assert torch.backends.cudnn.benchmark is benchmark
    assert torch.backends.cudnn.deterministic is (device == "cuda" and deterministic)
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == workspace


def test_what_a_gpu_cannot_repeat_is_one_line() -> None:
    text = "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set ...\nmore"
    found = numerics.failure(RuntimeError(text))
    assert isinstance(found, RunError)
    assert str(found).startswith("adaptive_avg_pool2d_backward_cuda cannot be repeated") and "\n" not in str(found)
    assert numerics.failure(RuntimeError("shapes differ")) is None and numerics.failure(ValueError(text)) is None


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rmsprop", {"foreach": True}),
        ("adam", {"fused": True}),
        ("adamw", {"fused": True}),
        ("sgd", {"fused": True}),
    ],
)
def test_optimisers_take_few_kernels_on_a_gpu(name: str, options: dict[str, bool]) -> None:
    settings = {"optimizer": name, "lr": 0.1, "weight_decay": 0.0, "momentum": 0.9}
    found = make_optimizer(torch.nn.Linear(2, 2), settings, torch.device("cuda"))
    assert {key: found.defaults[key] for key in options} == options
    plain = make_optimizer(torch.nn.Linear(2, 2), settings, torch.device("cpu"))
    assert not any(plain.defaults[key] for key in options)


@needs_gpu
@pytest.mark.slow
@pytest.mark.parametrize("residency", ["device", "memory"])
@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}, {"clip_norm": 1.0, "micro_batch": 4}])
def test_an_epoch_on_a_gpu_does_not_wait(region: Path, tmp_path: Path, residency: str, changes: dict[str, Any]) -> None:
    from pipeline.train.options import Options

    spec = a_spec(**changes)
    trainer = prepare(spec, {}, region, tmp_path, lambda _: None, Options(residency=residency))
    steps = parts_of(np.arange(48), 8, changes.get("micro_batch"))
    list(trainer.stepper.epoch(0, steps))  # allocates, tries kernels, uploads chips
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in trainer.stepper.epoch(1, steps):
            pass
    finally:
        torch.cuda.set_sync_debug_mode("default")
