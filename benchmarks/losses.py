"""Every loss beside a training step: forward and backward on the CPU. Run as ``python -m benchmarks.losses``.

A batch of 8 chips of 256 × 256 px with 4 classes and a step of a U-Net of width 16 (forward, cross entropy, backward,
Adam) on the same batch, in turns, in processor time of one thread, so that what else the machine does weighs little.
Losses that need further outputs of a network are left out. Peers are measured where they are installed. Distances of
the data are measured per chip. Exit status 1 when `lovasz` or `boundary_f1` takes more than 15 % of the step.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch.nn import functional

from pipeline import losses, models, variants

BATCH, CLASSES, EDGE_PX = 8, 4, 256
BOUNDS = {"lovasz": 0.15, "boundary_f1": 0.15}
PARAMS: dict[str, dict[str, Any]] = {"topology": {"weights": "none"}}  # random weights cost the same
BY_CHIP = ("topology",)  # so slow that one chip is measured, for all
REPEATS = 3

Job = Callable[[], object]


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [8, 4, 256, 256] and target of blobs of some 30 px, the logits right at about three pixels of four."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(BATCH, CLASSES, EDGE_PX // 16, EDGE_PX // 16, generator=generator)
    target = functional.interpolate(noise, size=(EDGE_PX, EDGE_PX), mode="bicubic").argmax(dim=1)
    target[:, :, :8] = 255
    onehot = functional.one_hot(target.clamp_max(CLASSES - 1), CLASSES).movedim(-1, 1)
    logits = onehot * 2.0 + torch.randn(onehot.shape, generator=generator)
    return logits.requires_grad_(), target


def step(target: torch.Tensor) -> Job:
    """A training step of the U-Net on the scene's target."""
    network = models.create("unet", in_channels=3, classes=CLASSES, width=16)
    optimizer = torch.optim.Adam(network.parameters())
    image = torch.randn(BATCH, 3, EDGE_PX, EDGE_PX)

    def job() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(network(image), target, ignore_index=255).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return job


def extra_targets(name: str, target: torch.Tensor) -> tuple[dict[str, torch.Tensor], float]:
    """What loss `name` needs besides the mask, and the seconds per chip that deriving it takes."""
    derive = losses.derivations(name, **PARAMS.get(name, {}))
    begin, image = time.process_time(), torch.zeros(3, EDGE_PX, EDGE_PX, dtype=torch.uint8).numpy()
    chips = [mask.to(torch.uint8).numpy() for mask in target]
    found = {
        kind: torch.stack([torch.from_numpy(function(image, chip, CLASSES)) for chip in chips])
        for kind, function in derive.items()
    }
    return found, (time.process_time() - begin) / len(chips)


def job_of(loss: Callable[..., torch.Tensor], logits: torch.Tensor, target: Any) -> Job:
    """Forward and backward of a loss."""

    def job() -> None:
        logits.grad = None
        loss(logits, target).backward()  # type: ignore[no-untyped-call]

    return job


def peers(logits: torch.Tensor, target: torch.Tensor) -> dict[str, dict[str, Job | None]]:
    """By loss, then by package: the equivalents of other libraries; None where the package is not installed."""
    found: dict[str, dict[str, Job | None]] = {}

    def add(package: str, name: str, make: Callable[[], Callable[..., torch.Tensor]], wanted: torch.Tensor) -> None:
        installed = find_spec(package) is not None
        found.setdefault(name, {})[package] = job_of(make(), logits, wanted) if installed else None

    def smp(loss: str) -> Callable[..., torch.Tensor]:
        import segmentation_models_pytorch.losses as library

        made: Callable[..., torch.Tensor] = getattr(library, loss)("multiclass", ignore_index=255)
        return made

    def monai(loss: str) -> Callable[..., torch.Tensor]:
        import monai.losses as library

        made: Callable[..., torch.Tensor] = getattr(library, loss)(softmax=True, to_onehot_y=True)
        return made

    def kornia(loss: str) -> Callable[..., torch.Tensor]:
        import kornia.losses as library

        made: Callable[..., torch.Tensor] = getattr(library, loss)
        return made

    for name, loss in (("lovasz", "LovaszLoss"), ("focal", "FocalLoss")):
        add("segmentation_models_pytorch", name, partial(smp, loss), target)
    known = target.masked_fill(target == 255, 0)
    for name, loss in (
        ("dice", "DiceLoss"),
        ("generalized_dice", "GeneralizedDiceLoss"),
        ("hausdorff", "HausdorffDTLoss"),
    ):
        add("monai", name, partial(monai, loss), known.unsqueeze(1))
    add("kornia", "lovasz", partial(kornia, "lovasz_softmax_loss"), known)
    return found


def ours(logits: torch.Tensor, target: torch.Tensor) -> tuple[dict[str, Job], dict[str, float]]:
    """Jobs of all losses that a network of logits alone can be trained with, and seconds per chip of extra targets."""
    jobs, derived = {}, {}
    for name in variants.names("losses"):
        params = PARAMS.get(name, {})
        needs = losses.needs(name, **params)
        if needs.outputs:
            continue
        chips = 1 if name in BY_CHIP else BATCH
        given, mask = logits.detach()[:chips].requires_grad_(), target[:chips]
        extra, seconds = extra_targets(name, mask) if needs.targets else ({}, 0.0)
        derived.update(dict.fromkeys(needs.targets, seconds))
        jobs[name] = job_of(losses.create(name, **params), given, {"mask": mask, **extra} if extra else mask)
    return jobs, derived


def measure(jobs: dict[str, Job]) -> dict[str, float]:
    """Least processor seconds of every job, in turns, after one run that is not counted."""
    rounds = [{name: _seconds(job) for name, job in jobs.items()} for _ in range(REPEATS + 1)]
    return {name: min(taken[name] for taken in rounds[1:]) * (BATCH if name in BY_CHIP else 1) for name in jobs}


def _seconds(job: Job) -> float:
    begin = time.process_time()
    job()
    return time.process_time() - begin


def main() -> None:
    """Print the table; exit 1 when a bound is missed."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logits, target = scene()
    jobs, derived = ours(logits, target)
    jobs = {"step": step(target), **jobs}
    others = peers(logits, target)
    for name, by_package in others.items():
        jobs |= {f"{name} of {package}": job for package, job in by_package.items() if job is not None}
    took = measure(jobs)

    print(f"One step of a U-Net of width 16, {BATCH} × {EDGE_PX}² px, {CLASSES} classes: {took['step']:.2f} s\n")
    print("| loss | forward and backward, ms | share of the step | bound | peers, ms |\n|---|--:|--:|--:|---|")
    missed = []
    for name in (name for name in jobs if name in variants.names("losses")):
        share, bound = took[name] / took["step"], BOUNDS.get(name)
        missed += [name] if bound is not None and share > bound else []
        beside = [
            f"{package} {took[f'{name} of {package}'] * 1e3:.0f}" if job else f"{package} not installed"
            for package, job in others.get(name, {}).items()
        ]
        limit = "" if bound is None else f"{bound:.0%}"
        print(f"| {name} | {took[name] * 1e3:.0f} | {share:.1%} | {limit} | {', '.join(beside)} |")
    for kind, seconds in derived.items():
        print(f"\n{kind}: {seconds * 1e3:.0f} ms per chip, once before training")
    if missed:
        sys.exit(f"over the bound: {', '.join(missed)}")


if __name__ == "__main__":
    main()
