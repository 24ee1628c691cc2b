"""FCN-8s against the arithmetic of VGG16 and the equation of its fusion."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline import models
from pipeline.errors import ConfigError, RunError

VGG16 = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def small(**params: object) -> nn.Module:
    torch.manual_seed(0)
    return models.create("fcn8s", **{"width": 4, "fc_width": 8, **params})


# --- structure ---------------------------------------------------------------------------------------------------


def test_parameter_count_is_vgg16s_with_scores_and_transposed_convolutions() -> None:
    with torch.device("meta"):
        network = models.create("fcn8s", 3, 4)
    convolutions = sum(9 * a * b + b for a, b in zip([3, *VGG16[:-1]], VGG16, strict=True))
    fully = (7 * 7 * 512 + 1) * 4096 + (4096 + 1) * 4096
    scores, transposed = (4096 + 512 + 256 + 3) * 4, (4 * 4 + 4 * 4 + 16 * 16) * 4 * 4
    assert convolutions == parameters(network.stages) == 14_714_688
    assert parameters(network) == convolutions + fully + scores + transposed == 134_284_620
    doc = models.variants.load("models", "fcn8s").build.__doc__
    assert doc is not None and "134,284,620" in doc and "14,714,688" in doc


@pytest.mark.parametrize(("width", "fc_width", "batch_norm"), [(4, 8, False), (1, 1, True), (16, 32, True)])
def test_widths_scale_and_batch_norm_adds_two_values_a_channel(width: int, fc_width: int, batch_norm: bool) -> None:
    network = models.create("fcn8s", 5, 2, width=width, fc_width=fc_width, batch_norm=batch_norm)
    channels = [count * width // 64 for count in VGG16]
    expected = sum(9 * a * b + b + 2 * b * batch_norm for a, b in zip([5, *channels[:-1]], channels, strict=True))
    expected += (49 * channels[-1] + 1) * fc_width + (fc_width + 1) * fc_width
    expected += (fc_width + channels[-1] + channels[6] + 3) * 2 + 288 * 2 * 2
    assert parameters(network) == expected
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == (13 if batch_norm else 0)


def test_dropout_follows_the_two_layers_that_were_fully_connected() -> None:
    drops = [m for m in small().modules() if isinstance(m, nn.Dropout)]
    assert [drop.p for drop in drops] == [0.5, 0.5]
    assert [type(m) for m in small(dropout=0.2).fully][2::3] == [nn.Dropout, nn.Dropout]


def test_batch_norm_settings_reach_every_layer() -> None:
    for given, found in (({}, (0.1, 1e-5)), ({"bn_momentum": 0.01, "bn_eps": 1e-3}, (0.01, 1e-3))):
        norms = [m for m in small(batch_norm=True, **given).modules() if isinstance(m, nn.BatchNorm2d)]
        assert {(m.momentum, m.eps) for m in norms} == {found}


# --- fusion ------------------------------------------------------------------------------------------------------


def test_transposed_convolutions_start_as_bilinear_interpolation_of_each_class() -> None:
    network = small(classes=3)
    scores = torch.randn(1, 3, 9, 7)
    for up, factor in ((network.up5, 2), (network.up4, 2), (network.up3, 8)):
        found = up(scores)
        expected = functional.interpolate(scores, scale_factor=factor, mode="bilinear", align_corners=False)
        assert found.shape == expected.shape
        inner = slice(factor, -factor)  # outside, a transposed convolution fades to zero
        torch.testing.assert_close(found[..., inner, inner], expected[..., inner, inner])


def test_logits_are_the_fused_scores_of_three_pools() -> None:
    network = small(classes=2).eval()
    pools: list[torch.Tensor] = []
    for stage in network.stages:
        stage.register_forward_hook(lambda _m, _i, output: pools.append(output))
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        logits = network(image)
        scores = [layer(x) for layer, x in zip((network.score3, network.score4), pools[2:4], strict=True)]
        deepest = network.score5(network.fully(pools[4]))
        up = [functional.conv_transpose2d(deepest, network.up5.weight, stride=2, padding=1)]
        up.append(functional.conv_transpose2d(up[0] + scores[1], network.up4.weight, stride=2, padding=1))
        expected = functional.conv_transpose2d(up[1] + scores[0], network.up3.weight, stride=8, padding=4)
    assert [tuple(pool.shape[1:]) for pool in pools[2:]] == [(16, 8, 12), (32, 4, 6), (32, 2, 3)]
    torch.testing.assert_close(logits, expected)
    assert all(part.any() for part in (*scores, *up)) and expected.std() > 0
    assert {layer.kernel_size for layer in (network.score3, network.score4, network.score5)} == {(1, 1)}


@pytest.mark.parametrize("size", [(1, 1), (33, 64), (50, 31), (96, 100)])
def test_any_size_is_padded_at_its_end_and_cut_back(size: tuple[int, int]) -> None:
    network = small().eval()
    image = torch.rand(1, 3, *size)
    padded = torch.zeros(1, 3, *(-(-side // 32) * 32 for side in size))
    padded[..., : size[0], : size[1]] = image
    with torch.no_grad():
        logits = network(image)
        assert logits.shape == (1, 4, *size)
        assert torch.equal(logits, network(padded)[..., : size[0], : size[1]])


def test_one_small_image_trains_with_batch_norm() -> None:
    assert small(batch_norm=True).train()(torch.rand(1, 3, 20, 20)).isfinite().all()


def test_errors_are_one_line() -> None:
    with pytest.raises(RunError, match=r"^model fcn8s: the image has 4 bands, the network was made for 3$"):
        small()(torch.rand(1, 4, 32, 32))
    for params in ({"width": 0}, {"fc_width": 0}, {"dropout": 1.0}, {"bn_eps": 0.0}):
        with pytest.raises(ConfigError, match=rf"model fcn8s: .*{next(iter(params))}") as caught:
            small(**params)
        assert "\n" not in str(caught.value)
