"""The U-Net's options, of the Mars report and the medical thesis: where each stands, what it adds, what it sees."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline import models
from pipeline.errors import RunError
from pipeline.models._blocks import AtrousPyramid, PyramidPooling, Residual, SqueezeExcite

MARS = {"dropout": 0.5, "dropout_at": "deep", "residual": True, "se_levels": 2, "bottleneck": "dilated"}
EVERYTHING = {**MARS, "bottleneck": "aspp", "attention": True, "deep_supervision": True, "up": "nearest"}


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def places(network: nn.Module, kind: type[nn.Module]) -> list[str]:
    """Paths of the modules of a kind, down to the level they are in."""
    return [".".join(name.split(".")[:2]) for name, module in network.named_modules() if isinstance(module, kind)]


def test_dropout_in_the_last_encoder_blocks_and_the_bottleneck() -> None:
    network = models.create("unet", width=4, dropout=0.5, dropout_at="deep")
    assert places(network, nn.Dropout) == ["encoder.2", "encoder.3", "encoder.4"]
    assert all(isinstance(network.encoder[level][-1], nn.Dropout) for level in (2, 3, 4))
    for bottleneck in ("dilated", "pyramid", "aspp"):
        network = models.create("unet", width=4, dropout=0.5, dropout_at="deep", bottleneck=bottleneck)
        assert places(network, nn.Dropout) == ["encoder.2", "encoder.3", "encoder.4"]
    assert places(models.create("unet", width=4, dropout=0.5, dropout_at="deep", depth=2), nn.Dropout) == [
        "encoder.0",
        "encoder.1",
    ]


def test_residual_blocks_everywhere() -> None:
    network = models.create("unet", width=4, depth=3, residual=True)
    assert places(network, Residual) == ["encoder.0", "encoder.1", "encoder.2", "decoder.0", "decoder.1"]
    # a 1×1 convolution with bias and batch norm per block whose channels change, all of them here
    shortcuts = [(3, 4), (4, 8), (8, 16), (16, 8), (8, 4)]
    extra = sum(a * b + b + 2 * b for a, b in shortcuts)
    assert parameters(network) == parameters(models.create("unet", width=4, depth=3)) + extra


@pytest.mark.parametrize("residual", [False, True])
def test_squeeze_and_excite_in_the_deepest_levels_of_both_paths(residual: bool) -> None:
    network = models.create("unet", width=32, se_levels=2, residual=residual)
    assert places(network, SqueezeExcite) == ["encoder.2", "encoder.3", "decoder.0", "decoder.1"]
    few = [module.squeeze.out_channels for module in network.modules() if isinstance(module, SqueezeExcite)]
    assert few == [8, 16, 16, 8]
    extra = 2 * sum(2 * c * c // 16 + c // 16 + c for c in (128, 256))
    without = models.create("unet", width=32, residual=residual)
    assert parameters(network) == parameters(without) + extra


def test_bottlenecks_take_the_deepest_block_s_place() -> None:
    def at(bottleneck: str, **params: object) -> nn.Module:
        return models.create("unet", width=8, depth=3, bottleneck=bottleneck, **params)

    plain, dilated = at("block"), at("dilated", dilation=3)
    assert plain.state_dict().keys() == dilated.state_dict().keys()
    convolutions = [(name, m) for name, m in dilated.named_modules() if isinstance(m, nn.Conv2d)]
    assert {name for name, m in convolutions if m.dilation != (1, 1)} == {"encoder.2.0", "encoder.2.3"}
    assert {m.dilation for _, m in convolutions} == {(1, 1), (3, 3)}
    block = 9 * 16 * 32 + 32 + 9 * 32 * 32 + 32 + 4 * 32
    rest = parameters(plain) - block
    pyramid = at("pyramid")
    assert isinstance(pyramid.encoder[2][0], PyramidPooling)
    assert parameters(pyramid) == rest + 4 * (16 * 4 + 4) + 9 * 32 * 32 + 32 + 2 * 32
    aspp = at("aspp", aspp_rates=[2, 4])
    assert isinstance(aspp.encoder[2][0], AtrousPyramid)
    branches = (16 * 8 + 8 + 16) + 2 * (9 * 16 * 8 + 8 + 16) + (16 * 8 + 8)
    assert parameters(aspp) == rest + branches + 4 * 8 * 32 + 32 + 64
    assert [b[0].dilation[0] for b in aspp.encoder[2][0].branches] == [1, 2, 4]


def rows_seen(network: nn.Module, row: int) -> tuple[int, int]:
    """First and last row of a 128 px image that one pixel of the logits looks at."""
    network.double().eval()
    with torch.no_grad():
        for p in network.parameters():
            p.abs_()  # no path cancels another, no ReLU closes
    image = torch.rand(1, 3, 128, 128, dtype=torch.float64, requires_grad=True)
    network(image)[0, 0, row, row].backward()
    assert image.grad is not None
    rows = torch.nonzero(image.grad.abs().sum((0, 1, 3)) > 0).flatten()
    return int(rows.min()), int(rows.max())


def test_receptive_field_is_that_of_the_structure() -> None:
    """Depth 3: the rows that a pixel looks at, measured by gradient and counted by hand."""
    network = models.create("unet", width=4, depth=3)
    # pixel 64 starts a 4 px cell of level 3. Each 3×3 pair adds 2 px of its level to both sides; widen to whole cells
    # on the way down. Decoder 1 and 2: [62, 66] → cells of 2 px [31, 33] → [29, 35] → cells of 4 px [14, 17]
    # → block 3 [12, 19] → 2 px cells [24, 39] → encoder 2 [22, 41] → pixels [44, 83] → encoder 1 [42, 85]
    assert rows_seen(network, 64) == (42, 85)


def test_a_dilated_bottleneck_sees_farther_by_its_dilation() -> None:
    """As counted above, but block 3 reaches 6 cells of 4 px to both sides and not 2: [14, 17] → [8, 23]."""
    network = models.create("unet", width=4, depth=3, bottleneck="dilated", dilation=3)
    # → 2 px cells [16, 47] → encoder 2 [14, 49] → pixels [28, 99] → encoder 1 [26, 101]
    assert rows_seen(network, 64) == (26, 101)


@pytest.mark.parametrize("bottleneck", ["pyramid", "aspp"])
def test_pooling_bottlenecks_see_the_whole_image(bottleneck: str) -> None:
    assert rows_seen(models.create("unet", width=4, depth=3, bottleneck=bottleneck), 0) == (0, 127)


def test_deep_supervision_gives_full_size_logits_in_training_only() -> None:
    network = models.create("unet", 3, 4, width=4, deep_supervision=True)
    outputs = network.train()(torch.rand(2, 3, 32, 48))
    assert list(outputs) == ["mask", "aux_1", "aux_2", "aux_3"]
    assert {tuple(logits.shape) for logits in outputs.values()} == {(2, 4, 32, 48)}
    assert network.eval()(torch.rand(1, 3, 32, 48)).shape == (1, 4, 32, 48)
    plain = models.create("unet", 3, 4, width=4).state_dict()
    assert network.state_dict().keys() - plain.keys() == {f"aux.{i}.{k}" for i in range(3) for k in ("weight", "bias")}


def test_auxiliary_outputs_come_from_the_decoder_levels_finest_first() -> None:
    """Silence one decoder level: its output alone turns constant, since the finer ones still have their skips."""
    for silent, constant in ((0, "aux_3"), (1, "aux_2"), (2, "aux_1"), (3, "mask")):
        torch.manual_seed(0)
        network = models.create("unet", 3, 2, width=4, deep_supervision=True).train()
        network.decoder[silent].register_forward_hook(lambda _m, _i, output: output * 0)
        outputs = network(torch.rand(2, 3, 32, 32))
        assert [name for name, logits in outputs.items() if logits.std() < 1e-6] == [constant]


def test_attention_gates_weigh_every_skip() -> None:
    torch.manual_seed(0)
    network = models.create("unet", 3, 2, width=4, depth=3, attention=True).eval()
    assert len(network.gates) == 2
    seen: list[torch.Tensor] = []
    for level in network.decoder:
        level.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(torch.rand(1, 3, 16, 16))
        assert all(x[:, : x.shape[1] // 2].any() for x in seen)
        seen.clear()
        for gates in network.gates:
            nn.init.constant_(gates.gates[0].score.bias, -1e4)  # σ = 0
        network(torch.rand(1, 3, 16, 16))
    assert [x.shape[1] for x in seen] == [16, 8]
    assert not any(x[:, : x.shape[1] // 2].any() for x in seen)


def test_batch_norm_settings_reach_every_option() -> None:
    for bottleneck in ("aspp", "pyramid", "dilated"):
        params = {**EVERYTHING, "bottleneck": bottleneck, "bn_momentum": 0.2, "bn_eps": 1e-4}
        norms = [m for m in models.create("unet", width=4, **params).modules() if isinstance(m, nn.BatchNorm2d)]
        assert len(norms) > 30 and {(m.momentum, m.eps) for m in norms} == {(0.2, 1e-4)}


def test_nearest_upsampling_and_convolution() -> None:
    network = models.create("unet", 3, 4, width=8, up="nearest")
    assert not places(network, nn.ConvTranspose2d)
    assert len(places(network, nn.Upsample)) == 4
    larger = sum((9 - 4) * 2 * c * c for c in (8, 16, 32, 64))  # 3×3 in place of 2×2
    assert parameters(network) == parameters(models.create("unet", 3, 4, width=8)) + larger


def test_weights_of_torch_itself_where_the_thesis_has_them() -> None:
    """Uniform within √(1 / fan in), biases too; the same layers, so that either's checkpoint fits the other."""
    torch.manual_seed(0)
    ours, torchs = (models.create("unet", width=16, classes=64, init=init) for init in ("he_normal", "torch"))
    assert ours.state_dict().keys() == torchs.state_dict().keys()
    for key, module in torchs.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            bound = 1 / math.sqrt(module.weight[0].numel())
            assert 0.9 * bound < module.weight.abs().max().item() <= bound, key
            assert module.bias is not None and module.bias.any(), key


