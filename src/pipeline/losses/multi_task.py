"""The multi-task loss of ResUNet-a (Diakogiannis et al. 2020): mask, boundaries, distances and colours at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pipeline.errors import ConfigError, RunError
from pipeline.losses._overlap import tanimoto
from pipeline.losses._tasks import boundary, colour, distance
from pipeline.losses.target import IGNORE, check_weights, probabilities, weights_of

OUTPUTS = ("mask", "boundary", "distance", "colour")
TARGETS = ("boundary", "distance", "colour")
OWN_WEIGHTS = True
DERIVE = {
    "boundary": lambda image, mask, classes: boundary(mask, classes),
    "distance": lambda image, mask, classes: distance(mask, classes),
    "colour": lambda image, mask, classes: colour(image),
}


def build(
    *,
    task_weights: list[float] | None = None,
    smooth: float = 1e-5,
    class_weights: list[float] | None = None,
    ignore_index: int = 255,
) -> nn.Module:
    """Multi-task loss L = Σ_t v_t L_t / Σ_t v_t over the tasks t: mask, boundary, distance, colour.

    Every L_t is the Tanimoto loss with complement, 1 − (T(p, l) + T(1 − p, 1 − l)) / 2 with volume weights, see
    `tanimoto`. The network gives logits for all four; p is the softmax of the mask's and the distance's, which add up
    to 1 over the classes, and the sigmoid of the boundary's, since boundaries of classes are not exclusive, and the
    colour's. With one logit all are sigmoids. The paper says neither mean nor sum of the tasks: ours is the mean.

    Args:
        task_weights: v of mask, boundary, distance and colour; None weighs all alike.
        smooth: s of `tanimoto`, above 0.
        class_weights: a factor per class of the volume weights of mask, boundary and distance.
        ignore_index: one more value of the mask that is ignored, besides 255; no task counts ignored pixels.

    Raises:
        ConfigError: when s is not above 0 or weights are below 0 or not four.
    """
    if smooth <= 0:
        raise ConfigError(f"loss multi_task: smooth {smooth} is not above 0")
    tasks = _task_weights(task_weights)
    return MultiTask(tasks, smooth, check_weights("multi_task", class_weights), ignore_index)


def _task_weights(given: Sequence[float] | None) -> tuple[float, ...]:
    if given is None:
        return (1.0,) * len(OUTPUTS)
    try:
        weights = check_weights("multi_task", given)
    except ConfigError:
        weights = None
    if weights is None or len(weights) != len(OUTPUTS):
        raise ConfigError(
            f"loss multi_task: task_weights must be {len(OUTPUTS)} finite numbers of 0 or more, one of them above 0, "
            f"for {', '.join(OUTPUTS)}; got {given}"
        )
    return weights


class MultiTask(nn.Module):
    """The module behind `build`."""

    def __init__(
        self,
        task_weights: Sequence[float],
        smooth: float,
        class_weights: Sequence[float] | None,
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__()
        self.task_weights = tuple(task_weights)
        self.smooth = smooth
        self.class_weights = class_weights
        self.ignore_index = ignore_index

    def forward(self, outputs: dict[str, torch.Tensor], target: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the scalar loss.

        Args:
            outputs: logits: "mask", "boundary" and "distance" [N, C, H, W], "colour" [N, 3, H, W].
            target: "mask" [N, H, W] int64; "boundary" and "distance" [N, C, H, W], "colour" [N, 3, H, W] in 0 to 1.

        Raises:
            RunError: when an output is missing or a shape does not fit.
        """
        _check_keys(outputs, target)
        logits = outputs["mask"]
        with torch.autocast(logits.device.type, enabled=False):
            probability, truth, mask = probabilities(logits, target["mask"], self.ignore_index)
            _check_shapes(outputs, target)
            weights = weights_of("multi_task", self.class_weights, logits.shape[1], probability, per_pixel=False)
            total = torch.zeros((), dtype=probability.dtype, device=logits.device)
            for task, share in zip(OUTPUTS, self.task_weights, strict=True):
                if task != "mask":
                    probability, truth = _activated(task, outputs[task]), target[task]
                own = None if task == "colour" else weights
                dtype = total.dtype
                term = tanimoto(probability.to(dtype), truth.to(dtype), mask, smooth=self.smooth, class_weights=own)
                total = total + share * term
            return total / sum(self.task_weights)


def _activated(task: str, logits: torch.Tensor) -> torch.Tensor:
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return logits.softmax(dim=1) if task == "distance" and logits.shape[1] > 1 else logits.sigmoid()


def _check_keys(outputs: object, target: object) -> None:
    missing = [task for task in TARGETS if not isinstance(outputs, dict) or task not in outputs]
    if missing:
        raise RunError(
            f"loss multi_task: the network gives no {' and no '.join(missing)} logits; take a model with these heads, "
            "such as resunet_a with head: cmtsk or mtsk"
        )
    lacking = [task for task in OUTPUTS if not isinstance(target, dict) or task not in target]
    if lacking:
        raise RunError(f"loss multi_task: the target has no {' and no '.join(lacking)}; see dataset/targets.py")


def _check_shapes(outputs: dict[str, torch.Tensor], target: dict[str, torch.Tensor]) -> None:
    samples, classes, *size = outputs["mask"].shape
    for task in TARGETS:
        wanted = (samples, 3 if task == "colour" else classes, *size)
        for kind, tensor in (("logits", outputs[task]), ("target", target[task])):
            if tensor.shape != wanted:
                raise RunError(f"loss multi_task: {kind} of {task} are {list(tensor.shape)}, not {list(wanted)}")
