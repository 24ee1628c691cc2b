"""Every augmentation beside the same done chip by chip on the CPU. Run as ``python -m benchmarks.augment``.

A batch of 32 chips of 128 × 128 px with 3 bands, mask and the signed distances of 4 classes, on the device at hand, in
turns with the peer: scipy.ndimage for what interpolates, torchvision.transforms.v2 for the rest, one chip after the
other in the training process, stacked to a batch. Every chip is changed, by flips three of four. On the CPU one thread
has all, in processor time; on a GPU the clock runs until the device is done. Peers stay on the CPU, as in a plain data
loader.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torchvision import tv_tensors
from torchvision.transforms import v2

from pipeline import augment, variants
from pipeline.augment._transform import Array, Batch, Source
from pipeline.losses._distance import signed_distance

CHIPS, EDGE_PX, BANDS, CLASSES, TOP = 32, 128, 3, 4, 255.0
PARAMS: dict[str, dict[str, Any]] = {"random_crop": {"px": EDGE_PX // 2}, "flips": {"probability": 0.75}}
REPEATS = 7

Job = Callable[[], object]


def chips(device: torch.device) -> tuple[Batch, Source]:
    """The batch, of blobs of some 30 px, on the device, and the training chips that it is drawn from."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(CHIPS, CLASSES, EDGE_PX // 16, EDGE_PX // 16, generator=generator)
    mask = torch.nn.functional.interpolate(noise, size=(EDGE_PX, EDGE_PX), mode="bicubic").argmax(dim=1)
    maps = [torch.from_numpy(signed_distance(one.to(torch.uint8).numpy(), CLASSES)) for one in mask]
    image = torch.rand(CHIPS, BANDS, EDGE_PX, EDGE_PX, generator=generator) * TOP
    batch = {"image": image, "mask": mask, "signed_distance": torch.stack(maps)}
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    counts = np.stack([(mask == k).sum(dim=(1, 2)).numpy() for k in range(CLASSES)], axis=1)

    def take(at: Array) -> Batch:
        rows = torch.from_numpy(at).to(device)
        return {name: tensor[rows] for name, tensor in batch.items()}

    return batch, Source(counts, [f"class_{k}" for k in range(CLASSES)], TOP, take)


def ours(name: str, batch: Batch, source: Source) -> Job:
    """Augmentation `name` on the whole batch."""
    certain = {"probability": 1.0} if "probability" in variants.parameters("augment", name) else {}
    transform = augment.create(name, **{**certain, **PARAMS.get(name, {})})
    transform.begin(source)
    return lambda: transform(batch)


def warped_by_scipy(batch: Batch, max_degrees: float, low: float, high: float) -> Job:
    """Turn and zoom chip by chip about a random place: order 1 for the image, 0 for mask and targets, mirrored."""
    rng = np.random.default_rng(0)
    arrays = {name: tensor.cpu().numpy() for name, tensor in batch.items()}

    def one(number: int) -> list[Array]:
        angle, zoom = math.radians(rng.uniform(-max_degrees, max_degrees)), rng.uniform(low, high)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]) / zoom
        centre = rng.uniform(0, EDGE_PX, 2)
        options: dict[str, Any] = {"matrix": turn, "offset": centre - turn @ centre, "mode": "mirror"}
        planes = [ndimage.affine_transform(band, order=1, **options) for band in arrays["image"][number]]
        flat = [arrays["mask"][number], *arrays["signed_distance"][number]]
        return planes + [ndimage.affine_transform(plane, order=0, **options) for plane in flat]

    return lambda: [np.stack(planes) for planes in zip(*(one(number) for number in range(CHIPS)), strict=True)]


def by_torchvision(batch: Batch, transform: Callable[[Any], Any], image_only: bool = False) -> Job:
    """A transform of torchvision on each chip: its image (0 to 1), and as masks its mask and targets."""
    held = [{name: tensor[number].cpu() for name, tensor in batch.items()} for number in range(CHIPS)]
    pairs = [
        (
            tv_tensors.Image(chip["image"] / TOP),
            tv_tensors.Mask(torch.cat([chip["mask"].unsqueeze(0).float(), chip["signed_distance"]])),
        )
        for chip in held
    ]
    if image_only:
        return lambda: torch.stack([transform(image) for image, _ in pairs])
    return lambda: [torch.stack(parts) for parts in zip(*map(transform, pairs), strict=True)]


def peers(batch: Batch) -> dict[str, tuple[str, Job]]:
    """By augmentation: the package, and the same chip by chip."""
    flips = v2.Compose([v2.RandomHorizontalFlip(0.5), v2.RandomVerticalFlip(0.5)])
    jitter = v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=10 / 360)
    return {
        "flips": ("torchvision", by_torchvision(batch, flips)),
        "rotation": ("scipy", warped_by_scipy(batch, 85.0, 0.25, 1.25)),
        "scale_jitter": ("scipy", warped_by_scipy(batch, 0.0, 0.5, 2.0)),
        "random_crop": ("torchvision", by_torchvision(batch, v2.RandomCrop(EDGE_PX // 2))),
        "colour": ("torchvision", by_torchvision(batch, jitter, image_only=True)),
        "noise": ("torchvision", by_torchvision(batch, v2.GaussianNoise(sigma=0.05), image_only=True)),
        "blur": ("torchvision", by_torchvision(batch, v2.GaussianBlur(17, (0.1, 2.0)), image_only=True)),
    }


def measure(jobs: dict[str, Job], device: torch.device) -> dict[str, float]:
    """Least seconds of every job, in turns, after one run that is not counted."""
    rounds = [{name: _seconds(job, device) for name, job in jobs.items()} for _ in range(REPEATS + 1)]
    return {name: min(taken[name] for taken in rounds[1:]) for name in jobs}


def _seconds(job: Job, device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = clock()
    job()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - begin


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.use_deterministic_algorithms(device.type == "cpu")
    batch, source = chips(device)
    names, others = variants.names("augment"), peers(batch)
    jobs = {name: ours(name, batch, source) for name in names}
    took = measure(jobs | {f"{name} of a peer": job for name, (_, job) in others.items()}, device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else "the CPU, one thread"
    print(f"{CHIPS} chips of {EDGE_PX}² px, {BANDS} bands, mask and {CLASSES} signed distances, on {where}\n")
    print("| augmentation | ms per batch | chip by chip, ms | ratio |\n|---|--:|--:|--:|")
    for name in names:
        beside, ratio = "no peer", ""
        if name in others:
            slow = took[f"{name} of a peer"]
            beside, ratio = f"{others[name][0]} {slow * 1e3:.1f}", f"{slow / took[name]:.1f} ×"
        print(f"| {name} | {took[name] * 1e3:.1f} | {beside} | {ratio} |")


if __name__ == "__main__":
    main()
