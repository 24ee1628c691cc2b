"""What the contract of losses feeds them: logits and targets, as dicts for a loss that declares what it needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
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
    """`logits` and `target` as training gives them to a loss: dicts where it declares OUTPUTS and where TARGETS.

    Further outputs repeat the mask's logits (colour: three of them); the extra targets of such a loss are the mask's
    one-hot form, so that right logits are right for all. Those of a loss of the mask alone are what its DERIVE makes.
    """
    outputs = variants.declared("losses", name, "OUTPUTS", ())
    wanted = variants.declared("losses", name, "TARGETS", ())
    heads = {key: _fit(logits, key) for key in outputs if key != "mask"}
    if outputs:
        targets = {key: _fit(_onehot(target, logits), key) for key in wanted}
    else:
        targets = _derived(name, logits, target) if wanted else {}
    return {"mask": logits, **heads} if outputs else logits, {"mask": target, **targets} if wanted else target


def _fit(tensor: torch.Tensor, key: str) -> torch.Tensor:
    return tensor.repeat(1, 3, 1, 1)[:, :3] if key == "colour" else tensor


def _onehot(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    channels = logits.shape[1]
    known = target.masked_fill(target == 255, 0)
    if channels == 1:
        return known.unsqueeze(1).to(logits.dtype)
    return torch.nn.functional.one_hot(known.clamp_max(channels - 1), channels).movedim(-1, 1).to(logits.dtype)


def _derived(name: str, logits: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    masks = target.numpy().astype(np.uint8)
    image = np.zeros((3, *masks.shape[1:]), np.uint8)
    return {
        key: torch.from_numpy(np.stack([function(image, mask, logits.shape[1]) for mask in masks])).float()
        for key, function in losses.derivations(name).items()
    }
