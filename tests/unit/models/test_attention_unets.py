"""The thesis's attention U-Nets against the arithmetic of their description."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from pipeline import models
from pipeline.errors import ConfigError, RunError
from pipeline.models._attention import AttentionGate
from pipeline.models._blocks import Residual

NAMES = ("attention_unet", "residual_attention_unet")


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def expected_parameters(name: str, width: int, bands: int, classes: int, depth: int) -> int:
    """Counted by hand: weights and biases of each convolution, scale and shift of each batch norm."""

    def conv(before: int, after: int, size: int) -> int:
        return size * size * before * after + after + 2 * after

    def block(before: int, after: int) -> int:
        shortcut = conv(before, after, 1) if name == "residual_attention_unet" and before != after else 0
        return conv(before, after, 3) + conv(after, after, 3) + shortcut

    def gate(skip: int, below: int) -> int:
        signal, from_signal, from_skip, score = conv(below, skip, 1), skip * skip + skip, skip * skip, skip + 1
        return signal + from_signal + from_skip + score

    channels = [width * 2**i for i in range(depth)]
    total = sum(block(a, b) for a, b in zip([bands, *channels[:-1]], channels, strict=True))
    total += sum(gate(a, b) + conv(b, a, 3) + block(2 * a, a) for a, b in itertools.pairwise(channels))
    return total + (width + 1) * classes


@pytest.mark.parametrize(("name", "count"), [(NAMES[0], 35_924_680), (NAMES[1], 37_326_344)])
def test_parameter_counts_of_the_documents(name: str, count: int) -> None:
    with torch.device("meta"):
        network = models.create(name, 3, 4)
    assert parameters(network) == expected_parameters(name, 64, 3, 4, 5) == count
    doc = models.variants.load("models", name).build.__doc__
    assert doc is not None and f"{count:,}" in doc


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("width", "bands", "classes", "depth"), [(8, 5, 2, 3), (2, 2, 1, 5), (2, 1, 1, 1)])
def test_parameter_counts_of_other_sizes(name: str, width: int, bands: int, classes: int, depth: int) -> None:
    network = models.create(name, bands, classes, width=width, depth=depth)
    assert parameters(network) == expected_parameters(name, width, bands, classes, depth)


@pytest.mark.parametrize("name", NAMES)
def test_every_level_has_a_gate_of_one_map_from_the_level_below(name: str) -> None:
    network = models.create(name, width=2).eval()
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for level in network.decoder:
        level.gate.register_forward_hook(lambda gate, i, _: seen.append((*i, gate.coefficients(*i))))
    with torch.no_grad():
        network(torch.rand(1, 3, 48, 32))
    assert len(seen) == sum(isinstance(m, AttentionGate) for m in network.modules()) == 4
    for step, (skip, below, alpha) in enumerate(seen):
        height, width = 48 // 2 ** (3 - step), 32 // 2 ** (3 - step)
        assert skip.shape == (1, 2 * 2 ** (3 - step), height, width)
        assert below.shape == (1, 2 * 2 ** (4 - step), height // 2, width // 2)
        assert alpha.shape == (1, 1, height, width) and 0 <= alpha.min() <= alpha.max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_upsampled_first_then_the_gated_skip(name: str) -> None:
    """A closed gate silences the second half of a decoder block's input, a silent level below the first."""
    network = models.create(name, width=4, depth=2).eval()
    level = network.decoder[0]
    joined: list[torch.Tensor] = []
    level.block.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        level.gate.score.bias.fill_(-1e4)
        network(image)
        level.gate.score.bias.fill_(1e4)
        for p in level.up.parameters():
            p.zero_()
        network(image)
        skip = network.encoder[0](image)
    closed, silent = joined
    assert closed[:, :4].any() and not closed[:, 4:].any()
    assert not silent[:, :4].any() and torch.equal(silent[:, 4:], skip)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("bias", "reaches"), [(-1e4, False), (1e4, True)])
