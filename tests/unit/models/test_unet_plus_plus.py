"""U-Net++ against the paper's wiring, parameter count and modes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import models
from pipeline.errors import ConfigError, RunError
from pipeline.models.unet_plus_plus import mean_logits


def make(classes: int = 3, depth: int = 4, **params: object) -> nn.Module:
    torch.manual_seed(0)
    return models.create("unet_plus_plus", 3, classes, width=4, depth=depth, **params)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def expected_parameters(width: int, depth: int, bands: int, classes: int, norm: bool, heads: int) -> int:
    """Counted by hand: two 3×3 convolutions per node, a 2×2 more and j skips for j > 0."""
    total = heads * (width * classes + classes)
    for i in range(depth):
        own = width * 2**i
        for j in range(depth - i):
            before = (j + 1) * own if j else own // 2 if i else bands
            total += 9 * before * own + own + 9 * own * own + own + 4 * own * norm
            total += (4 * 2 * own * own + own) * (j > 0)
    return total


def test_the_papers_parameter_count() -> None:
    """9.04 M in Zhou et al., of one logit and without batch norm."""
    assert expected_parameters(32, 5, 3, 1, False, 1) == 9_042_177
    with torch.device("meta"):
        assert parameters(models.create("unet_plus_plus", 3, 1, batch_norm=False)) == 9_042_177
        assert parameters(models.create("unet_plus_plus", 3, 4)) == 9_049_572
    assert expected_parameters(32, 5, 3, 4, True, 1) == 9_049_572


@pytest.mark.parametrize(("width", "depth", "norm", "supervised"), [(4, 2, True, True), (6, 4, False, True)])
def test_parameter_counts_of_other_sizes(width: int, depth: int, norm: bool, supervised: bool) -> None:
    params = {"width": width, "depth": depth, "batch_norm": norm, "deep_supervision": supervised}
    assert parameters(models.create("unet_plus_plus", 2, 3, **params)) == expected_parameters(
        width, depth, 2, 3, norm, depth - 1 if supervised else 1
    )


def test_every_node_takes_all_before_it_in_its_row_and_the_one_below() -> None:
    network = make().eval()
    found: dict[str, torch.Tensor] = {}
    taken: dict[str, torch.Tensor] = {}
    lifted: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for name, node in network.node.items():
        node.register_forward_pre_hook(lambda _m, inputs, name=name: taken.__setitem__(name, inputs[0]))
        node.register_forward_hook(lambda _m, _i, output, name=name: found.__setitem__(name, output))
    for name, up in network.up.items():
        up.register_forward_hook(lambda _m, inputs, output, name=name: lifted.__setitem__(name, (inputs[0], output)))
    image = torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        network(image)
    assert len(found) == 10 and len(lifted) == 6
    assert torch.equal(taken["0_0"], image)
    for i in range(1, 4):
        assert torch.equal(taken[f"{i}_0"], nn.functional.max_pool2d(found[f"{i - 1}_0"], 2))
    for i in range(4):
        for j in range(1, 4 - i):
            below, up = lifted[f"{i}_{j}"]
            assert torch.equal(below, found[f"{i + 1}_{j - 1}"])
            assert torch.equal(taken[f"{i}_{j}"], torch.cat([*(found[f"{i}_{k}"] for k in range(j)), up], dim=1))


def test_one_head_reads_the_last_node() -> None:
    network = make().train()
    assert len(network.heads) == 1
    seen: list[torch.Tensor] = []
    network.node["0_3"].register_forward_hook(lambda _m, _i, output: seen.append(output))
    logits = network(torch.rand(2, 3, 16, 16))
    assert torch.equal(logits, network.heads[0](seen[0]))


def test_deep_supervision_gives_a_dict_in_training_only() -> None:
    network = make(deep_supervision=True).train()
    outputs = network(torch.rand(2, 3, 16, 24))
    assert list(outputs) == ["mask", "aux_1", "aux_2"]
    assert {tuple(logits.shape) for logits in outputs.values()} == {(2, 3, 16, 24)}
    assert network.eval()(torch.rand(2, 3, 16, 24)).shape == (2, 3, 16, 24)
    outputs["aux_1"].sum().backward()
    learning = {name for name, node in network.node.items() if next(node.parameters()).grad is not None}
    assert learning == {"0_0", "1_0", "0_1"}


def heads_of(network: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """Logits of X(0, 1), X(0, 2), … in eval mode."""
    seen: list[torch.Tensor] = []
    hooks = [head.register_forward_hook(lambda _m, _i, output: seen.append(output)) for head in network.heads]
    network(image)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("classes", [1, 3])
@torch.no_grad()
def test_accurate_mode_is_the_mean_of_the_heads_probabilities(classes: int) -> None:
    network, image = make(classes, deep_supervision=True).double().eval(), torch.rand(2, 3, 16, 16).double()
    heads = [head.numpy() for head in heads_of(network, image)]
    assert len(heads) == 3 and not np.allclose(heads[0], heads[2])
    found = network(image)
    if classes == 1:
        expected = np.mean([1 / (1 + np.exp(-head)) for head in heads], axis=0)
        found = found.sigmoid()
    else:
        powers = [np.exp(head - head.max(1, keepdims=True)) for head in heads]
        expected = np.mean([power / power.sum(1, keepdims=True) for power in powers], axis=0)
        found = found.softmax(dim=1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("classes", [1, 2])
def test_mean_of_confident_heads_is_finite(classes: int) -> None:
    sure = torch.full((1, classes, 1, 1), 50.0)
    sure[:, 0] = -50
    agree, differ = mean_logits([sure, sure]), mean_logits([sure, -sure])
    assert torch.isfinite(agree).all() and torch.isfinite(differ).all()
    probability = differ.sigmoid() if classes == 1 else differ.softmax(dim=1)
    torch.testing.assert_close(probability, torch.full_like(probability, 0.5))
    expected = sure if classes == 1 else sure - 50
    torch.testing.assert_close(agree, expected)
    assert mean_logits([sure.half(), sure.half()]).dtype == torch.float32


@pytest.mark.parametrize("branch", [1, 2, 3])
@torch.no_grad()
def test_fast_mode_is_one_head_and_computes_no_more(branch: int) -> None:
    whole, fast = make(deep_supervision=True).eval(), make(deep_supervision=True, branch=branch)
    image = torch.rand(1, 3, 16, 16)
    assert fast.train()(image.repeat(2, 1, 1, 1)).keys() == {"mask", "aux_1", "aux_2"}
    fast.load_state_dict(whole.state_dict())
    fast.eval()
    ran: set[str] = set()
    for name, node in fast.node.items():
        node.register_forward_hook(lambda _m, _i, _o, name=name: ran.add(name))
    assert torch.equal(fast(image), heads_of(whole, image)[branch - 1])
    assert ran == {f"{i}_{j}" for i in range(4) for j in range(4) if i + j <= branch}


def test_dropout_ends_every_block_and_batch_norm_can_be_left_out() -> None:
    network = make(dropout=0.3, batch_norm=False)
    assert all(isinstance(node[-1], nn.Dropout) and node[-1].p == 0.3 for node in network.node.values())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    norms = [m for m in make(bn_momentum=0.2, bn_eps=1e-4).modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 20 and {(m.momentum, m.eps) for m in norms} == {(0.2, 1e-4)}


@pytest.mark.parametrize(
    "params", [{"branch": 4, "deep_supervision": True}, {"branch": -1}, {"branch": 1}, {"depth": 1}]
)
def test_impossible_parameters(params: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(params))) as caught:
        make(**params)
    assert "\n" not in str(caught.value)


def test_sizes_and_batches_that_do_not_fit() -> None:
    with pytest.raises(RunError, match="20 × 16 px is no multiple of 8"):
        make()(torch.rand(1, 3, 20, 16))
    with pytest.raises(RunError, match="8 × 8 px cannot train"):
        make().train()(torch.rand(1, 3, 8, 8))
    assert make(batch_norm=False).train()(torch.rand(1, 3, 8, 8)).shape == (1, 3, 8, 8)


def test_grey_images_of_64_by_128_px() -> None:
    network = models.create("unet_plus_plus", 1, 5, width=2)
    assert network.train()(torch.rand(2, 1, 64, 128)).shape == (2, 5, 64, 128)
