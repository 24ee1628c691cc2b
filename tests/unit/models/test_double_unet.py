"""Double U-Nets: how the two networks meet, what each switch adds, and the rows of the Mars report's Table 1."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from pipeline import models, variants
from pipeline.errors import ConfigError, RunError
from pipeline.models._attention import AttentionGate
from pipeline.models._blocks import AtrousPyramid, Residual, SqueezeExcite
from pipeline.models.double_unet import multiplied

BARE = {"residual": False, "se": False, "aspp": False}
RESIDUAL_SE = {"dropout": 0.5, "dropout_at": "deep", "residual": True, "se_levels": 2, "bottleneck": "dilated"}
TABLE_1: list[tuple[str, str, dict[str, Any]]] = [
    ("U-Net", "unet", {}),
    ("U-Net++", "unet_plus_plus", {}),
    ("Double U-Net", "double_unet", BARE),
    ("Double parallel U-Net (global + local)", "double_unet", {**BARE, "mode": "parallel"}),
    ("U-Net, residual, SE", "unet", RESIDUAL_SE),
    ("Double U-Net, residual, SE, ASPP, attention gates", "double_unet", {"attention": True}),
    ("Double U-Net, residual, SE, ASPP", "double_unet", {}),
]


def make(bands: int = 3, classes: int = 4, **params: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.create("double_unet", bands, classes, **{"width": 4, "depth": 3, "dropout": 0.0, **params})


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize(("row", "name", "params"), TABLE_1, ids=[row[0] for row in TABLE_1])
def test_every_row_of_table_1_trains_on_grey_images(row: str, name: str, params: dict) -> None:
    network = models.create(name, 1, 5, width=2, **params).train()
    outputs = network(torch.rand(2, 1, 64, 128))
    logits = list(outputs.values()) if isinstance(outputs, dict) else [outputs]
    assert {tuple(output.shape) for output in logits} == {(2, 5, 64, 128)}
    sum(output.square().mean() for output in logits).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    assert network.eval()(torch.rand(1, 1, 64, 128)).shape == (1, 5, 64, 128)


def test_the_page_of_variants_names_the_same_rows() -> None:
    """With the batch norm of short runs in `unet`, whose default is the Frankfurt report's."""
    page = (Path(__file__).parents[3] / "docs" / "variants.md").read_text(encoding="utf-8")
    block = page.partition("The rows of the Mars report's table:\n\n```yaml\n")[2].partition("```")[0]
    named = [variants.entry_of(entry, "docs/variants.md") for entry in yaml.safe_load(block)["models"]]
    short = {"unet": {"bn_momentum": 0.1}}
    assert named == [(name, {**short.get(name, {}), **params}) for _, name, params in TABLE_1]


def test_parameter_counts() -> None:
    with torch.device("meta"):
        counts = {row: parameters(models.create(name, 1, 5, **params)) for row, name, params in TABLE_1}
        assert parameters(models.create("double_unet", 3, 4)) == 12_368_360
    assert counts == {
        "U-Net": 31_044_549,
        "U-Net++": 9_049_029,
        "Double U-Net": 16_317_514,
        "Double parallel U-Net (global + local)": 15_533_327,
        "U-Net, residual, SE": 32_529_637,
        "Double U-Net, residual, SE, ASPP, attention gates": 13_417_238,
        "Double U-Net, residual, SE, ASPP": 12_365_546,
    }


def plain_parameters(width: int, depth: int, bands: int, skip_sets: int) -> int:
    """Counted by hand: a U-Net without its head, whose decoder takes so many skips."""

    def conv(before: int, after: int, size: int) -> int:
        return size * size * before * after + after + 2 * after

    channels = [width * 2**i for i in range(depth)]
    total = sum(conv(a, b, 3) + conv(b, b, 3) for a, b in itertools.pairwise([bands, *channels]))
    return total + sum(conv(2 * a, a, 2) + conv((skip_sets + 1) * a, a, 3) + conv(a, a, 3) for a in channels[:-1])


