"""Batch norm of two processes against that of one over all their chips: values, gradients, running statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pipeline.errors import RunError
from pipeline.train.sync_norm import CpuSyncBatchNorm, prepare_norms
from pipeline.train.world import World
from tests.support.together import MOMENTUM, PARTS, STEPS, a_norm, images

Together = list[dict[str, Any]]
CPU = torch.device("cpu")


def check(together: Together, name: str, reference: nn.Module, shape: tuple[int, ...], tolerance: float) -> None:
    dtype = next(reference.parameters()).dtype
    whole = a_norm(reference, images(2, 5, *shape).to(dtype), images(3, 5, *shape).to(dtype))
    for key in ("output", "image"):
        joint = torch.cat([found[name][key] for found in together])
        torch.testing.assert_close(joint, whole[key], rtol=tolerance, atol=tolerance)
    for key in ("weight", "bias"):  # each process has the part of its own chips
        joint = together[0][name][key] + together[1][name][key]
        torch.testing.assert_close(joint, whole[key], rtol=tolerance, atol=tolerance)
    for found in together:
        for key in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(found[name][key], whole[key], rtol=tolerance, atol=tolerance)


def test_values_and_gradients_are_those_of_one_norm_over_all_chips(together: Together) -> None:
    check(together, "norm_double", nn.BatchNorm2d(4, momentum=MOMENTUM).double(), (4, 3, 6), 1e-10)


def test_a_cumulative_average_of_other_than_images(together: Together) -> None:
    check(together, "norm_cumulative", nn.BatchNorm1d(4, momentum=None).double(), (4,), 1e-10)


def test_channels_last_in_float32_stays_channels_last(together: Together) -> None:
    check(together, "norm_channels_last", nn.BatchNorm2d(4, momentum=MOMENTUM), (4, 3, 6), 2e-5)
    for found in together:
        assert found["norm_channels_last"]["output"].is_contiguous(memory_format=torch.channels_last)


def test_bf16_goes_in_and_out_while_the_statistics_are_exact(together: Together) -> None:
    joint = torch.cat([found["norm_bf16"]["output"] for found in together])
    assert joint.dtype == torch.bfloat16
    expected = nn.BatchNorm2d(4)(images(2, 5, 4, 3, 6).bfloat16().float())
    torch.testing.assert_close(joint.float(), expected, rtol=2e-2, atol=2e-2)


def test_one_value_per_channel_and_process_is_enough_in_two(together: Together) -> None:
    values = torch.cat([found["norm_of_one_value_each"]["output"] for found in together]).flatten(1)
    torch.testing.assert_close(values, torch.tensor([[-1.0], [1.0]]).expand(2, 4), rtol=1e-4, atol=1e-4)


def test_a_single_value_per_channel_is_refused_as_torch_refuses_it(tmp_path: Any) -> None:
    from torch import distributed

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/alone", rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            CpuSyncBatchNorm(4)(torch.zeros(1, 4, 1, 1))
    finally:
        distributed.destroy_process_group()


def test_a_network_is_converted_with_its_activations_and_its_names(together: Together) -> None:
    joint = torch.cat([found["converted"]["output"] for found in together])
    torch.testing.assert_close(joint, together[0]["converted"]["plain"], rtol=1e-5, atol=1e-5)
    assert all(found["converted"]["keys"] for found in together)
    assert together[0]["converted"]["kinds"] == []


def test_a_gpu_gets_torchs_own_layer_with_the_activation_of_the_old_one() -> None:
    from tests.support.together import NormAct

    network = nn.Sequential(nn.BatchNorm2d(4), NormAct(4), nn.Conv2d(4, 4, 1))
    act, weight, keys = network[1].act, network[0].weight, list(network.state_dict())
    prepare_norms(network, World(torch.device("cuda", 0), 0, 2), True)
    assert type(network[0]) is nn.SyncBatchNorm and network[0].weight is weight
    assert isinstance(network[1], nn.SyncBatchNorm) and network[1].act is act
    assert list(network.state_dict()) == keys
    network.eval()
    image = torch.randn(2, 4, 3, 3)
    assert (network[1](image) == image.relu() / (1 + 1e-5) ** 0.5).all()


def test_a_norm_of_another_kind_is_one_line() -> None:
    class Own(nn.BatchNorm2d):
        pass

    with pytest.raises(RunError, match="cannot synchronise a layer Own"):
        prepare_norms(nn.Sequential(Own(3)), World(CPU, 0, 2), True)


def test_one_process_has_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3, momentum=0.2))
    for synchronised in (True, False):
        prepare_norms(network, World(CPU), synchronised)
        assert type(network[0]) is nn.BatchNorm2d and network[0].momentum == 0.2


def test_plain_norms_end_an_epoch_as_one_process_would_after_the_same_parts(together: Together) -> None:
    network = nn.Sequential(nn.BatchNorm2d(2, momentum=MOMENTUM), nn.BatchNorm2d(2, momentum=None), nn.BatchNorm2d(2))
    average = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network[2].eval()
    for step in range(STEPS):
        for part in range(PARTS):
            network(images(step * PARTS + part, 3, 2, 4, 4).float())
        for name, buffer in network.named_buffers():
            if buffer.dtype.is_floating_point:
                average[name] = average[name].lerp(buffer, 0.25)
    for found in together:
        for name, buffer in network.named_buffers():
            if buffer.dtype.is_floating_point:
                torch.testing.assert_close(found["statistics"]["network"][name], buffer, rtol=1e-5, atol=1e-6)
                if not name.startswith("1."):  # a cumulative average of the norm changes its rate with every part
                    torch.testing.assert_close(
                        found["statistics"]["average"][name], average[name], rtol=1e-5, atol=1e-6
                    )
        assert (found["statistics"]["network"]["2.running_mean"] == 0).all()
    for name in ("network", "average"):
        one, other = (found["statistics"][name] for found in together)
        assert all(torch.equal(one[key], other[key]) for key in one if "running" in key)