def test_the_gate_is_the_only_way_of_a_skip(name: str, bias: float, reaches: bool) -> None:
    """With nothing from below on the finest level, a closed gate leaves no gradient at the image."""
    torch.manual_seed(0)
    network = models.create(name, width=4).eval()
    finest = network.decoder[-1]
    with torch.no_grad():
        finest.gate.score.bias.fill_(bias)
        for p in finest.up.parameters():
            p.zero_()
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    network(image).sum().backward()
    assert bool(image.grad.any()) == reaches


@pytest.mark.parametrize("name", NAMES)
def test_upsampling_repeats_pixels(name: str) -> None:
    level = models.create(name, width=2, depth=2).decoder[0]
    x = torch.rand(1, 4, 3, 5)
    assert torch.equal(level.up[0](x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_blocks_are_plain_or_residual() -> None:
    plain, residual = (models.create(name, width=2) for name in NAMES)
    assert sum(isinstance(m, Residual) for m in plain.modules()) == 0
    blocks = [m for m in residual.modules() if isinstance(m, Residual)]
    assert len(blocks) == 5 + 4
    assert all([type(m) for m in block.shortcut] == [nn.Conv2d, nn.BatchNorm2d] for block in blocks)
    block = blocks[1].eval()
    nn.init.zeros_(block.branch[-1].weight)  # the branch ends with its batch norm: only the shortcut is left
    x = torch.randn(1, 2, 6, 6)
    assert torch.equal(block(x), block.shortcut(x).relu())


@pytest.mark.parametrize("name", NAMES)
def test_dropout_follows_each_convolution_of_a_block_and_nothing_else(name: str) -> None:
    network = models.create(name, width=2, dropout=0.5)
    drops = [m for m in network.modules() if isinstance(m, nn.Dropout)]
    assert len(drops) == 2 * (5 + 4) and {drop.p for drop in drops} == {0.5}
    block = network.encoder[0].branch if name == NAMES[1] else network.encoder[0]
    layers = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout] * 2
    if name == NAMES[1]:
        layers.pop(-2)  # its last ReLU comes after the sum
    assert [type(layer) for layer in block] == layers
    for level in network.decoder:
        assert not any(isinstance(m, nn.Dropout) for part in (level.gate, level.up) for m in part.modules())
    assert not any(isinstance(m, nn.Dropout) for m in models.create(name, width=2).modules())


@pytest.mark.parametrize("name", NAMES)
def test_initial_weights_are_torchs_or_he_normal(name: str) -> None:
    torch.manual_seed(0)
    networks = {init: models.create(name, width=16, classes=64, init=init) for init in ("torch", "he_normal")}
    for init, network in networks.items():
        for key, module in network.named_modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 100:
                fan_in = module.weight[0].numel()
                std = math.sqrt(2 / fan_in) if init == "he_normal" else 1 / math.sqrt(3 * fan_in)
                tolerance = 5 / math.sqrt(2 * module.weight.numel())
                assert module.weight.std().item() == pytest.approx(std, rel=tolerance), (init, key)
                assert module.bias is None or bool(module.bias.any()) == (init == "torch"), (init, key)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("given", "found"), [({}, (0.1, 1e-5)), ({"bn_momentum": 0.01, "bn_eps": 1e-3}, (0.01, 1e-3))])
def test_batch_norm_settings_reach_every_layer(name: str, given: dict, found: tuple[float, float]) -> None:
    norms = [m for m in models.create(name, width=2, **given).modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) >= 9 * 2 + 4 * 2 and {(m.momentum, m.eps) for m in norms} == {found}


@pytest.mark.parametrize("name", NAMES)
def test_errors_are_one_line(name: str) -> None:
    with pytest.raises(RunError, match=rf"^model {name}: image size 24 × 32 px is no multiple of 16.*smaller depth$"):
        models.create(name, width=2)(torch.rand(1, 3, 24, 32))
    for params in ({"width": 0}, {"depth": 0}, {"dropout": 1.0}, {"bn_eps": 0.0}, {"init": "glorot"}):
        with pytest.raises(ConfigError, match=rf"{name}.*{next(iter(params))}"):
            models.create(name, **params)
