"""How a device computes: bit-equal repetition, or the fastest kernels."""

from __future__ import annotations

import os

import torch

from pipeline.errors import RunError


def set_numerics(device: torch.device, deterministic: bool) -> None:
    """Choose torch's kernels for a run; call it before anything is on the device.

    The CPU always repeats bit by bit. A GPU does so where it is asked to: operations without such a kernel then raise
    an error; otherwise the fastest convolutions are found by trying. TF32 stays as torch has it: convolutions of
    float32 use it on a GPU, matrix products do not; it repeats bit by bit.

    Args:
        device: that computes.
        deterministic: of the run's settings.

    What is compiled learns of it where it is (`pipeline.train.compiling`): to tell torch.compile at once would import
    it, a second of every start.
    """
    gpu = device.type != "cpu"
    torch.set_deterministic_debug_mode("error" if deterministic or not gpu else "default")
    if gpu:
        torch.backends.cudnn.deterministic = deterministic
        torch.backends.cudnn.benchmark = not deterministic
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA's first product is computed


def failure(error: BaseException) -> RunError | None:
    """What to say of an operation that a GPU cannot repeat bit by bit; None for any other error."""
    if not isinstance(error, RuntimeError) or "does not have a deterministic implementation" not in str(error):
        return None
    return RunError(
        f"{str(error).split()[0]} cannot be repeated bit by bit on this device: take another model or loss, or set "
        "deterministic: false"
    )
