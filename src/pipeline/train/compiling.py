"""torch.compile for the network of a run, with one cache for all runs of a project."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any, cast

import torch

from pipeline.errors import RunError

CACHE = "TORCHINDUCTOR_CACHE_DIR"
WAY_OUT = "or set compile: false"


def share_cache(folder: Path) -> None:
    """Keep what is compiled in `folder`, unless the user's environment names another; call it before compiling.

    It holds kernels and whole graphs with their gradients (FX graphs and AOT autograd, both kept by default), those of
    Triton too, under a hash of the code, its inputs and the versions: several runs may write at once.
    """
    os.environ.setdefault(CACHE, str(folder.resolve()))


def compiled(network: torch.nn.Module, device: torch.device, graphs: bool) -> torch.nn.Module:
    """The network as training calls it, compiled at its first calls; the weights are those of `network` itself.

    Shapes are fixed: an incomplete part of a batch, and each set of weights that learn, are compiled once more.
    Validation calls `network` itself: its last batch is smaller, and its numbers are those of the evaluation later.

    Args:
        network: on the device.
        device: that computes.
        graphs: whether a step runs as a CUDA graph, launched as a whole. Gradients then lie in the graph's memory,
            which the next pass overwrites: they must not be summed over several.

    Raises:
        RunError: when there is no compiler.
    """
    gpu = device.type != "cpu"
    _check_compiler(gpu)
    torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())  # torch.compile's own settings too
    options: dict[str, Any] = {"mode": "reduce-overhead"} if gpu and graphs else {}
    return cast(torch.nn.Module, torch.compile(network, dynamic=False, **options))


def _check_compiler(gpu: bool) -> None:
    known = (os.environ.get("CC"), "gcc", "clang", "cc") if gpu else (os.environ.get("CXX"), "g++", "clang++")
    if not any(shutil.which(name) for name in known if name):
        language = "C" if gpu else "C++"
        raise RunError(f"compile: true needs a {language} compiler ({' or '.join(known[1:3])}): install one {WAY_OUT}")
    if gpu and importlib.util.find_spec("triton") is None:
        raise RunError(f"compile: true needs the package triton on a GPU: install it {WAY_OUT}")


def failure(error: BaseException) -> RunError | None:
    """What to say of an error of torch.compile; None for any other."""
    if "torch._dynamo" not in sys.modules:
        return None
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    if not isinstance(error, TorchDynamoException | CppCompileError | InvalidCxxCompiler):
        return None
    lines = str(error).splitlines()
    return RunError(f"torch.compile failed ({lines[0] if lines else type(error).__name__}): mend it {WAY_OUT}")
