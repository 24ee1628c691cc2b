"""The U-Net against the arithmetic of its description."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from pipeline import models
from pipeline.errors import ConfigError, RunError


def expected_parameters(width: int, bands: int, classes: int, depth: int = 5) -> int:
    """Counted by hand: weights and biases of each convolution, scale and shift of each batch norm."""

    def conv(before: int, after: int, size: int, norm: bool = True) -> int:
        return size * size * before * after + after + 2 * after * norm

    channels = [width * 2**i for i in range(depth)]
    total = sum(conv(a, b, 3) + conv(b, b, 3) for a, b in zip([bands, *channels[:-1]], channels, strict=True))
    for a, b in itertools.pairwise(channels):
        total += conv(b, a, 2) + conv(2 * a, a, 3) + conv(a, a, 3)
    return total + conv(width, classes, 1, norm=False)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_report_parameter_count() -> None:
    assert expected_parameters(64, 3, 4) == 31_045_636
    with torch.device("meta"):
        assert parameters(models.create("unet", 3, 4)) == 31_045_636


class PlainUNet(nn.Module):
    """The network that earlier checkpoints hold, layer by layer: what the defaults must stay, to the bit."""

    def __init__(self, width: int, depth: int, dropout: float) -> None:
        super().__init__()

        def norm_relu(channels: int) -> list[nn.Module]:
            return [nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01), nn.ReLU()]

        def block(before: int, after: int) -> nn.Sequential:
            first = [nn.Conv2d(before, after, 3, padding=1), *norm_relu(after)]
            second = [nn.Conv2d(after, after, 3, padding=1), *norm_relu(after)]
            return nn.Sequential(*first, *second, nn.Dropout(dropout))

        channels = [width * 2**level for level in range(depth)]
        upwards = channels[-2::-1]
        self.encoder = nn.ModuleList(block(a, b) for a, b in itertools.pairwise([3, *channels]))
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(2 * a, a, 2, stride=2), *norm_relu(a)) for a in upwards
        )
        self.decoder = nn.ModuleList(block(2 * a, a) for a in upwards)
        self.head = nn.Conv2d(width, 4, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_normal_(self.head.weight)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        skips = [self.encoder[0](image)]
        for level in self.encoder[1:]:
            skips.append(level(nn.functional.max_pool2d(skips[-1], 2)))
        x = skips.pop()
        for up, level in zip(self.up, self.decoder, strict=True):
            x = level(torch.cat([skips.pop(), up(x)], dim=1))
        return self.head(x)


@pytest.mark.parametrize(("width", "depth", "dropout"), [(4, 5, 0.0), (6, 3, 0.4)])
def test_the_defaults_are_bit_equal_to_earlier_checkpoints(width: int, depth: int, dropout: float) -> None:
    """The same names in the same order, the same weights from a seed, the same logits and dropped values."""
    torch.manual_seed(5)
    before = PlainUNet(width, depth, dropout).train()
    image = torch.rand(2, 3, 32, 48)
    expected = before(image)
    torch.manual_seed(5)
    network = models.create("unet", 3, 4, width=width, depth=depth, dropout=dropout).train()
    fresh = {key: value.clone() for key, value in network.state_dict().items()}
    assert torch.equal(image, torch.rand(2, 3, 32, 48)) and torch.equal(network(image), expected)
    assert list(fresh) == list(before.state_dict())
    assert all(torch.equal(value, before.state_dict()[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("width", "bands", "classes", "depth"), [(8, 3, 4, 5), (16, 4, 2, 5), (8, 3, 4, 3), (4, 1, 1, 1)]
)
def test_parameter_counts_of_other_sizes(width: int, bands: int, classes: int, depth: int) -> None:
    network = models.create("unet", bands, classes, width=width, depth=depth)
    assert parameters(network) == expected_parameters(width, bands, classes, depth)


@pytest.mark.parametrize("width", [8, 16])
def test_forward_and_backward(width: int) -> None:
    network = models.create("unet", 3, 4, width=width).train()
    logits = network(torch.rand(2, 3, 32, 48))
    logits.square().mean().backward()
    assert logits.shape == (2, 4, 32, 48)
    assert all(p.grad is not None for p in network.parameters())


def test_every_convolution_has_a_bias() -> None:
    network = models.create("unet", width=4)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == 5 * 2 + 4 * (1 + 2) + 1
    assert all(m.bias is not None for m in convolutions)


def test_batch_norm_settings_reach_every_layer() -> None:
    norms = [m for m in models.create("unet", width=4).modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 5 * 2 + 4 * 3 and {(m.momentum, m.eps) for m in norms} == {(0.01, 1e-3)}
    norms = [
        m
        for m in models.create("unet", width=4, bn_momentum=0.1, bn_eps=1e-5).modules()
        if isinstance(m, nn.BatchNorm2d)
    ]
    assert {(m.momentum, m.eps) for m in norms} == {(0.1, 1e-5)}


def test_skip_comes_first_in_the_concatenation() -> None:
    """With the upward branch silenced, only the first half of a decoder's input channels is alive."""
    network = models.create("unet", width=4, depth=2).eval()
    with torch.no_grad():
        for p in network.up[0].parameters():
            p.zero_()
    seen: list[torch.Tensor] = []
    network.decoder[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    skips: list[torch.Tensor] = []
    network.encoder[0].register_forward_hook(lambda _m, _i, output: skips.append(output))
    network(torch.rand(1, 3, 16, 16))
    assert torch.equal(seen[0][:, :4], skips[0]) and skips[0].abs().sum() > 0
    assert seen[0][:, 4:].abs().sum() == 0


def test_convolutions_start_he_normal_and_the_head_glorot() -> None:
    torch.manual_seed(0)
    network = models.create("unet", width=32, classes=64)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert module.bias is not None and not module.bias.any(), name
            fan_in = module.weight[0].numel()
            std = math.sqrt(2 / fan_in) if name != "head" else math.sqrt(2 / (32 + 64))
            tolerance = 4 / math.sqrt(2 * module.weight.numel())
            assert module.weight.std().item() == pytest.approx(std, rel=tolerance), name
            assert abs(module.weight.mean().item()) < 5 * std / math.sqrt(module.weight.numel()), name


def test_dropout_ends_every_block() -> None:
    network = models.create("unet", width=4, dropout=0.3)
    blocks = [*network.encoder, *network.decoder]
    assert len(blocks) == 9
    assert all(isinstance(block[-1], nn.Dropout) and block[-1].p == 0.3 for block in blocks)
    assert sum(isinstance(m, nn.Dropout) for m in network.modules()) == 9
    plain = models.create("unet", width=4)
    assert plain.state_dict().keys() == network.state_dict().keys()
    assert not any(isinstance(m, nn.Dropout) for m in plain.modules())


@pytest.mark.parametrize("size", [(100, 96), (96, 8), (33, 33)])
def test_image_size_that_does_not_divide(size: tuple[int, int]) -> None:
    with pytest.raises(RunError, match=rf"{size[0]} × {size[1]} px is no multiple of 16") as caught:
        models.create("unet", width=4)(torch.rand(1, 3, *size))
    assert "\n" not in str(caught.value)


def test_wrong_number_of_bands() -> None:
    with pytest.raises(RunError, match="4 bands, the network was made for 3"):
        models.create("unet", width=4)(torch.rand(1, 4, 32, 32))


@pytest.mark.parametrize(
    "params",
    [
        {"width": 0},
        {"depth": 0},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"bn_momentum": 0.0},
        {"bn_eps": 0.0},
        {"dropout_at": "decoder"},
        {"se_levels": 5},
        {"se_levels": -1},
        {"se_ratio": 0},
        {"bottleneck": "plain"},
        {"dilation": 0},
        {"aspp_rates": []},
        {"aspp_rates": [6, 0]},
        {"aspp_rates": [6, 1.5]},
        {"aspp_rates": [True]},
        {"deep_supervision": True, "depth": 2},
        {"up": "bilinear"},
    ],
)
def test_impossible_parameters(params: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(params))) as caught:
        models.create("unet", **params)
    assert "\n" not in str(caught.value)


def test_own_models_import_no_model_library() -> None:
    code = (
        "import sys; from pipeline import models, losses; models.create('unet', width=4); losses.create('focal');"
        "print([m for m in ('torchvision', 'timm', 'segmentation_models_pytorch', 'geopandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
