"""The blocks of the encoder-decoder networks against their equations, and what each of them sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import RunError
from pipeline.models._blocks import (
    AtrousPyramid,
    Norm,
    PyramidPooling,
    Residual,
    SqueezeExcite,
    check_batch,
    double_conv,
    resize,
    upsample,
)

Array = np.ndarray[Any, Any]
NORM = Norm(0.1, 1e-5)


def wide_open(module: nn.Module) -> nn.Module:
    """In eval mode, every weight above 0 and every running mean 0: no path cancels another, no ReLU closes."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.abs_().add_(0.01)
    return module.double().eval()


def seen_by(module: nn.Module, channels: int, size: tuple[int, int], pixel: tuple[int, int]) -> Array:
    """Which pixels [H, W] of the input change one pixel of the output, by gradient."""
    image = torch.rand(1, channels, *size, dtype=torch.float64, requires_grad=True)
    module(image)[0, :, pixel[0], pixel[1]].sum().backward()
    assert image.grad is not None
    return (image.grad.abs().sum((0, 1)) > 0).numpy()


def convolved(x: Array, layer: nn.Conv2d) -> Array:
    """A 1×1 convolution of [N, C, H, W] with a bias, written out."""
    assert layer.kernel_size == (1, 1) and layer.bias is not None
    weight, bias = layer.weight.detach().numpy()[:, :, 0, 0], layer.bias.detach().numpy()
    return np.einsum("oc,nchw->nohw", weight, x) + bias[:, None, None]


def stretched(x: Array, size: tuple[int, int]) -> Array:
    """Bilinear interpolation of [N, C, h, w] between pixel centres, the edge's value beyond the outermost ones."""
    for axis, wanted in zip((2, 3), size, strict=True):
        have = x.shape[axis]
        place = np.clip((np.arange(wanted) + 0.5) * have / wanted - 0.5, 0, have - 1)
        low = np.floor(place).astype(int)
        part = (place - low).reshape([-1 if a == axis else 1 for a in range(4)])
        x = np.take(x, low, axis) * (1 - part) + np.take(x, np.minimum(low + 1, have - 1), axis) * part
    return x


class TestSqueezeExcite:
    def test_equation(self) -> None:
        block = SqueezeExcite(6, 2).double()
        x = np.random.default_rng(0).normal(size=(2, 6, 3, 5))
        mean = x.mean((2, 3), keepdims=True)
        weight = 1 / (1 + np.exp(-convolved(np.maximum(convolved(mean, block.squeeze), 0), block.excite)))
        found = block(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(found, x * weight, rtol=0, atol=1e-12)
        assert weight.std() > 0.01

    @pytest.mark.parametrize(("channels", "ratio", "few"), [(64, 16, 4), (24, 16, 1), (4, 16, 1), (8, 1, 8)])
    def test_reduction_rounds_down_to_at_least_one(self, channels: int, ratio: int, few: int) -> None:
        assert SqueezeExcite(channels, ratio).squeeze.weight.shape == (few, channels, 1, 1)


class TestDoubleConv:
    def test_dilation_reaches_twice(self) -> None:
        plain, dilated = (wide_open(double_conv(2, 3, NORM, dilation=d)) for d in (1, 3))
        rows = np.flatnonzero(seen_by(plain, 2, (21, 21), (10, 10)).any(1))
        assert rows.tolist() == list(range(8, 13))
        rows = np.flatnonzero(seen_by(dilated, 2, (21, 21), (10, 10)).any(1))
        assert rows.tolist() == [4, 7, 10, 13, 16]

    def silenced(self, before: int, after: int, se_ratio: int = 0) -> Residual:
        """A residual block whose branch gives 0, by its last batch norm, and whose shortcut is at work."""
        (block,) = double_conv(before, after, NORM, residual=True, se_ratio=se_ratio).double().eval()
        assert isinstance(block, Residual)
        norm = [m for m in block.branch.modules() if isinstance(m, nn.BatchNorm2d)][-1]
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)
        return block

    def test_residual_adds_the_identity(self) -> None:
        x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
        assert torch.equal(self.silenced(4, 4)(x), x.clamp_min(0))

    def test_residual_adds_a_1x1_where_channels_change(self) -> None:
        block, x = self.silenced(3, 4), torch.randn(2, 3, 5, 5, dtype=torch.float64)
        layer, norm = block.shortcut
        expected = np.maximum(convolved(x.numpy(), layer) / np.sqrt(1 + norm.eps), 0)
        np.testing.assert_allclose(block(x).detach().numpy(), expected, atol=1e-12)
        assert (norm.running_mean == 0).all() and expected.any()

    def test_the_branch_is_added_before_the_last_relu(self) -> None:
        """A branch of −1 everywhere lowers the sum: no ReLU ends the branch."""
        block = self.silenced(4, 4)
        norm = [m for m in block.branch.modules() if isinstance(m, nn.BatchNorm2d)][-1]
        nn.init.constant_(norm.bias, -1.0)
        x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
        torch.testing.assert_close(block(x), (x - 1).clamp_min(0))

    def test_squeeze_and_excite_weighs_the_branch_and_not_the_shortcut(self) -> None:
        (block,) = double_conv(4, 4, NORM, residual=True, se_ratio=2).double().eval()
        excite = block.branch[-1].excite
        nn.init.zeros_(excite.weight)
        nn.init.constant_(excite.bias, -1e4)  # σ = 0
        x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
        assert torch.equal(block(x), x.clamp_min(0))

    def test_squeeze_and_excite_ends_a_plain_block(self) -> None:
        block = double_conv(3, 4, NORM, se_ratio=2, dropout=0.5)
        assert [type(m).__name__ for m in block][-3:] == ["ReLU", "SqueezeExcite", "Dropout"]


