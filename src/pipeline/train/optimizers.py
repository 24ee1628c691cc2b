"""The papers' optimisers."""

from __future__ import annotations

from typing import Any

import torch


def make_optimizer(model: torch.nn.Module, settings: dict[str, Any], device: torch.device) -> torch.optim.Optimizer:
    """The optimiser that a run's settings name, over all parameters that learn; fused on a GPU where torch has it.

    RMSprop has ρ 0.9 and ε 1e-7, as the Frankfurt report's; Adam and AdamW β 0.9 and 0.999, ε 1e-8; SGD the run's
    `momentum`.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    common: dict[str, Any] = {"lr": settings["lr"], "weight_decay": settings["weight_decay"]}
    gpu = device.type == "cuda"
    if settings["optimizer"] == "rmsprop":
        return torch.optim.RMSprop(parameters, alpha=0.9, eps=1e-7, foreach=gpu, **common)
    if gpu:
        common["fused"] = True
    if settings["optimizer"] == "sgd":
        return torch.optim.SGD(parameters, momentum=settings["momentum"], **common)
    kind = torch.optim.AdamW if settings["optimizer"] == "adamw" else torch.optim.Adam
    return kind(parameters, **common)
