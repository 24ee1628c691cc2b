"""The papers' optimisers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

GUARDED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")  # against torch.compile


def make_optimizer(model: torch.nn.Module, settings: dict[str, Any], device: torch.device) -> torch.optim.Optimizer:
    """The optimiser that a run's settings name, over all parameters that learn; fused on a GPU where torch has it.

    RMSprop has ρ 0.9 and ε 1e-7, as the Frankfurt report's; Adam and AdamW β 0.9 and 0.999, ε 1e-8; SGD the run's
    `momentum`.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    common: dict[str, Any] = {"lr": settings["lr"], "weight_decay": settings["weight_decay"]}
    gpu = device.type == "cuda"
    if settings["optimizer"] == "rmsprop":
        return _light(torch.optim.RMSprop)(parameters, alpha=0.9, eps=1e-7, foreach=gpu, **common)
    if gpu:
        common["fused"] = True
    if settings["optimizer"] == "sgd":
        return _light(torch.optim.SGD)(parameters, momentum=settings["momentum"], **common)
    return _light(torch.optim.AdamW if settings["optimizer"] == "adamw" else torch.optim.Adam)(parameters, **common)


def _light(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """An optimiser's class without what keeps torch.compile out of its methods.

    That imports the compiler, a second of every start, and nothing here compiles an optimiser. A step is taken without
    gradients, as torch takes it.
    """
    plain = {name: inspect.unwrap(getattr(kind, name)) for name in GUARDED}
    return type(kind.__name__, (kind,), {**plain, "step": torch.no_grad()(inspect.unwrap(kind.step))})
