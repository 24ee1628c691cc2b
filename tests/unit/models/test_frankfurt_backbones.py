"""The Frankfurt report's residual and inception U-Nets against its counts and the arithmetic of their structure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from pipeline import models
from pipeline.errors import ConfigError, RunError

NAMES = ("resnet18_unet", "inception_unet")
LEVELS = {"resnet18_unet": [64, 128, 256, 512, 1024], "inception_unet": [64, 192, 480, 832, 1024]}
MODULES = [  # per level: 1×1, (1×1, 3×3), (1×1, 5×5), pool → 5×5
    [(64, (96, 128), (16, 32), 32), (128, (128, 192), (32, 96), 64)],
    [
        (192, (96, 208), (16, 48), 64),
        (160, (112, 224), (24, 64), 64),
        (128, (128, 256), (24, 64), 64),
        (112, (144, 288), (32, 64), 64),
        (256, (160, 320), (32, 128), 128),
    ],
    [(256, (160, 320), (32, 128), 128), (384, (192, 384), (48, 128), 128)],
]


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def conv(before: int, after: int, size: int) -> int:
    """Weights and biases of a convolution, scale and shift of its batch norm."""
    return size * size * before * after + after + 2 * after


def decoder_and_head(channels: list[int], classes: int) -> int:
    levels = (conv(b, a, 2) + conv(2 * a, a, 3) + conv(a, a, 3) for a, b in itertools.pairwise(channels))
    return sum(levels) + (channels[0] + 1) * classes


def residual_parameters(width: int, bands: int, classes: int) -> int:
    channels = [width * 2**level for level in range(5)]
    total = conv(bands, width, 7) + 4 * conv(width, width, 3)
    for a, b in itertools.pairwise(channels):
        total += conv(a, b, 1) + conv(a, b, 3) + 3 * conv(b, b, 3)
    return total + decoder_and_head(channels, classes)


def inception_parameters(width: int, bands: int, classes: int) -> int:
    def of(count: int) -> int:
        return max(1, math.floor(count * width / 64 + 0.5))

    total = conv(bands, width, 7) + conv(width, of(192), 3) + conv(of(192), of(192), 3)
    channels = [width, of(192)]
    for level in MODULES:
        before = channels[-1]
        for plain, three, five, pooled in level:
            total += conv(before, of(plain), 1) + conv(before, of(pooled), 5)
            total += conv(before, of(three[0]), 1) + conv(of(three[0]), of(three[1]), 3)
            total += conv(before, of(five[0]), 1) + conv(of(five[0]), of(five[1]), 5)
            before = of(plain) + of(three[1]) + of(five[1]) + of(pooled)
        channels.append(before)
    return total + decoder_and_head(channels, classes)


COUNTED = {"resnet18_unet": residual_parameters, "inception_unet": inception_parameters}


# --- counts and shapes -------------------------------------------------------------------------------------------


def test_report_parameter_counts() -> None:
    with torch.device("meta"):
        residual, inception = (models.create(name, 3, 4) for name in NAMES)
    assert parameters(residual) == residual_parameters(64, 3, 4) == 56_945_604
    assert parameters(inception) == inception_parameters(64, 3, 4) == 48_141_492
    unused_in_the_notebook = parameters(next(m for m in residual.modules() if isinstance(m, nn.BatchNorm2d)))
    assert parameters(residual) - unused_in_the_notebook == 56_945_476


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("width", "bands", "classes"), [(1, 1, 1), (6, 5, 2), (32, 3, 4)])
def test_parameter_counts_of_other_widths(name: str, width: int, bands: int, classes: int) -> None:
    with torch.device("meta"):
        assert parameters(models.create(name, bands, classes, width=width)) == COUNTED[name](width, bands, classes)


@pytest.mark.parametrize("name", NAMES)
def test_levels_halve_and_each_skip_meets_its_level_first_in_the_concatenation(name: str) -> None:
    with torch.device("meta"):
        network = models.create(name, 3, 4).eval()
        image = torch.empty(1, 3, 128, 96)
    outputs: list[torch.Tensor] = []
    joined: list[torch.Tensor] = []
    for level in network.encoder:
        level.register_forward_hook(lambda _m, _i, output: outputs.append(output))
    for level in network.decoder:
        level.block.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    logits = network(image)
    sizes = [(1, channels, 128 // 2**i, 96 // 2**i) for i, channels in enumerate(LEVELS[name])]
    assert [tuple(output.shape) for output in outputs] == sizes
    assert [tuple(x.shape) for x in joined] == [(n, 2 * c, h, w) for n, c, h, w in reversed(sizes[:-1])]
    assert logits.shape == (1, 4, 128, 96)


@pytest.mark.parametrize("name", NAMES)
def test_the_skip_is_the_first_half_of_what_a_decoder_level_joins(name: str) -> None:
    network = models.create(name, width=2).eval()
    skips: list[torch.Tensor] = []
    joined: list[torch.Tensor] = []
    for level in network.encoder[:-1]:
        level.register_forward_hook(lambda _m, _i, output: skips.append(output))
    for level in network.decoder:
        nn.init.zeros_(level.up[0].weight)  # with zero biases, running means 0 and shifts 0: nothing comes from below
        level.block.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    network(torch.rand(1, 3, 32, 32))
    assert len(joined) == len(skips) == 4
    for skip, both in zip(reversed(skips), joined, strict=True):
        channels = skip.shape[1]
        assert torch.equal(both[:, :channels], skip) and skip.any() and not both[:, channels:].any()


# --- receptive fields --------------------------------------------------------------------------------------------

Rows = tuple[int, int]  # first and last row


def around(rows: Rows, *sizes: int) -> Rows:
    """Rows that convolutions of these sizes, of stride 1, look at."""
    reach = sum(size // 2 for size in sizes)
    return rows[0] - reach, rows[1] + reach


def strided(rows: Rows) -> Rows:
    """Rows that a window of 3 with stride 2 looks at when padding stands at the end alone: 2i to 2i + 2."""
    return 2 * rows[0], 2 * rows[1] + 2


def residual_level(rows: Rows, level: int) -> Rows:
    return around(rows, 3, 3, 3, 3, 7) if level == 0 else strided(around(rows, 3, 3, 3))


def inception_level(rows: Rows, level: int) -> Rows:
    if level == 0:
        return around(rows, 7)
    widest = {1: (3, 3), 2: (3, 5) * 2, 3: (3, 5) * 5, 4: (3, 5) * 2}[level]  # pool → 5×5 looks furthest
    return strided(around(rows, *widest))


def expected_rows(pixel: int, level_rows: Callable[[Rows, int], Rows]) -> Rows:
    """Rows of the image that one pixel's logits depend on."""
    rows, skips = (pixel, pixel), []
    for _ in range(4):
        rows = around(rows, 3, 3)
        skips.append(rows)
        rows = rows[0] // 2, rows[1] // 2
    for level in (4, 3, 2, 1, 0):
        rows = level_rows(rows, level)
        if level:
            rows = min(rows[0], skips[level - 1][0]), max(rows[1], skips[level - 1][1])
    return rows