def test_parameter_counts_of_the_reports_options() -> None:
    with torch.device("meta"):
        assert parameters(models.create("unet", 1, 5)) == 31_044_549
        assert parameters(models.create("unet", 1, 5, **MARS)) == 32_529_637
        assert parameters(models.create("unet", 1, 5, up="nearest")) == 31_044_549 + 3_481_600


options = st.fixed_dictionaries(
    {},
    optional={
        "depth": st.integers(2, 4),
        "dropout": st.sampled_from([0.0, 0.5]),
        "dropout_at": st.sampled_from(["all", "deep"]),
        "residual": st.booleans(),
        "se_levels": st.integers(0, 1),
        "bottleneck": st.sampled_from(["block", "dilated", "pyramid", "aspp"]),
        "attention": st.booleans(),
        "up": st.sampled_from(["transposed", "nearest"]),
    },
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(options, st.sampled_from([(1, 5), (4, 1)]), st.sampled_from([(16, 16), (32, 16)]))
def test_any_options_together(params: dict, sizes: tuple[int, int], image: tuple[int, int]) -> None:
    """Logits of the image's size, finite in training and eval mode, and a gradient for every parameter."""
    bands, classes = sizes
    network = models.create("unet", bands, classes, width=2, **params)
    logits = network.train()(torch.rand(2, bands, *image))
    logits.square().mean().backward()
    assert logits.shape == (2, classes, *image) and torch.isfinite(logits).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    with torch.no_grad():
        assert torch.isfinite(network.eval()(torch.rand(1, bands, *image))).all()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_all_options_train_under_autocast_with_deterministic_algorithms(precision: torch.dtype) -> None:
    """Grey images of 64 × 128 px and five classes, as the Mars report's."""
    network = models.create("unet", 1, 5, width=4, **EVERYTHING).train()
    torch.use_deterministic_algorithms(True)
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            outputs = network(torch.rand(2, 1, 64, 128))
        sum(logits.float().square().mean() for logits in outputs.values()).backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert {tuple(logits.shape) for logits in outputs.values()} == {(2, 5, 64, 128)}
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_a_batch_of_one_whose_coarsest_map_is_one_pixel() -> None:
    network = models.create("unet", width=4, bottleneck="pyramid")
    with pytest.raises(RunError, match="16 × 16 px cannot train"):
        network.train()(torch.rand(1, 3, 16, 16))
    assert network.train()(torch.rand(1, 3, 16, 32)).shape == (1, 4, 16, 32)
    assert network.eval()(torch.rand(1, 3, 16, 16)).shape == (1, 4, 16, 16)
