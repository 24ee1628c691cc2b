"""The attention gate against its equation, its limits and odd sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.models._attention import AttentionGate


def gate_of(skip: int = 3, below: int = 5) -> AttentionGate:
    torch.manual_seed(0)
    return AttentionGate(skip, below).double().eval()


def convolved(image: np.ndarray, layer: nn.Conv2d) -> np.ndarray:
    """A 1×1 convolution of [N, C, H, W], written out."""
    assert layer.kernel_size == (1, 1)
    weight = layer.weight.detach().numpy()[:, :, 0, 0]
    result = np.einsum("oc,nchw->nohw", weight, image)
    return result if layer.bias is None else result + layer.bias.detach().numpy()[:, None, None]


def upsampled_twice(image: np.ndarray) -> np.ndarray:
    """Bilinear by 2 along the last two axes: 3/4 of the nearer pixel and 1/4 of the next, edges repeated."""
    for axis in (-2, -1):
        width = [(0, 0)] * image.ndim
        width[axis] = (1, 1)
        padded = np.moveaxis(np.pad(image, width, mode="edge"), axis, 0)
        middle = 0.75 * padded[1:-1]
        pairs = np.stack([middle + 0.25 * padded[:-2], middle + 0.25 * padded[2:]], axis=1)
        image = np.moveaxis(pairs.reshape(-1, *padded.shape[1:]), 0, axis)
    return image


def test_equation_with_a_gating_signal_of_half_the_size() -> None:
    gate = gate_of()
    norm = gate.signal[1]
    with torch.no_grad():
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    skip, below = np.random.default_rng(1).normal(size=(2, 2, 8, 8, 8))
    skip, below = skip[:, :3, :, :6], below[:, :5, :4, :3]

    signal = convolved(below, gate.signal[0])
    mean, variance = (v.numpy()[:, None, None] for v in (norm.running_mean, norm.running_var))
    signal = np.maximum((signal - mean) / np.sqrt(variance + norm.eps), 0)
    halved = skip.reshape(2, 3, 4, 2, 3, 2).mean((3, 5))
    hidden = np.maximum(convolved(halved, gate.from_skip) + convolved(signal, gate.from_signal), 0)
    expected = skip * upsampled_twice(1 / (1 + np.exp(-convolved(hidden, gate.score))))

    found = gate(torch.from_numpy(skip), torch.from_numpy(below)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("below_size", [(4, 4), (3, 5), (9, 7), (1, 1), (18, 14), (5, 2)])
def test_any_ratio_of_sizes_gives_one_map_in_0_to_1(below_size: tuple[int, int]) -> None:
    gate = gate_of()
    skip = torch.randn(2, 3, 9, 7, dtype=torch.float64) * 100
    below = torch.randn(2, 5, *below_size, dtype=torch.float64) * 100
    alpha = gate.coefficients(skip, below)
    assert alpha.shape == (2, 1, 9, 7) and alpha.min() >= 0 and alpha.max() <= 1 and alpha.std() > 0
    assert torch.equal(gate(skip, below), skip * alpha)


@pytest.mark.parametrize(("bias", "share"), [(-1e4, 0.0), (1e4, 1.0)])
def test_a_closed_gate_kills_the_skips_gradient_and_an_open_one_passes_it(bias: float, share: float) -> None:
    gate = gate_of()
    with torch.no_grad():
        gate.score.bias.fill_(bias)
    skip = torch.randn(1, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    below = torch.randn(1, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    gate(skip, below).sum().backward()
    assert torch.equal(skip.grad, torch.full_like(skip, share)) and not below.grad.any()


def test_the_level_below_decides_where_the_gate_opens() -> None:
    """A signal in the left half alone raises the coefficients there and not in the right half."""
    gate = AttentionGate(1, 1).eval()
    with torch.no_grad():
        for layer in (gate.signal[0], gate.from_signal, gate.score):
            layer.weight.fill_(1)
            layer.bias.zero_()
        gate.from_skip.weight.zero_()
    below = torch.zeros(1, 1, 4, 8)
    below[..., :4] = 5
    alpha = gate.coefficients(torch.rand(1, 1, 8, 16), below)
    assert alpha[..., :6].min() > 0.99 and torch.equal(alpha[..., 10:], torch.full((1, 1, 8, 6), 0.5))


def test_batch_norm_settings_reach_the_gating_signal() -> None:
    norms = [m for m in AttentionGate(2, 3, 0.2, 1e-2).modules() if isinstance(m, nn.BatchNorm2d)]
    assert [(norm.momentum, norm.eps) for norm in norms] == [(0.2, 1e-2)]