@pytest.mark.parametrize(("product", "bands"), [("classes", 3 * 5), ("foreground", 3)])
def test_serial_is_two_unets_of_which_the_second_takes_both_skips(product: str, bands: int) -> None:
    expected = plain_parameters(4, 3, 3, 1) + plain_parameters(4, 3, bands, 2) + 2 * (4 * 5 + 5)
    assert parameters(make(3, 5, **BARE, product=product)) == expected


def test_parallel_is_two_unets_that_share_a_head() -> None:
    expected = 2 * plain_parameters(4, 3, 3, 1) + (8 * 5 + 5)
    assert parameters(make(3, 5, **BARE, mode="parallel", deep_supervision=False)) == expected
    assert parameters(make(3, 5, **BARE, mode="parallel")) == expected + 2 * (4 * 5 + 5)


# --- serial --------------------------------------------------------------------------------------------------------


def test_the_image_times_the_mask_against_numpy() -> None:
    rng = np.random.default_rng(0)
    image, logits = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 4, 4, 5))
    power = np.exp(logits)
    p = power / power.sum(1, keepdims=True)
    by_class = np.stack([image[:, b] * p[:, c] for b in range(3) for c in range(4)], axis=1)
    tensors = torch.from_numpy(image), torch.from_numpy(logits)
    np.testing.assert_allclose(multiplied(*tensors, foreground=False).numpy(), by_class, atol=1e-12)
    np.testing.assert_allclose(multiplied(*tensors, foreground=True).numpy(), image * (1 - p[:, :1]), atol=1e-12)
    one = torch.from_numpy(logits[:, :1])
    for foreground in (False, True):
        found = multiplied(tensors[0], one, foreground).numpy()
        np.testing.assert_allclose(found, image / (1 + np.exp(-logits[:, :1])), atol=1e-12)


def test_the_second_network_sees_the_image_times_the_first_mask() -> None:
    network = make(2, 3).train()
    seen: list[torch.Tensor] = []
    network.second.encoder[0].register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    image = torch.rand(2, 2, 16, 16)
    first = network(image)["aux_1"]
    assert torch.equal(seen[0], multiplied(image, first, foreground=False)) and seen[0].shape[1] == 6


def test_a_gradient_of_the_mask_reaches_the_first_mask() -> None:
    """Through the product alone: the first head has no other way to the mask."""
    network = make().train()
    network(torch.rand(2, 3, 16, 16))["mask"].square().mean().backward()
    assert network.first_head.weight.grad.abs().max() > 1e-8
    network = make().train()
    network(torch.rand(2, 3, 16, 16))["aux_1"].square().mean().backward()
    assert all(p.grad is None for p in network.second.parameters()) and network.head.weight.grad is None


def test_an_empty_first_mask_hides_the_image_from_the_second_network() -> None:
    """One logit of −10,000: the second encoder sees black; the first one's skips still tell images apart."""
    network = make(3, 1, depth=2).eval()
    seen: list[torch.Tensor] = []
    network.second.encoder[0].register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        nn.init.zeros_(network.first_head.weight)
        nn.init.constant_(network.first_head.bias, -1e4)
        one, other = network(torch.rand(1, 3, 16, 16)), network(torch.rand(1, 3, 16, 16))
        assert not seen[0].any() and not torch.allclose(one, other)
        for level in network.first.encoder[:-1]:
            level.register_forward_hook(lambda _m, _i, output: output * 0)
        assert torch.equal(network(torch.rand(1, 3, 16, 16)), network(torch.rand(1, 3, 16, 16)))