def means_for_maxima(network: nn.Module) -> None:
    """Average pools in the place of max pools: a gradient then reaches all that a pool looks at."""
    for module in list(network.modules()):
        for key, child in list(module.named_children()):
            if isinstance(child, nn.MaxPool2d):
                size, stride, padding = child.kernel_size, child.stride, child.padding
                setattr(module, key, nn.AvgPool2d(size, stride, padding, ceil_mode=child.ceil_mode))


@pytest.mark.parametrize(("name", "level_rows"), [(NAMES[0], residual_level), (NAMES[1], inception_level)])
@pytest.mark.parametrize("pixel", [512, 519])
def test_receptive_field_is_that_of_the_structure(
    name: str, level_rows: Callable[[Rows, int], Rows], pixel: int
) -> None:
    network = models.create(name, 1, 1, width=1).double().eval()
    means_for_maxima(network)
    with torch.no_grad():
        for p in network.parameters():
            p.abs_()  # no path cancels another, no ReLU closes
    image = torch.rand(1, 1, 1024, 16, dtype=torch.float64, requires_grad=True)
    network(image)[0, 0, pixel, 8].backward()
    assert image.grad is not None
    reached = torch.nonzero(image.grad[0, 0].any(1)).flatten()
    first, last = expected_rows(pixel, level_rows)
    assert 0 < first < last < 1023 and (int(reached[0]), int(reached[-1])) == (first, last)


# --- blocks ------------------------------------------------------------------------------------------------------


def test_residual_block_adds_the_identity_and_nothing_follows() -> None:
    network = models.create("resnet18_unet", width=4).eval()
    blocks = [m for m in network.modules() if type(m).__name__ == "ResidualBlock"]
    assert len(blocks) == 10
    for block in blocks:
        for module in block.body:
            if isinstance(module, nn.BatchNorm2d):
                nn.init.zeros_(module.weight)
        x = torch.randn(1, first_conv(block).in_channels, 8, 8)
        y, identity = block(x), isinstance(block.shortcut, nn.Identity)
        assert torch.equal(y, block.shortcut(x if identity else x[..., ::2, ::2])) and (y.min() < 0) == identity
    assert [b for b in blocks if not isinstance(b.shortcut, nn.Identity)] == blocks[2::2]


