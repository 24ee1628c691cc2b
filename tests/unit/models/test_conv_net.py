"""The small network of boundary-loss-bf1 against the arithmetic of its description."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline import models
from pipeline.errors import ConfigError, RunError


def expected_parameters(width: int, bands: int, classes: int, layers: int) -> int:
    channels = [width * 2**i for i in range(layers)]
    steps = [*zip([bands, *channels], channels, strict=False), *zip(channels[::-1], channels[-2::-1], strict=False)]
    return sum(9 * a * b + 3 * b for a, b in steps) + 9 * width * classes + classes


@pytest.mark.parametrize(
    ("width", "bands", "classes", "layers"), [(32, 3, 4, 4), (32, 3, 1, 5), (8, 5, 2, 4), (3, 1, 1, 1)]
)
def test_parameter_counts(width: int, bands: int, classes: int, layers: int) -> None:
    with torch.device("meta"):
        network = models.create("conv_net", bands, classes, width=width, layers=layers)
    count = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert count == expected_parameters(width, bands, classes, layers)


def test_parameter_count_of_the_document() -> None:
    doc = models.variants.load("models", "conv_net").build.__doc__
    assert expected_parameters(32, 3, 4, 4) == 778_276 and doc is not None and "778,276" in doc


@pytest.mark.parametrize("layers", [1, 4, 5])
def test_as_many_convolutions_up_as_down_and_none_else(layers: int) -> None:
    network = models.create("conv_net", width=2, layers=layers)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == 2 * layers
    assert all(m.kernel_size == (3, 3) and m.stride == (1, 1) and m.bias is not None for m in convolutions)
    assert sum(isinstance(m, nn.MaxPool2d) for m in network.modules()) == layers
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == 2 * layers - 1


def test_no_skip_goes_past_the_coarsest_map() -> None:
    """Logits are a function of the coarsest map alone, 16 times smaller."""
    network = models.create("conv_net", width=2).eval()
    coarse: list[torch.Tensor] = []
    network.encoder[-1].register_forward_hook(lambda _m, _i, output: coarse.append(output))
    first, second = network(torch.rand(1, 3, 64, 48)), network(torch.rand(1, 3, 64, 48))
    assert coarse[0].shape == (1, 16, 4, 3) and not torch.equal(first, second)
    network.encoder[-1].register_forward_hook(lambda _m, _i, _o: coarse[0])
    assert torch.equal(network(torch.rand(1, 3, 64, 48)), first)


def test_receptive_field_is_that_of_the_structure() -> None:
    """Two layers, pixel 32: up [31, 33] → cells of 2 px [15, 16] → [14, 17] → cells of 4 px [7, 8]; down, where a pool
    looks at whole cells: [14, 17] → [13, 18] → pixels [26, 37] → [25, 38]."""
    network = models.create("conv_net", width=4, layers=2).double().eval()
    for layer in network.encoder:
        layer[-1] = nn.AvgPool2d(2)  # a gradient then reaches all that a pool looks at
    with torch.no_grad():
        for p in network.parameters():
            p.abs_()  # no path cancels another, no ReLU closes
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    network(image)[0, 0, 32, 32].backward()
    assert image.grad is not None
    rows = torch.nonzero(image.grad.abs().sum((0, 1)).any(1)).flatten()
    assert (int(rows[0]), int(rows[-1])) == (25, 38)


def test_batch_norm_settings_reach_every_layer() -> None:
    for given, found in (({}, (0.1, 1e-5)), ({"bn_momentum": 0.01, "bn_eps": 1e-3}, (0.01, 1e-3))):
        norms = [m for m in models.create("conv_net", width=2, **given).modules() if isinstance(m, nn.BatchNorm2d)]
        assert {(m.momentum, m.eps) for m in norms} == {found}


def test_one_coarsest_pixel_and_a_batch_of_one_train() -> None:
    network = models.create("conv_net", width=2).train()
    assert network(torch.rand(1, 3, 16, 16)).isfinite().all()


def test_errors_are_one_line() -> None:
    with pytest.raises(RunError, match=r"^model conv_net: image size 24 × 32 px is no multiple of 16.*fewer layers$"):
        models.create("conv_net", width=2)(torch.rand(1, 3, 24, 32))
    for params in ({"width": 0}, {"layers": 0}, {"bn_momentum": 2.0}):
        with pytest.raises(ConfigError, match="conv_net") as caught:
            models.create("conv_net", **params)
        assert "\n" not in str(caught.value)