def test_second_decoder_takes_its_own_skip_then_the_first_encoders() -> None:
    network = make().eval()
    own, firsts, taken = [], [], []
    network.second.encoder[0].register_forward_hook(lambda _m, _i, output: own.append(output))
    network.first.encoder[0].register_forward_hook(lambda _m, _i, output: firsts.append(output))
    network.second.decoder[-1].register_forward_pre_hook(lambda _m, inputs: taken.append(inputs[0]))
    with torch.no_grad():
        network(torch.rand(1, 3, 16, 16))
    assert taken[0].shape[1] == 12
    assert torch.equal(taken[0][:, :4], own[0]) and torch.equal(taken[0][:, 4:8], firsts[0])
    assert not torch.equal(own[0], firsts[0])


# --- parallel ------------------------------------------------------------------------------------------------------


def test_parallel_networks_do_not_chain() -> None:
    """Each one's own logits teach it alone; the mask teaches both."""
    for output, alone in (("aux_1", "whole"), ("aux_2", "local"), ("mask", "")):
        network = make(mode="parallel").train()
        network(torch.rand(2, 3, 32, 32))[output].square().mean().backward()
        reached = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
        assert reached & {"whole", "local"} == ({alone} if alone else {"whole", "local"})


def test_the_global_network_reads_means_of_two_by_two_pixels_and_the_local_one_the_image() -> None:
    network = make(mode="parallel").eval()
    read: dict[str, torch.Tensor] = {}
    for name in ("whole", "local"):
        first = getattr(network, name).encoder[0]
        first.register_forward_pre_hook(lambda _m, inputs, name=name: read.update({name: inputs[0]}))
    image = torch.rand(1, 3, 16, 32)
    network(image)
    assert torch.equal(read["local"], image)
    np.testing.assert_allclose(read["whole"], image.numpy().reshape(1, 3, 8, 2, 16, 2).mean((3, 5)), rtol=1e-6)