class TestPyramidPooling:
    def test_equation(self) -> None:
        """Concatenation of x and the resized means over 1, 4, 9 and 36 bins, on a map that the bins divide."""
        block = PyramidPooling(8, 5, NORM).double().eval()
        x = np.random.default_rng(1).normal(size=(2, 8, 6, 12))
        parts = [x]
        for bins, branch in zip((1, 2, 3, 6), block.branches, strict=True):
            means = x.reshape(2, 8, bins, 6 // bins, bins, 12 // bins).mean((3, 5))
            parts.append(stretched(np.maximum(convolved(means, branch[1]), 0), (6, 12)))
        assert [part.shape[1] for part in parts] == [8, 2, 2, 2, 2]
        expected = block.fuse(torch.from_numpy(np.concatenate(parts, axis=1)))
        torch.testing.assert_close(block(torch.from_numpy(x)), expected, rtol=0, atol=1e-12)

    def test_a_pixel_sees_the_whole_map(self) -> None:
        assert seen_by(wide_open(PyramidPooling(4, 4, NORM)), 4, (9, 13), (0, 0)).all()
        near = seen_by(wide_open(double_conv(4, 4, NORM)), 4, (9, 13), (0, 0))
        assert near.sum() == 9

    @pytest.mark.parametrize("size", [(1, 1), (1, 2), (4, 8), (5, 7)])
    def test_any_map_trains(self, size: tuple[int, int]) -> None:
        block = PyramidPooling(4, 6, NORM).train()
        found = block(torch.rand(2, 4, *size))
        found.sum().backward()
        assert found.shape == (2, 6, *size) and torch.isfinite(found).all()


class TestAtrousPyramid:
    def test_each_rate_reaches_its_distance(self) -> None:
        block = wide_open(AtrousPyramid(2, 8, NORM, (2, 5)))
        assert len(block.branches) == 3
        for branch, taps in zip(block.branches, ([10], [8, 10, 12], [5, 10, 15]), strict=True):
            seen = seen_by(branch, 2, (21, 21), (10, 10))
            expected = np.zeros((21, 21), bool)
            expected[np.ix_(taps, taps)] = True
            assert (seen == expected).all()

    def test_the_mean_sees_the_whole_map(self) -> None:
        """The gradient of an output pixel is the same at every pixel that no atrous tap reads, and above 0."""
        block = wide_open(AtrousPyramid(2, 8, NORM, (2, 5)))
        image = torch.rand(1, 2, 21, 21, dtype=torch.float64, requires_grad=True)
        block(image)[0, :, 10, 10].sum().backward()
        assert image.grad is not None
        slope = image.grad[0, 0].numpy()
        far = np.ones((21, 21), bool)
        for taps in ([10], [8, 10, 12], [5, 10, 15]):
            far[np.ix_(taps, taps)] = False
        assert slope[far].min() > 0 and np.ptp(slope[far]) < 1e-12 and (slope[~far] > slope[far].max()).all()

    def test_concatenation_of_branches_in_order(self) -> None:
        block = AtrousPyramid(3, 8, NORM, (1, 2)).double().eval()
        x = np.random.default_rng(2).normal(size=(2, 3, 4, 5))
        mean = np.maximum(convolved(x.mean((2, 3), keepdims=True), block.mean[0]), 0)
        parts = [branch(torch.from_numpy(x)).detach().numpy() for branch in block.branches]
        joined = np.concatenate([*parts, np.broadcast_to(mean, (2, 2, 4, 5))], axis=1)
        layer, norm, _ = block.fuse
        expected = np.maximum(convolved(joined, layer) / np.sqrt(1 + norm.eps), 0)
        np.testing.assert_allclose(block(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-12)

    def test_taps_beyond_the_map_learn_nothing(self) -> None:
        """The Mars report's 64 × 128 px make a map of 4 × 8, where of rate 6 the middle row is left, of 12 one tap."""
        block = AtrousPyramid(4, 8, NORM, (6, 12)).train()
        block(torch.rand(2, 4, 4, 8)).square().sum().backward()
        alive = [(branch[0].weight.grad.abs().sum((0, 1)) > 0).int().tolist() for branch in block.branches[1:]]
        assert alive == [[[0, 0, 0], [1, 1, 1], [0, 0, 0]], [[0, 0, 0], [0, 1, 0], [0, 0, 0]]]

    @pytest.mark.parametrize(("batch", "size"), [(2, (1, 1)), (1, (1, 2)), (1, (4, 8))])
    def test_a_batch_of_one_trains(self, batch: int, size: tuple[int, int]) -> None:
        """The mean has one value per channel then: a batch norm of it would raise."""
        for block in (AtrousPyramid(4, 8, NORM, (6,)), PyramidPooling(4, 8, NORM)):
            assert torch.isfinite(block.train()(torch.rand(batch, 4, *size))).all()


class TestUpsampling:
    def test_nearest_repeats_each_pixel_four_times(self) -> None:
        layers = upsample("nearest", 2, 2, NORM)
        x = torch.rand(1, 2, 3, 4)
        assert torch.equal(layers[0](x), x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
        assert layers[1].kernel_size == (3, 3) and layers(x).shape == (1, 2, 6, 8)

    def test_transposed_doubles_the_size(self) -> None:
        layers = upsample("transposed", 4, 2, NORM)
        assert isinstance(layers[0], nn.ConvTranspose2d) and layers(torch.rand(1, 4, 3, 4)).shape == (1, 2, 6, 8)

    @pytest.mark.parametrize("size", [(6, 8), (3, 9), (2, 2)])
    def test_resize_against_numpy(self, size: tuple[int, int]) -> None:
        x = np.random.default_rng(3).normal(size=(1, 2, 3, 4))
        found = resize(torch.from_numpy(x), torch.empty(1, 1, *size)).numpy()
        np.testing.assert_allclose(found, stretched(x, size), atol=1e-12)


def test_one_value_per_channel_is_one_line() -> None:
    with pytest.raises(RunError, match="model unet: a batch of one image of 16 × 16 px cannot train") as caught:
        check_batch("unet", torch.rand(1, 3, 16, 16), 16, training=True)
    assert "\n" not in str(caught.value)
    check_batch("unet", torch.rand(1, 3, 16, 16), 16, training=False)
    check_batch("unet", torch.rand(2, 3, 16, 16), 16, training=True)
    check_batch("unet", torch.rand(1, 3, 16, 32), 16, training=True)
