"""torch.compile in the engine: the same training, plain checkpoints, a cache that a second process uses, clear ends."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pipeline.errors import RunError
from pipeline.train import compiling
from pipeline.train.compiling import compiled, failure, share_cache
from tests.support.tiny import a_spec
from tests.unit.train.test_engine import SCRIPT

CPU, GPU = torch.device("cpu"), torch.device("cuda")
needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")),
    reason="torch.compile makes C++ for the CPU: no g++ or clang++",
)


def test_the_cache_lies_where_it_is_told_unless_the_user_chose_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(compiling.CACHE, raising=False)
    share_cache(tmp_path / "cache" / "compile")
    assert os.environ[compiling.CACHE] == str(tmp_path / "cache" / "compile")
    share_cache(tmp_path / "elsewhere")
    assert os.environ[compiling.CACHE] == str(tmp_path / "cache" / "compile")
    from torch._inductor.runtime.cache_dir_utils import cache_dir, triton_cache_dir

    assert cache_dir() == os.environ[compiling.CACHE]
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    assert triton_cache_dir(0).startswith(cache_dir())


def test_torch_keeps_whole_graphs_in_the_cache_by_default() -> None:
    from torch._functorch import config as graphs
    from torch._inductor import config as kernels

    assert kernels.fx_graph_cache and graphs.enable_autograd_cache


@pytest.mark.parametrize(("device", "word"), [(CPU, r"C\+\+ compiler \(g\+\+ or clang\+\+\)"), (GPU, "C compiler")])
def test_a_missing_compiler_is_one_line(device: torch.device, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RunError, match=f"compile: true needs a {word}.*or set compile: false"):
        compiled(torch.nn.Identity(), device, graphs=True)


def test_a_compiler_that_the_environment_names_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "my-compiler" else None)
    monkeypatch.setenv("CXX", "my-compiler")
    assert isinstance(compiled(torch.nn.Identity(), CPU, graphs=True), torch.nn.Module)


@pytest.mark.parametrize(
    ("device", "graphs", "expected"),
    [
        (CPU, True, {"dynamic": False}),
        (GPU, False, {"dynamic": False}),
        (GPU, True, {"dynamic": False, "mode": "reduce-overhead"}),
    ],
)
def test_a_gpu_runs_a_step_as_one_graph_where_gradients_are_not_summed(
    device: torch.device, graphs: bool, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch, "compile", lambda network, **options: asked.update(options) or network)
    monkeypatch.setattr(compiling, "_check_compiler", lambda gpu: None)
    compiled(torch.nn.Identity(), device, graphs=graphs)
    assert asked == expected


def test_an_error_of_compiling_is_one_line_and_others_are_left_alone() -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise KeyError("first line\nsecond line")

    with pytest.raises(Exception) as caught:
        torch.compile(torch.nn.Linear(2, 2), backend=broken)(torch.zeros(1, 2))
    found = failure(caught.value)
    assert isinstance(found, RunError) and "\n" not in str(found)
    assert str(found).startswith("torch.compile failed (") and str(found).endswith("or set compile: false")
    assert failure(RuntimeError("shapes differ")) is None and failure(RunError("x")) is None


# --- whole trainings, in processes of their own ------------------------------------------------------------------


def train(region: Path, folder: Path, spec: dict[str, Any], cache: Path) -> str:
    """Train by the real script; what it said."""
    command = [sys.executable, str(SCRIPT), "--run", "x", "--spec", json.dumps(spec), "--data", str(region)]
    command += ["--out", str(folder / "out"), "--work", str(folder / "work")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    environment["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stderr


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "out" / "checkpoints" / "last.safetensors")


def history(folder: Path) -> list[dict[str, str]]:
    with open(folder / "out" / "history.csv") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.slow
@needs_compiler
def test_a_compiled_training_is_the_plain_one_and_a_second_process_starts_warm(region: Path, tmp_path: Path) -> None:
    spec = a_spec(epochs=2) | {"model": {"name": "unet", "params": {"width": 4, "depth": 2}}}
    train(region, tmp_path / "plain", spec, tmp_path / "cache")
    spec["train"]["compile"] = True
    seconds = []
    for name in ("cold", "warm"):
        train(region, tmp_path / name, spec, tmp_path / "cache")
        first, second = history(tmp_path / name)
        seconds.append(float(first["seconds"]) - float(second["seconds"]))
    print(f"compiling: {seconds[0]:.1f} s with a cold cache, {seconds[1]:.1f} s with a warm one")
    for given, expected in zip(history(tmp_path / "cold"), history(tmp_path / "plain"), strict=True):
        assert float(given["train_loss"]) == pytest.approx(float(expected["train_loss"]), rel=0.02)
        assert float(given["val_loss"]) == pytest.approx(float(expected["val_loss"]), rel=0.1)
    plain, cold, warm = (weights(tmp_path / name) for name in ("plain", "cold", "warm"))
    assert plain.keys() == cold.keys()  # no names of torch.compile's own
    for key, tensor in cold.items():
        np.testing.assert_array_equal(warm[key], tensor, err_msg=key)
    assert seconds[1] < seconds[0] / 2