def test_the_global_network_sees_twice_as_far() -> None:
    """Depth 2: rows that reach a pixel of each network's last map, by gradient and by hand."""
    network = make(mode="parallel", depth=2, **BARE).double().eval()
    with torch.no_grad():
        for p in network.parameters():
            p.abs_()  # no path cancels another, no ReLU closes
    rows = {}
    for name, pixel in (("local", 32), ("whole", 16)):
        image = torch.rand(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
        maps: list[torch.Tensor] = []
        hook = getattr(network, name).decoder[-1].register_forward_hook(lambda _m, _i, o, maps=maps: maps.append(o))
        network(image)
        hook.remove()
        maps[0][0, 0, pixel, pixel].backward()
        assert image.grad is not None
        seen = torch.nonzero(image.grad.abs().sum((0, 1, 3)) > 0).flatten()
        rows[name] = (int(seen.min()), int(seen.max()))
    # decoder [30, 34] → cells of 2 px [15, 17] → bottleneck [13, 19] → pixels [26, 39] → encoder [24, 41]
    assert rows["local"] == (24, 41)
    # the same 16 rows up in the image of half the size: [14, 18] → [7, 9] → [5, 11] → [10, 23] → [8, 25] → [16, 51]
    assert rows["whole"] == (16, 51)


def test_the_head_reads_both_last_maps() -> None:
    network = make(mode="parallel").eval()
    seen: list[torch.Tensor] = []
    network.head.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(torch.rand(1, 3, 32, 64))
    assert seen[0].shape == (1, 8, 32, 64) and seen[0][:, :4].any() and seen[0][:, 4:].any()


# --- switches, outputs, errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["serial", "parallel"])
@pytest.mark.parametrize("switch", ["residual", "se", "aspp", "attention"])
def test_each_switch_adds_its_parts_alone(mode: str, switch: str) -> None:
    kinds = {"residual": Residual, "se": SqueezeExcite, "aspp": AtrousPyramid, "attention": AttentionGate}
    expected = {
        "residual": 2 * (4 + 3),  # every block of two encoders with a bottleneck and two decoders
        "se": 2 * (2 + 2),  # the two deepest of three levels of each path
        "aspp": 2,
        "attention": 3 + 3 * (2 if mode == "serial" else 1),  # the second decoder's levels have two skips in series
    }
    network = make(depth=4, **{**BARE, switch: True}, mode=mode)
    counts = {name: sum(isinstance(m, kind) for m in network.modules()) for name, kind in kinds.items()}
    assert counts == {name: expected[name] if name == switch else 0 for name in kinds}


def test_dropout_in_the_deep_encoder_levels_and_the_bottlenecks() -> None:
    """0.5 by default, as the report's U-Net."""
    network = models.create("double_unet", width=2)
    found = {name for name, m in network.named_modules() if isinstance(m, nn.Dropout) and m.p == 0.5}
    paths = {".".join(name.split(".")[:3]) for name in found}
    assert paths == {f"{part}.encoder.{level}" for part in ("first", "second") for level in (2, 3, 4)}
    assert len(found) == 6


@pytest.mark.parametrize(("mode", "names"), [("serial", ["mask", "aux_1"]), ("parallel", ["mask", "aux_1", "aux_2"])])
def test_auxiliary_outputs_in_training_only(mode: str, names: list[str]) -> None:
    network = make(mode=mode)
    outputs = network.train()(torch.rand(2, 3, 16, 32))
    assert list(outputs) == names and {tuple(o.shape) for o in outputs.values()} == {(2, 4, 16, 32)}
    assert network.eval()(torch.rand(2, 3, 16, 32)).shape == (2, 4, 16, 32)
    alone = make(mode=mode, deep_supervision=False).train()
    logits = alone(torch.rand(2, 3, 16, 32))
    logits.sum().backward()
    assert logits.shape == (2, 4, 16, 32) and all(p.grad is not None for p in alone.parameters())


@pytest.mark.parametrize("mode", ["serial", "parallel"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_all_switches_train_under_autocast_with_deterministic_algorithms(mode: str, precision: torch.dtype) -> None:
    network = make(mode=mode, attention=True, dropout=0.5).train()
    torch.use_deterministic_algorithms(True)
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            outputs = network(torch.rand(2, 3, 16, 16))
        sum(logits.float().square().mean() for logits in outputs.values()).backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_confident_first_masks_stay_finite() -> None:
    for classes, value in itertools.product((1, 3), (-50.0, 50.0)):
        network = make(3, classes).train()
        nn.init.constant_(network.first_head.bias[:1], value)
        outputs = network(torch.rand(2, 3, 16, 16))
        sum(logits.square().mean() for logits in outputs.values()).backward()
        assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize(("mode", "stride"), [("serial", 4), ("parallel", 8)])
def test_sizes_that_do_not_fit(mode: str, stride: int) -> None:
    network = make(mode=mode)
    with pytest.raises(RunError, match=rf"model double_unet: image size 18 × 16 px is no multiple of {stride}"):
        network(torch.rand(1, 3, 18, 16))
    with pytest.raises(RunError, match="cannot train"):
        network.train()(torch.rand(1, 3, stride, stride))
    assert network.eval()(torch.rand(1, 3, stride, stride)).shape == (1, 4, stride, stride)
    assert network.train()(torch.rand(1, 3, stride, 2 * stride))["mask"].shape == (1, 4, stride, 2 * stride)


@pytest.mark.parametrize(
    "params",
    [
        {"mode": "both"},
        {"width": 0},
        {"depth": 0},
        {"dropout": 1.0},
        {"se_ratio": 0},
        {"aspp_rates": [0]},
        {"product": "x"},
    ],
)
def test_impossible_parameters(params: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(params))) as caught:
        make(**params)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["serial", "parallel"])
def test_one_level_is_enough(mode: str) -> None:
    assert make(mode=mode, depth=1, attention=True).train()(torch.rand(2, 3, 6, 4))["mask"].shape == (2, 4, 6, 4)
