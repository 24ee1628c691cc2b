"""Memory: how much there is, networks that cannot fit, and what would have fitted when it ran out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline import models
from pipeline.defaults import FROZEN_TRAIN
from pipeline.errors import RunError
from pipeline.train.engine import train
from pipeline.train.memory import HostMemory, advice, host_memory, network_fits, parts_to_try, ran_out
from tests.support.tiny import a_spec

GB = 10**9


def run_training(region: Path, folder: Path, spec: dict[str, object]) -> None:
    train("x", spec, "code", data=region, out=folder / "out", work=folder / "work", log=lambda _: None)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:       8000 kB\nMemFree: 1 kB\nMemAvailable:   5000 kB\nHugePages_Total: 0\n"}
GROUP = "sys/fs/cgroup"


def group(path: str, limit: str, used: int, inactive: int = 0, active: int = 0) -> dict[str, str]:
    """Files of a control group of version 2."""
    stat = f"anon 1\ninactive_file {inactive}\nactive_file {active}\n"
    folder = f"{GROUP}/{path}".rstrip("/")
    return {f"{folder}/memory.max": limit, f"{folder}/memory.current": str(used), f"{folder}/memory.stat": stat}


def test_memory_of_this_machine_is_what_its_kernel_says() -> None:
    memory = host_memory()
    assert 0 < memory.available <= memory.total
    psutil = pytest.importorskip("psutil")
    assert memory.total <= psutil.virtual_memory().total


def test_memory_without_limits(tmp_path: Path) -> None:
    assert host_memory(write(tmp_path, MEMINFO)) == HostMemory(8000 * 1024, 5000 * 1024)


@pytest.mark.parametrize(
    ("own", "above", "expected"),
    [
        (("max", 10), ("max", 20), HostMemory(8192000, 5120000)),
        (("3000", 1000), ("max", 1000), HostMemory(3000, 2000)),
        (("3000", 1000, 300, 200), ("max", 1000), HostMemory(3000, 2500)),  # cached files can go
        (("3000", 1000), ("2500", 2400), HostMemory(2500, 100)),  # a neighbour in the group above
        (("3000", 4000), ("max", 1), HostMemory(3000, 0)),
    ],
)
def test_limits_of_a_group_and_those_above_it_count(
    tmp_path: Path, own: tuple[str, int], above: tuple[str, int], expected: HostMemory
) -> None:
    files = {"proc/self/cgroup": "0::/jobs/one\n", **group("jobs/one", *own), **group("jobs", *above)}
    assert host_memory(write(tmp_path, MEMINFO | files)) == expected


def test_limits_of_the_first_version_of_groups_count(tmp_path: Path) -> None:
    folder = f"{GROUP}/memory/slurm/job"
    files = {
        "proc/self/cgroup": "5:cpu,cpuacct:/other\n4:memory:/slurm/job\n",
        f"{folder}/memory.limit_in_bytes": "4000",
        f"{folder}/memory.usage_in_bytes": "1500",
        f"{folder}/memory.stat": "cache 5\ntotal_inactive_file 400\ntotal_active_file 100\n",
        f"{GROUP}/memory/memory.limit_in_bytes": "9223372036854771712",
        f"{GROUP}/memory/memory.usage_in_bytes": "7",
        f"{GROUP}/memory/memory.stat": "",
    }
    assert host_memory(write(tmp_path, MEMINFO | files)) == HostMemory(4000, 3000)


def test_which_errors_mean_that_memory_ran_out() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.float32)
    assert ran_out(caught.value)
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, 2**10)
    assert ran_out(caught.value)
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory")) and ran_out(MemoryError())
    for other in (RuntimeError("shapes differ"), ValueError("can't allocate memory"), RunError("x")):
        assert not ran_out(other)


# --- what would have fitted --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_size", "chips", "devices", "sizes"),
    [
        (64, 64, 1, [32, 16, 8, 4, 2, 1]),
        (48, 48, 1, [24, 12, 6, 3, 1]),
        (30, 30, 1, [15, 6, 3, 1]),
        (64, 16, 1, [8, 4, 2, 1]),
        (64, 32, 2, [16, 8, 4, 2, 1]),
        (24, 8, 3, [4, 2, 1]),
        (7, 7, 1, [1]),
        (1, 1, 1, []),
    ],
)
def test_parts_that_are_tried(batch_size: int, chips: int, devices: int, sizes: list[int]) -> None:
    assert parts_to_try(batch_size, chips, devices) == sizes
    assert all(batch_size % size == 0 and batch_size // size % devices == 0 for size in sizes)


def room_for(most: int, error: Exception) -> tuple[Callable[[int], None], list[int]]:
    tried: list[int] = []

    def attempt(chips: int) -> None:
        tried.append(chips)
        if chips > most:
            raise error

    return attempt, tried


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("out"), MemoryError(), RuntimeError("DefaultCPUAllocator: no")]
)
def test_the_advice_is_the_largest_part_that_really_fitted(error: Exception) -> None:
    attempt, tried = room_for(16, error)
    assert str(advice(attempt, 64, 64)) == (
        "the memory ran out with 64 chips at once; 16 fit: set micro_batch: 16 (the batch stays 64)"
    )
    assert tried == [32, 16]


def test_the_advice_where_not_even_one_chip_fits() -> None:
    attempt, tried = room_for(0, MemoryError())
    assert "not even one chip fits" in str(advice(attempt, 4, 4)) and tried == [2, 1]
    assert "with 1 chip at once, and not even one chip fits" in str(advice(attempt, 1, 1))


def test_other_errors_of_an_attempt_are_not_hidden() -> None:
    attempt, _ = room_for(0, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        advice(attempt, 4, 4)


# --- through the engine ------------------------------------------------------------------------------------------


class Greedy(torch.nn.Module):
    """A network for whose backward pass in training mode, or whose forward pass, there is room for so many chips."""

    def __init__(self, most: int, when: str) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 2, 3, padding=1)
        self.most = most
        self.when = when
        self.seen: list[int] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = self.layer(image)
        when = "backward" if self.training else "scoring"
        if self.training:
            self.seen.append(len(image))
        if when == self.when and len(image) > self.most:
            if when == "scoring":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            logits.register_hook(self.refuse)
        return logits

    def refuse(self, gradient: torch.Tensor) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


def greedy(monkeypatch: pytest.MonkeyPatch, most: int, when: str = "backward") -> Greedy:
    network = Greedy(most, when)
    monkeypatch.setattr(models, "create", lambda *_, **__: network)
    return network


@pytest.mark.parametrize(
    ("most", "changes", "words", "tried"),
    [
        (3, {}, "with 8 chips at once; 2 fit: set micro_batch: 2 (the batch stays 8)", [8, 4, 2, 2, 2, 2]),
        (1, {"micro_batch": 4}, "with 4 chips at once; 1 fit: set micro_batch: 1", [4, 2, 1, 1, 1, 1]),
        (0, {}, "with 8 chips at once, and not even one chip fits", [8, 4, 2, 1]),
    ],
)
def test_a_training_that_runs_out_of_memory_says_what_would_have_fitted(
    most: int,
    changes: dict[str, int],
    words: str,
    tried: list[int],
    region: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = greedy(monkeypatch, most)
    with pytest.raises(RunError) as caught:
        run_training(region, tmp_path, a_spec(epochs=1, **changes))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert network.seen == tried
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_other_errors_of_a_step_stay_what_they_are(
    region: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = greedy(monkeypatch, 0)
    monkeypatch.setattr(network, "refuse", lambda gradient: gradient[0])  # of another shape
    with pytest.raises(RuntimeError, match="changed the size"):
        run_training(region, tmp_path, a_spec(epochs=1))


def test_memory_that_runs_out_in_validation_is_one_line(
    region: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    greedy(monkeypatch, 4, "scoring")
    with pytest.raises(RunError, match="the memory ran out while 32 chips at once are scored"):
        run_training(region, tmp_path, a_spec(epochs=1))


def test_a_training_of_a_network_too_large_ends_in_one_line(region: Path, tmp_path: Path) -> None:
    spec = a_spec(epochs=1) | {"model": {"name": "unet", "params": {"width": 2**20, "depth": 2}}}
    with pytest.raises(RunError, match=r"model unet.* GB.*: take a smaller network"):
        run_training(region, tmp_path, spec)


# --- networks that cannot fit ------------------------------------------------------------------------------------


def settings(**changes: object) -> dict[str, object]:
    return FROZEN_TRAIN | {"optimizer": "adam", **changes}


def two_layers() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(10, 20, bias=False), torch.nn.Linear(20, 5, bias=False))


@pytest.mark.parametrize(
    ("changes", "copies"),
    [
        ({}, 2 + 2 + 3),  # weights and gradients, two moments, three kept checkpoints
        ({"optimizer": "rmsprop"}, 2 + 1 + 3),
        ({"optimizer": "sgd"}, 2 + 1 + 3),
        ({"optimizer": "sgd", "momentum": 0.0}, 2 + 3),
        ({"ema": 0.9}, 2 + 2 + 1 + 3),
        ({"checkpoints": ["last"]}, 2 + 2 + 1),
    ],
)
def test_copies_of_the_weights_that_a_training_needs(changes: dict[str, object], copies: int) -> None:
    size = 300 * 4 * copies
    with network_fits("x", settings(**changes), total=size):
        two_layers()
    with (
        pytest.raises(RunError, match=r"model x: more than .* take a smaller network"),
        network_fits("x", settings(**changes), total=size - 1),
    ):
        two_layers()


def test_weights_that_were_replaced_do_not_count() -> None:
    with network_fits("x", settings(), total=300 * 4 * 7):
        for _ in range(5):
            network = two_layers()
            del network


def test_the_hook_is_gone_after_the_block() -> None:
    with pytest.raises(RunError), network_fits("x", settings(), total=1):
        two_layers()
    two_layers()


def test_a_network_too_deep_for_any_machine_ends_in_one_line() -> None:
    with pytest.raises(RunError, match="model unet") as caught, network_fits("unet", settings(), total=GB):
        models.create("unet", 3, 4, depth=12)
    assert "\n" not in str(caught.value) and "billion weights" in str(caught.value)


def test_a_layer_that_cannot_be_had_at_all_is_one_line() -> None:
    with pytest.raises(RunError, match=r"does not fit into .* GB of memory"), network_fits("x", settings()):
        torch.nn.Linear(2**40, 2**20)


def test_other_errors_of_making_a_network_are_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="weights of another kind"), network_fits("x", settings()):
        raise RuntimeError("weights of another kind")
