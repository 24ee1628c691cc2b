"""What two processes find out together: each is ``python together.py <rank> <size> <folder>`` and saves it."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import distributed, nn

from pipeline.train.inference import Scaler, score_chips
from pipeline.train.objective import Objective
from pipeline.train.sync_norm import CpuSyncBatchNorm, merge_statistics, prepare_norms
from pipeline.train.world import World

Found = dict[str, Any]
CHIPS = (3, 2)  # of the processes, in the checks of the norm
STEPS, PARTS = 3, 4  # in the check of the running statistics
MOMENTUM = 0.3


class NormAct(nn.BatchNorm2d):
    """As timm's: a norm with a dropout and an activation of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.act(self.drop(super().forward(input)))
        return found


class Heads(nn.Module):
    """Two heads on one body; the loss of the check sees the first."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.seen, self.idle = (nn.Conv2d(2, 2, 1) for _ in range(3))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inner = self.body(image).relu()
        return self.seen(inner), self.idle(inner)


def images(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 + 7


def own(whole: torch.Tensor, rank: int) -> torch.Tensor:
    return whole.split(CHIPS)[rank]


def a_norm(norm: nn.Module, image: torch.Tensor, weights: torch.Tensor) -> Found:
    """Output, gradients and running statistics after two calls, the second with other values."""
    torch.manual_seed(1)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)  # type: ignore[arg-type]
    norm(image * 2 - 1)
    image = image.clone().requires_grad_()
    output = norm(image)
    (output * weights).sum().backward()
    return {
        "output": output.detach(),
        "image": image.grad,
        **{name: parameter.grad for name, parameter in norm.named_parameters()},
        **{name: buffer.clone() for name, buffer in norm.named_buffers()},
    }


def norm_double(world: World) -> Found:
    norm = CpuSyncBatchNorm(4, momentum=MOMENTUM).double()
    return a_norm(norm, own(images(2, 5, 4, 3, 6), world.rank), own(images(3, 5, 4, 3, 6), world.rank))


def norm_cumulative(world: World) -> Found:
    norm = CpuSyncBatchNorm(4, momentum=None, affine=True).double()
    return a_norm(norm, own(images(2, 5, 4), world.rank), own(images(3, 5, 4), world.rank))


def norm_channels_last(world: World) -> Found:
    image, weights = (
        own(images(seed, 5, 4, 3, 6), world.rank).float().contiguous(memory_format=torch.channels_last)
        for seed in (2, 3)
    )
    return a_norm(CpuSyncBatchNorm(4, momentum=MOMENTUM), image, weights)


def norm_bf16(world: World) -> Found:
    with torch.autocast("cpu", torch.bfloat16):
        output = CpuSyncBatchNorm(4)(own(images(2, 5, 4, 3, 6), world.rank).bfloat16())
    return {"output": output.detach()}


def norm_of_one_value_each(world: World) -> Found:
    return {"output": CpuSyncBatchNorm(4)(torch.full((1, 4, 1, 1), float(world.rank))).detach()}


def converted(world: World) -> Found:
    torch.manual_seed(4)
    network = nn.Sequential(nn.Conv2d(2, 4, 1), NormAct(4), nn.Sequential(nn.BatchNorm2d(4)))
    plain = copy.deepcopy(network)
    prepare_norms(network, world, True)
    image = images(5, 5, 2, 3, 3).float()
    return {
        "plain": plain(image).detach(),
        "output": network(own(image, world.rank)).detach(),
        "keys": list(network.state_dict()) == list(plain.state_dict()),
        "kinds": [type(layer).__name__ for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)],
    }


def statistics(world: World) -> Found:
    """Running statistics of a plain norm and of a moving average of it, met at the end of an "epoch"."""
    network = nn.Sequential(nn.BatchNorm2d(2, momentum=MOMENTUM), nn.BatchNorm2d(2, momentum=None), nn.BatchNorm2d(2))
    average = copy.deepcopy(network)
    prepare_norms(network, world, False)
    network[2].eval()
    for step in range(STEPS):
        for part in world.share(list(range(PARTS))):
            network(images(step * PARTS + part, 3, 2, 4, 4).float())
        for mine, other in zip(average.buffers(), network.buffers(), strict=True):
            if mine.dtype.is_floating_point:
                mine.lerp_(other, 0.25)
    merge_statistics(network, average, world)
    return {"network": network.state_dict(), "average": average.state_dict()}


def gradients(world: World) -> Found:
    """Of a network that is wrapped twice, with other weights that learn; the second time one head is idle."""
    torch.manual_seed(6)
    network = Heads()
    found: Found = {}
    for name, frozen, idle in (("all", [], False), ("staged", [network.body], False), ("idle", [], True)):
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        for module in frozen:
            module.requires_grad_(False)
        wrapped = world.wrap(network, idle)
        for _ in range(2):
            network.zero_grad()
            for number in range(2):
                with world.without_meeting(wrapped) if number == 0 else nullcontext():
                    part = images(world.rank + 2 * number, 2, 2, 3, 3).float()  # of four
                    (heads_loss(wrapped(part), idle) / 2).backward()
        found[name] = {key: None if p.grad is None else p.grad.clone() for key, p in network.named_parameters()}
        del wrapped
    return found


def heads_loss(outputs: tuple[torch.Tensor, torch.Tensor], idle: bool) -> torch.Tensor:
    seen, other = outputs
    return seen.square().mean() + (0 if idle else other.mean())


class Stub:
    """In the place of a feed: random chips of four classes, some pixels ignored."""

    def __init__(self, chips: int) -> None:
        rng = torch.Generator().manual_seed(8)
        self.images = torch.randn(chips, 3, 6, 6, generator=rng)
        self.masks = torch.randint(0, 5, (chips, 6, 6), generator=rng)
        self.masks[self.masks == 4] = 255
        self.device = torch.device("cpu")
        self.joined = SimpleNamespace(rows={"val": range(chips)}, classes=list("abcd"))

    def batches(self, split: str, positions: Iterable[Any]) -> Iterator[dict[str, torch.Tensor]]:
        for at in positions:
            yield {"image": self.images[at], "mask": self.masks[at]}


def scored(world: World | None) -> Found:
    """Of a network on splits of few and of many chips."""
    torch.manual_seed(9)
    network = nn.Conv2d(3, 4, 3, padding=1)
    scaler = Scaler.of([0.0] * 3, [1.0] * 3, torch.device("cpu"))
    objective = Objective({"name": "jaccard", "params": {}}, 1, torch.device("cpu"))
    found: Found = {}
    for chips in (3, 32, 150, 200):
        outcome = score_chips(network, Stub(chips), "val", scaler, objective, world=world)  # type: ignore[arg-type]
        counts = torch.from_numpy(outcome.counts)
        found[str(chips)] = {"counts": counts, "loss": outcome.loss, "coefficient": outcome.jaccard_coefficient}
    return found


def values(world: World) -> Found:
    mine = torch.tensor([1.0, 2.0, torch.nan, 4.0]) * (world.rank + 1)
    with world.in_turn():
        entered = time.time()
        time.sleep(0.05 if world.first else 0)
        left = time.time()
    span = world.span(70, 32)
    return {
        "summed": world.summed(torch.tensor([1, 10]) * (world.rank + 1)),
        "agreed": world.agreed({"rank": world.rank, "nan": float("nan")}),
        "merged": world.merged(mine, torch.tensor([0, 1, -1, 1])),
        "gathered": world.gathered(torch.arange(70)[span.start : span.stop], span, 70),
        "nobody": world.gathered(torch.zeros(3 * world.rank, 2) + 1, world.span(3, 32), 3),
        "entered": entered,
        "left": left,
    }


CHECKS: list[Callable[[World], Found]] = [
    norm_double,
    norm_cumulative,
    norm_channels_last,
    norm_bf16,
    norm_of_one_value_each,
    converted,
    statistics,
    gradients,
    scored,
    values,
]


def main(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    world = World(torch.device("cpu"), rank, size)
    torch.save({check.__name__: check(world) for check in CHECKS}, folder / f"{rank}.pt")
    world.agreed(None)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
