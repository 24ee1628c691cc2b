"""The processes of a run: who does what, and what they have in common afterwards."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RunError
from pipeline.train.step import parts_of
from pipeline.train.world import World
from tests.support.together import Heads, heads_loss, images, scored

Together = list[dict[str, Any]]
CPU = torch.device("cpu")


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 20), st.integers(1, 5))
def test_parts_cover_a_batch_in_order_and_are_as_many_for_each_device(
    chips: int, batch: int, micro: int, devices: int
) -> None:
    order = np.random.default_rng(0).permutation(chips)
    if min(batch, chips) < devices:
        with pytest.raises(RunError, match=f"cannot be shared by devices: {devices}"):
            parts_of(order, batch, micro, devices)
        return
    steps = parts_of(order, batch, micro, devices)
    size = min(batch, chips)
    assert len(steps) == chips // size
    for number, parts in enumerate(steps):
        assert np.array_equal(np.concatenate([part.at for part in parts]), order[number * size : (number + 1) * size])
        assert [part.number for part in parts] == list(range(len(parts)))
        assert len(parts) % devices == 0 and min(len(part.at) for part in parts) > 0
        shares = [World(CPU, rank, devices).share(parts) for rank in range(devices)]
        assert all(
            [part.number % devices for part in share] == [rank] * len(share) for rank, share in enumerate(shares)
        )


def test_devices_and_parts_of_the_same_size_are_the_same_parts() -> None:
    order = np.arange(64)
    one, two = parts_of(order, 16, 4), parts_of(order, 16, 4, 2)
    halves, apart = parts_of(order, 16, 8), parts_of(order, 16, None, 2)
    for a, b in ((one, two), (halves, apart)):
        assert [[part.at.tolist() for part in step] for step in a] == [
            [part.at.tolist() for part in step] for step in b
        ]


@given(st.integers(0, 500), st.sampled_from([1, 32, 64]), st.integers(1, 6))
def test_spans_are_whole_units_that_follow_each_other(items: int, unit: int, size: int) -> None:
    spans = [World(CPU, rank, size).span(items, unit) for rank in range(size)]
    assert [item for span in spans for item in span] == list(range(items))
    assert all(span.start % unit == 0 for span in spans if len(span))
    units = [math.ceil(len(span) / unit) for span in spans]
    assert max(units) - min(units) <= 1


def test_what_process_0_says_is_agreed_and_sums_are_everybodys(together: Together) -> None:
    for found in (entry["values"] for entry in together):
        assert found["summed"].tolist() == [3, 30]
        assert found["agreed"]["rank"] == 0 and math.isnan(found["agreed"]["nan"])
        assert found["gathered"].tolist() == list(range(70))
        assert found["nobody"].tolist() == [[1, 1]] * 3
        assert found["merged"][[0, 1, 3]].tolist() == [1, 4, 8] and found["merged"][2].isnan()


def test_process_0_goes_first(together: Together) -> None:
    first, second = (entry["values"] for entry in together)
    assert second["entered"] >= first["left"]


@pytest.mark.parametrize(("name", "idle"), [("all", False), ("staged", False), ("idle", True)])
def test_gradients_of_four_parts_are_their_mean_whatever_learns(together: Together, name: str, idle: bool) -> None:
    torch.manual_seed(6)
    network = Heads()
    for parameter in network.body.parameters():
        parameter.requires_grad_(name != "staged")
    for part in range(4):
        (heads_loss(network(images(part, 2, 2, 3, 3).float()), idle) / 4).backward()
    for found in together:
        for key, parameter in network.named_parameters():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradient = found["gradients"][name][key]
            torch.testing.assert_close(torch.zeros_like(parameter) if gradient is None else gradient, expected)


def test_a_split_that_processes_share_has_the_scores_of_one(together: Together) -> None:
    """Batches of the loss stay whole, and so do those of the Jaccard coefficient, which are twice as large."""
    for chips, alone in scored(None).items():
        for shared in (entry["scored"][chips] for entry in together):
            assert torch.equal(shared["counts"], alone["counts"])
            assert shared["loss"] == pytest.approx(alone["loss"], rel=1e-12)
            assert shared["coefficient"] == pytest.approx(alone["coefficient"], rel=1e-12)


def test_one_process_is_asked_for_nothing() -> None:
    world, network = World(CPU), Heads()
    values = torch.tensor([1.0, 2.0])
    assert world.wrap(network) is network
    assert world.summed(values) is values
    assert world.gathered(values, range(2), 2) is values
    assert world.merged(values, torch.tensor([-1, 0])) is values
    assert world.agreed(values) is values
