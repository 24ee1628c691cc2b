"""What ResUNet-a is built of, against plain arithmetic; what a pixel sees."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline import models
from pipeline.models._resunet_a_parts import Down, PooledMiddle, PyramidPooling, ResBlockA, UpCombine


def identity_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=0.0).eval()  # running mean 0, variance 1


def seen(module: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor, row: int, column: int) -> np.ndarray:
    """[H, W] bool: pixels of the image whose values the output's pixel (row, column) depends on."""
    image = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(image)[0, :, row, column].sum(), image)
    return (gradient[0].abs().sum(0) > 0).numpy()


def test_a_block_is_its_input_and_the_sum_of_its_branches() -> None:
    torch.manual_seed(1)
    block, x = ResBlockA(3, (1, 3), nn.BatchNorm2d).train(), torch.randn(2, 3, 9, 11)

    def normal(x: torch.Tensor) -> torch.Tensor:
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        return ((x - mean) / (variance + 1e-5).sqrt()).relu()

    expected = x.clone()
    for branch, d in zip(block.branches, (1, 3), strict=True):
        inner = functional.conv2d(normal(x), branch.conv1.weight, None, padding=d, dilation=d)
        expected += functional.conv2d(normal(inner), branch.conv2.weight, branch.conv2.bias, padding=d, dilation=d)
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-4)


def test_a_block_sees_exactly_what_its_dilations_reach() -> None:
    block, rates = ResBlockA(4, (1, 3, 15, 31), identity_norm), (1, 3, 15, 31)
    for parameter in block.parameters():
        nn.init.constant_(parameter, 0.1)  # positive everywhere: no ReLU hides a pixel
    offsets = {
        (y * d, x * d) for d in rates for y, x in itertools.product(range(-2, 3), repeat=2)
    }  # two 3×3 convolutions of a branch
    field = seen(block, torch.rand(1, 4, 131, 131), 65, 65)
    assert {(int(y) - 65, int(x) - 65) for y, x in np.argwhere(field)} == offsets


def test_atrous_branches_widen_the_field_of_the_whole_network() -> None:
    """Without them a pixel sees 188 px to each side: 2 · (1 + 2 + … + 32) down, 2 · (16 + … + 1) up."""

    def network(atrous: bool) -> nn.Module:
        torch.manual_seed(0)
        return models.create("resunet_a", width=4, psp="none", atrous=atrous).eval()

    image = torch.rand(1, 3, 32, 1024)
    plain, atrous = (
        np.flatnonzero(seen(network(atrous), image, 16, 512).any(axis=0)) - 512 for atrous in (False, True)
    )
    assert plain.min() >= -188 - 32 and plain.max() <= 188 + 32  # within its cell of the coarsest map
    assert atrous.min() < -400 and atrous.max() > 400


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_down_is_a_convolution_of_stride_two(kernel: int) -> None:
    down, x = Down(4, 8, kernel), torch.rand(2, 4, 6, 10)
    assert down.conv.weight.shape == (8, 4, kernel, kernel) and down.conv.bias is None
    expected = functional.conv2d(x, down.conv.weight, stride=2, padding=kernel // 2)
    torch.testing.assert_close(down(x), expected)


def test_pyramid_pooling_against_loops() -> None:
    torch.manual_seed(2)
    pooling, x = PyramidPooling(3, 10, 4, identity_norm), torch.randn(2, 3, 16, 24)
    with torch.no_grad():
        stacked = [x.double().numpy()]
        for scale, reduce in enumerate(pooling.reduce):
            n = 2**scale
            wide = np.empty((2, 2, 16, 24))
            for row, column in itertools.product(range(n), repeat=2):
                rows, columns = (slice(i * s // n, (i + 1) * s // n) for i, s in ((row, 16), (column, 24)))
                most = stacked[0][:, :, rows, columns].max(axis=(2, 3))
                wide[:, :, rows, columns] = (most @ reduce.weight[:, :, 0, 0].double().numpy().T)[:, :, None, None]
            stacked.append(wide)
        weights = pooling.merge[0].weight[:, :, 0, 0].double().numpy()
        expected = np.einsum("oc,nchw->nohw", weights, np.concatenate(stacked, axis=1))
        assert np.abs(pooling(x).numpy() - expected).max() < 1e-5


def test_pyramid_pooling_sees_whole_partitions() -> None:
    """The coarsest maximum is seen from everywhere, a maximum of scale 1 from its quadrant alone."""
    pooling = PyramidPooling(1, 4, 4, identity_norm)
    for parameter in pooling.parameters():
        nn.init.ones_(parameter)
    image = torch.zeros(1, 1, 16, 16)
    base = pooling(image)
    image[0, 0, 2, 3] = 1.0
    change = (pooling(image) - base)[0, 0]
    expected = torch.zeros(16, 16)
    expected[2, 3] = 1  # the input itself
    for rows, columns in (((0, 16), (0, 16)), ((0, 8), (0, 8)), ((0, 4), (0, 4)), ((2, 4), (2, 4))):
        expected[slice(*rows), slice(*columns)] += 1
    torch.testing.assert_close(change, expected)


def test_pyramid_pooling_norms_the_widened_maps() -> None:
    """One chip trains, and running variances are those of all pixels, as where a library widens first."""
    torch.manual_seed(3)
    pooling, x = PyramidPooling(2, 4, 4, lambda c: nn.BatchNorm2d(c, momentum=1.0)), torch.randn(2, 2, 8, 8)
    pooling.train()(x)
    most = functional.conv2d(x.amax((2, 3), keepdim=True), pooling.reduce[0].weight).expand(-1, -1, 8, 8)
    torch.testing.assert_close(pooling.norms[0].running_var, most.var((0, 2, 3)))
    assert torch.isfinite(pooling(x[:1])).all()


@pytest.mark.parametrize("training", [True, False])
def test_a_step_up_equals_widening_first(training: bool) -> None:
    torch.manual_seed(4)
    step, x, skip = UpCombine(8, 4, nn.BatchNorm2d).train(training), torch.randn(2, 8, 3, 5), torch.randn(2, 4, 6, 10)
    for norm in (step.up[1], step.merge[1]):
        nn.init.uniform_(norm.weight), nn.init.normal_(norm.bias)
    wide = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    expected = step.merge(torch.cat([step.up(wide).relu(), skip], dim=1))
    torch.testing.assert_close(step(x, skip), expected, atol=1e-5, rtol=1e-4)


def test_the_middle_of_d7v1_reads_its_maxima_and_itself() -> None:
    torch.manual_seed(5)
    middle, x = PooledMiddle(3), torch.randn(1, 3, 4, 6)
    most = torch.stack([x[:, :, i::2, j::2] for i, j in itertools.product(range(2), repeat=2)]).amax(0)
    wide = most.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(middle(x), middle.merge(torch.cat([wide, x], dim=1)))
