"""What a training imports, and optimisers that import no compiler: they step as torch's own do."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.defaults import FROZEN_TRAIN
from pipeline.train.compiling import compiled
from pipeline.train.numerics import set_numerics
from pipeline.train.optimizers import make_optimizer
from tests.support.tiny import a_spec

SLOW = ("torch._dynamo", "torch._inductor", "sympy", "kornia", "torchvision", "matplotlib", "pydantic")
PROGRAM = """
import json, sys
from pathlib import Path
from pipeline.train.engine import train
data, folder, spec = sys.argv[1:]
folder = Path(folder)
places = {"data": Path(data), "work": folder / "work", "log": lambda line: None}
train("tiny-run", json.loads(spec), "code", out=folder / "out", **places)
from pipeline.evaluate.network import evaluate
evaluate(folder / "out", places["data"], places["work"], places["log"])
print(json.dumps(list(sys.modules)))
"""


def test_a_training_and_its_evaluation_import_nothing_slow(region: Path, tmp_path: Path) -> None:
    spec = json.dumps(a_spec(epochs=1, clip_norm=1.0, ema=0.9, optimizer="rmsprop"))
    command = [sys.executable, "-c", PROGRAM, str(region), str(tmp_path), spec]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = set(json.loads(done.stdout))
    assert "torch" in imported and imported.isdisjoint(SLOW)


PLAIN: dict[str, Any] = {
    "rmsprop": lambda weights: torch.optim.RMSprop(weights, lr=0.01, alpha=0.9, eps=1e-7, weight_decay=0.1),
    "adam": lambda weights: torch.optim.Adam(weights, lr=0.01, weight_decay=0.1),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.01, weight_decay=0.1),
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.01, momentum=0.9, weight_decay=0.1),
}


@pytest.mark.parametrize("name", PLAIN)
def test_optimisers_step_as_torchs_own(name: str) -> None:
    torch.manual_seed(0)
    ours = torch.nn.Linear(5, 3)
    plain = copy.deepcopy(ours)
    settings = FROZEN_TRAIN | {"optimizer": name, "lr": 0.01, "weight_decay": 0.1}
    optimizers = make_optimizer(ours, settings, torch.device("cpu")), PLAIN[name](plain.parameters())
    assert isinstance(optimizers[0], type(optimizers[1]))
    for step in range(4):
        x = torch.randn(7, 5)
        for model, optimizer in zip((ours, plain), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
            if step == 1:
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    assert all(weight.requires_grad and weight.is_leaf for weight in ours.parameters())
    assert optimizers[0].state_dict().keys() == optimizers[1].state_dict().keys()


def test_a_compiled_network_knows_that_it_must_repeat() -> None:
    before = torch.get_deterministic_debug_mode()
    try:
        set_numerics(torch.device("cpu"), deterministic=False)
        compiled(torch.nn.Linear(2, 2), torch.device("cpu"), graphs=False)
        from torch._inductor import config

        assert torch.are_deterministic_algorithms_enabled() and config.deterministic  # type: ignore[attr-defined]
    finally:
        torch.use_deterministic_algorithms(before == 2)
