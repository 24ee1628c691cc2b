"""What the contract of losses feeds them: logits and targets, as dicts for a loss that declares what it needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pipeline import losses, variants

Tensors = torch.Tensor | dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def make(name: str, **params: Any) -> torch.nn.Module:
    """The loss with the small parameters that its file declares for this test."""
    return losses.create(name, **{**variants.declared("losses", name, "SMALL", {}), **params})


def dressed(name: str, logits: torch.Tensor, target: torch.Tensor) -> tuple[Tensors, Tensors]:
    """`logits` and `target` as the loss takes them: with the outputs and extra targets that it declares besides.

    Further outputs repeat the mask's logits (colour: three of them), further targets are its one-hot form.
    """
    outputs = variants.declared("losses", name, "OUTPUTS", ())
    if not outputs:
        return logits, target
    channels = logits.shape[1]
    known = target.masked_fill(target == 255, 0)
    if channels == 1:
        onehot = known.unsqueeze(1).to(logits.dtype)
    else:
        onehot = torch.nn.functional.one_hot(known.clamp_max(channels - 1), channels).movedim(-1, 1).to(logits.dtype)

    def fit(tensor: torch.Tensor, key: str) -> torch.Tensor:
        return tensor.repeat(1, 3, 1, 1)[:, :3] if key == "colour" else tensor

    heads = {key: fit(logits, key) for key in outputs if key != "mask"}
    targets = {key: fit(onehot, key) for key in variants.declared("losses", name, "TARGETS", ())}
    return {"mask": logits, **heads}, {"mask": target, **targets}
