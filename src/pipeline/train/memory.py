"""How much memory there is, which errors mean that it ran out, and what would have fitted."""

from __future__ import annotations

import gc
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from pipeline.errors import RunError
from pipeline.protocol import LAST

CPU = torch.device("cpu")
OPTIMIZER_COPIES = {"rmsprop": 1, "adam": 2, "adamw": 2, "sgd": 1}  # of the weights, in the optimiser's state
WORDS = (
    "CUDA out of memory",
    "DefaultCPUAllocator",
    "can't allocate memory",
    "size calculation overflowed",
    "multiplication overflow",
)


@dataclass(frozen=True)
class HostMemory:
    """Main memory in bytes, as this process may use it: the machine's, or what its control groups leave of it."""

    total: int
    available: int


def host_memory(root: Path = Path("/")) -> HostMemory:
    """Main memory of this machine; limits of control groups (containers, Slurm) count, and cached files as free.

    Args:
        root: of the file system, for tests.
    """
    try:
        words = [line.split() for line in (root / "proc/meminfo").read_text().splitlines()]
        known = {parts[0]: int(parts[1]) * 1024 for parts in words if len(parts) > 1}
        total, available = known["MemTotal:"], known["MemAvailable:"]
    except (OSError, ValueError, KeyError):
        total = available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit, used in _group_limits(root):
        total, available = min(total, limit), min(available, max(limit - used, 0))
    return HostMemory(total, available)


def _group_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, bytes in use) of this process's control groups and those above them; versions 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file", "active_file")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file")
        else:
            continue
        folder = base / path.strip("/")
        for group in (folder, *folder.parents):
            if group == base.parent:
                break
            found = _group_limit(group, *names)
            if found is not None:
                yield found


def _group_limit(group: Path, limit: str, used: str, *cached: str) -> tuple[int, int] | None:
    try:
        most = int((group / limit).read_text())  # "max" is no number: no limit
        now = int((group / used).read_text())
        words = [line.split() for line in (group / "memory.stat").read_text().splitlines()]
    except (OSError, ValueError):
        return None
    return most, max(now - sum(int(value) for name, value in words if name in cached), 0)


def ran_out(error: BaseException) -> bool:
    """Whether an error says that the memory of a device, or of the machine, ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)


@contextmanager
def network_fits(
    name: str, settings: dict[str, Any], device: torch.device = CPU, total: int | None = None
) -> Iterator[None]:
    """While the block makes a network: RunError as soon as its weights cannot be trained in the device's memory.

    Weights, gradients, the optimiser's state, the moving average and the kept checkpoints are counted, before the
    weights are filled with numbers: an exhausted machine kills the process without a word. What the activations take
    depends on the batch and is not known here.

    Args:
        name: of the network.
        settings: of the run's training.
        device: that will train it.
        total: bytes of its memory; None: as it says itself.
    """
    if total is None:
        total = host_memory().total if device.type == "cpu" else torch.cuda.mem_get_info(device)[1]
    copies = 2 + _state_copies(settings) + (settings["ema"] is not None) + len({*settings["checkpoints"], LAST})
    made: list[weakref.ref[torch.Tensor]] = []
    size = 0

    def count(module: torch.nn.Module, key: str, parameter: torch.nn.Parameter | None) -> None:
        nonlocal size
        if parameter is None or torch.nn.parameter.is_lazy(parameter):
            return
        made.append(weakref.ref(parameter))
        size += parameter.nbytes
        if size * copies > total:  # parts that were replaced since do not count
            alive = {id(weights): weights for ref in made if (weights := ref()) is not None}
            size = sum(weights.nbytes for weights in alive.values())
        if size * copies > total:
            raise RunError(
                f"model {name}: more than {size / 4e9:.1f} billion weights, {size * copies / 1e9:.0f} GB with "
                f"gradients, the state of {settings['optimizer']} and checkpoints; the device has {total / 1e9:.0f} "
                "GB: take a smaller network"
            )

    filling: Any = torch.utils.deterministic
    fills, filling.fill_uninitialized_memory = (
        filling.fill_uninitialized_memory,
        False,
    )  # memory is taken up when it is written to
    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise RunError(
            f"model {name} does not fit into {total / 1e9:.0f} GB of memory: take a smaller network"
        ) from None
    finally:
        hook.remove()
        filling.fill_uninitialized_memory = fills


def _state_copies(settings: dict[str, Any]) -> int:
    return 0 if settings["optimizer"] == "sgd" and not settings["momentum"] else OPTIMIZER_COPIES[settings["optimizer"]]


@contextmanager
def told(work: str) -> Iterator[None]:
    """RunError where the memory runs out in the block, which does `work`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise RunError(
            f"the memory ran out while {work}: let fewer runs share the device (runs_per_gpu), or take a smaller "
            "network or smaller chips"
        ) from None


def free() -> None:
    """Give back what no tensor needs: collected garbage, compiled graphs and their pools, the allocator's cache."""
    gc.collect()
    if "torch._dynamo" in sys.modules:  # which takes seconds to load
        torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def parts_to_try(batch_size: int, chips: int, devices: int = 1) -> list[int]:
    """Sizes of a part that ``micro_batch`` could be, falling, each at most half of the one before.

    Args:
        batch_size: which each must divide into as many parts for every device.
        chips: of the part that did not fit.
        devices: of the run.
    """
    sizes: list[int] = []
    most = chips // 2
    for size in range(most, 0, -1):
        if size <= most and batch_size % size == 0 and (batch_size // size) % devices == 0:
            sizes.append(size)
            most = size // 2
    return sizes


def advice(attempt: Callable[[int], None], batch_size: int, chips: int, devices: int = 1) -> RunError:
    """What to say of a step that ran out of memory with `chips` chips at once, by trying smaller parts.

    Args:
        attempt: take a step with parts of so many chips; raises what `ran_out` knows where they do not fit.
        batch_size: of the run.
        chips: that did not fit.
        devices: of the run.
    """
    for size in parts_to_try(batch_size, chips, devices):
        free()
        try:
            attempt(size)
        except (MemoryError, RuntimeError) as error:
            if not ran_out(error):
                raise
        else:
            return RunError(
                f"the memory ran out with {_chips(chips)} at once; {size} fit: set micro_batch: {size} "
                f"(the batch stays {batch_size})"
            )
    return RunError(
        f"the memory ran out with {_chips(chips)} at once, and not even one chip fits: take a smaller network or "
        "smaller chips, or let fewer runs share the device (runs_per_gpu)"
    )


def _chips(number: int) -> str:
    return f"{number} chip{'s' * (number != 1)}"
