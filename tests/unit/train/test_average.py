"""The moving average of the weights: torch's to the bit, without a copy to the device."""

from __future__ import annotations

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline import models
from pipeline.train.average import MovingAverage


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return models.create("unet", 3, 2, width=2, depth=2)


def test_it_is_the_average_of_torch_to_the_bit() -> None:
    model = small().train()
    ours = MovingAverage(model, 0.9)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = model.state_dict()["head.weight"].clone()
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.rand(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        for average in (ours, theirs):
            average.update_parameters(model)
    found, expected = ours.state_dict(), theirs.state_dict()
    assert list(found) == list(expected) and int(found["n_averaged"]) == 4
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert not torch.equal(found["module.head.weight"], first)
    assert not any(parameter.requires_grad and parameter.grad is not None for parameter in ours.parameters())


def test_no_step_looks_at_a_value() -> None:
    with torch.device("meta"):
        model = small()
    average = MovingAverage(model, 0.9)
    average.n_averaged += 1  # after the first, which copies the weights
    send, sent = torch.Tensor.to, []

    def note(tensor: torch.Tensor, *to: object, **how: object) -> torch.Tensor:
        sent.append(tensor.device.type)
        return send(tensor, *to, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "to", note)
        average.update_parameters(model)
    assert "cpu" not in sent and int(average.n_averaged) == 2