def test_strided_shortcut_is_a_strided_1x1_convolution_with_norm_and_relu() -> None:
    network = models.create("resnet18_unet", width=4).eval()
    for level in network.encoder[1:]:
        convolution, norm, relu = level[0].shortcut
        assert isinstance(norm, nn.BatchNorm2d) and isinstance(relu, nn.ReLU) and convolution.kernel_size == (1, 1)
        x = torch.randn(1, convolution.in_channels, 8, 8)
        strided = nn.functional.conv2d(x, convolution.weight, convolution.bias, stride=2)
        torch.testing.assert_close(level[0](x), level[0].body(x) + relu(norm(strided)))


@pytest.mark.parametrize("name", NAMES)
def test_trains_in_channels_last(name: str) -> None:
    """A strided 1×1 convolution of few channels would write past its memory here: there must be none."""
    network = models.create(name, width=2).to(memory_format=torch.channels_last).train()
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert all(m.stride == (1, 1) for m in convolutions if m.kernel_size == (1, 1))
    network(torch.rand(2, 3, 32, 32).to(memory_format=torch.channels_last)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def first_conv(module: nn.Module) -> nn.Conv2d:
    return next(m for m in module.modules() if isinstance(m, nn.Conv2d))


def test_inception_module_sets_its_branches_side_by_side() -> None:
    network = models.create("inception_unet").eval()
    module = network.encoder[2][1]
    x = torch.rand(1, 192, 6, 6)
    pooled = nn.functional.max_pool2d(x, 3, 1, 1)
    inputs = [x, x, x, pooled]
    with torch.no_grad():
        y = module(x)
        parts = [nn.Sequential(*[m for m in b if not isinstance(m, nn.MaxPool2d)]) for b in module.branches]
        expected = torch.cat([part(value) for part, value in zip(parts, inputs, strict=True)], dim=1)
    assert y.shape == (1, 64 + 128 + 32 + 32, 6, 6) and torch.equal(y, expected)
    kernels = [[m.kernel_size[0] for m in b.modules() if isinstance(m, nn.Conv2d)] for b in module.branches]
    assert kernels == [[1], [1, 3], [1, 5], [5]]


@pytest.mark.parametrize("name", NAMES)
def test_every_convolution_has_a_zero_bias_and_he_weights_but_the_head(name: str) -> None:
    torch.manual_seed(0)
    network = models.create(name, width=16, classes=64)
    for key, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert module.bias is not None and not module.bias.any(), key
            std = math.sqrt(2 / (16 + 64)) if key == "head" else math.sqrt(2 / module.weight[0].numel())
            assert module.weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * module.weight.numel())), key


@pytest.mark.parametrize("name", NAMES)
def test_dropout_ends_every_block(name: str) -> None:
    network = models.create(name, width=4, dropout=0.3)
    drops = [m for m in network.modules() if isinstance(m, nn.Dropout)]
    assert len(drops) == {"resnet18_unet": 1 + 10, "inception_unet": 2 + 9}[name] + 4
    assert {drop.p for drop in drops} == {0.3}
    assert all(isinstance(level[-1], nn.Dropout) for level in network.encoder)
    assert all(isinstance(level.block[-1], nn.Dropout) for level in network.decoder)
    assert not any(isinstance(m, nn.Dropout) for m in models.create(name, width=4).modules())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("given", "found"), [({}, (0.01, 1e-3)), ({"bn_momentum": 0.1, "bn_eps": 1e-5}, (0.1, 1e-5))])
def test_batch_norm_settings_reach_every_layer(name: str, given: dict, found: tuple[float, float]) -> None:
    network = models.create(name, width=4, **given)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(norms) == len(convolutions) - 1 and {(m.momentum, m.eps) for m in norms} == {found}


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(100, 96), (96, 8), (33, 33)])
def test_image_size_that_does_not_divide(name: str, size: tuple[int, int]) -> None:
    with pytest.raises(RunError, match=rf"model {name}: .*{size[0]} × {size[1]} px is no multiple of 16"):
        models.create(name, width=1)(torch.rand(1, 3, *size))


@pytest.mark.parametrize("name", NAMES)
def test_one_pixel_on_the_coarsest_map_cannot_train_but_predicts(name: str) -> None:
    network = models.create(name, width=1)
    with pytest.raises(RunError, match=rf"model {name}: a batch of one image of 16 × 16 px"):
        network.train()(torch.rand(1, 3, 16, 16))
    assert network.eval()(torch.rand(1, 3, 16, 16)).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("params", [{"width": 0}, {"dropout": 1.0}, {"bn_momentum": 0.0}, {"bn_eps": 0.0}])
def test_impossible_parameters(name: str, params: dict) -> None:
    with pytest.raises(ConfigError, match=rf"model {name}: .*{next(iter(params))}"):
        models.create(name, **params)
