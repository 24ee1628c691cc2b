"""The memory format that a network is trained in: fast, but where torch damages memory on the CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import models
from pipeline.train import engine
from pipeline.train.inference import Scaler, training_format
from tests.support.tiny import a_spec

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("narrow", "wide"), [((4, 8), (32, 64)), ((64, 16), (64, 128))])
def test_strided_1x1_convolutions_of_few_channels_train_contiguously(narrow: tuple, wide: tuple) -> None:
    for channels, expected in ((narrow, torch.contiguous_format), (wide, torch.channels_last)):
        network = nn.Sequential(nn.Conv2d(3, channels[0], 3), nn.Conv2d(*channels, 1, stride=2))
        assert training_format(network, CPU, "fp32") == expected
        assert training_format(network, GPU, "fp32") == torch.channels_last
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 8, 1))
    assert training_format(plain, CPU, "fp32") == torch.channels_last
    assert training_format(plain, CPU, "bf16") == torch.contiguous_format
    assert training_format(plain, GPU, "bf16") == torch.channels_last


def test_our_own_networks_train_in_channels_last() -> None:
    for name in ("unet", "resnet18_unet", "double_unet"):
        assert training_format(models.create(name, width=4), CPU, "fp32") == torch.channels_last, name


def test_such_a_network_survives_its_training() -> None:
    """In channels last this aborts, or ends in wrong numbers, with torch 2.14."""
    code = """
import torch
from torch import nn
from pipeline.train.inference import training_format
torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 1, stride=2), nn.BatchNorm2d(8))
form = training_format(network, torch.device("cpu"), "fp32")
network = network.to(memory_format=form)
images = torch.rand(8, 3, 64, 64).contiguous(memory_format=form)
for _ in range(20):
    network.zero_grad()
    network(images).square().mean().backward()
print("done", bool(torch.isfinite(network[1].weight.grad).all()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "done True"), done.stderr[-500:]


@pytest.mark.parametrize(("precision", "last"), [("fp32", True), ("bf16", False)])
def test_the_engine_trains_in_that_format(
    region: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, last: bool
) -> None:
    seen = []
    called = Scaler.__call__

    def spy(scaler: Scaler, images: np.ndarray) -> torch.Tensor:
        inputs = called(scaler, images)
        seen.append(inputs.is_contiguous(memory_format=torch.channels_last))
        return inputs

    monkeypatch.setattr(Scaler, "__call__", spy)
    spec = a_spec(epochs=1, precision=precision)
    engine.train("run", spec, "code", data=region, out=tmp_path / "out", work=tmp_path / "work", log=lambda _: None)
    assert seen and set(seen) == {last}
