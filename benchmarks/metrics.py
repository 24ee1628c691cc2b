"""Counting and distances beside their peers. Run as ``python -m benchmarks.metrics``.

Confusion counts of 64 chips of 256² px and 4 classes beside torchmetrics', with one thread and with two; BF1 and
Hausdorff distances of two masks, on boundary pixels, beside a distance transform of the whole masks with SciPy and,
where it is installed, beside MONAI. Peers take turns in one process and give equal results; the least of the repeats
counts. Exit status 1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchmetrics.functional.classification as tm
from scipy import ndimage

from pipeline import metrics
from pipeline.metrics.confusion import confusion_counts, confusion_counts_torch

CHIPS, EDGE_PX, CLASSES = 64, 256, 4
TWO = ("other", "own")
COUNT_BOUND = 2.0  # times as fast as torchmetrics
SHAPES = ((256, 8.0), (2000, 40.0))  # edge in pixels, smoothness of the masks' outlines
Array = np.ndarray[Any, Any]


def main() -> None:
    """Print both tables; exit with 1 when a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    missed = not counting(repeats)
    missed |= not distances(max(2, repeats // 3))
    sys.exit("a bound was missed" if missed else 0)


def least(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Seconds of each call, the least of `repeats` after one that does not count, in turns."""
    seconds = dict.fromkeys(calls, float("inf"))
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if repeat:
                seconds[name] = min(seconds[name], time.perf_counter() - begin)
    return seconds


def counting(repeats: int) -> bool:
    """The table of confusion counts, int64 as networks' argmax gives them and uint8; whether the bound is kept."""
    truth, predicted = maps()
    kept = True
    print(f"### confusion counts, {CHIPS} × {EDGE_PX}² px, {CLASSES} classes\n")
    print("| what | labels | threads | ms | torchmetrics / this | bound |\n|:--|:--|--:|--:|--:|:--|")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for dtype in (torch.int64, torch.uint8):
            t, p = truth.to(dtype), predicted.to(dtype)
            calls: dict[str, Callable[[], Any]] = {
                "torchmetrics": lambda t=t, p=p: tm.multiclass_confusion_matrix(p, t, CLASSES, ignore_index=255),
                "torchmetrics, unchecked": lambda t=t, p=p: tm.multiclass_confusion_matrix(
                    p, t, CLASSES, ignore_index=255, validate_args=False
                ),
                "ours, NumPy": lambda t=t, p=p: confusion_counts(t.numpy(), p.numpy(), CLASSES),
                "ours, torch, per chip": lambda t=t, p=p: confusion_counts_torch(t, p, CLASSES),
            }
            peer = calls["torchmetrics"]()
            assert torch.equal(calls["ours, torch, per chip"]().sum(0), peer)
            assert np.array_equal(calls["ours, NumPy"](), peer.numpy())
            seconds = least(calls, repeats)
            fastest = seconds["torchmetrics, unchecked"]
            for name, own in seconds.items():
                bound = ""
                if name == "ours, torch, per chip":
                    fits = fastest / own >= COUNT_BOUND
                    kept &= fits
                    bound = f"≥ {COUNT_BOUND:g} of the unchecked: {'kept' if fits else 'MISSED'}"
                label = str(dtype).removeprefix("torch.")
                print(f"| {name} | {label} | {threads} | {own * 1e3:.1f} | {fastest / own:.2f} | {bound} |", flush=True)
    torch.set_num_threads(1)
    return kept


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Truth of blocks with 5 % ignored, prediction with some 85 % right, [N, H, W] int64."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, CLASSES, (CHIPS, EDGE_PX // 32, EDGE_PX // 32), generator=generator)
    truth = blocks.repeat_interleave(32, 1).repeat_interleave(32, 2)
    noise = torch.randint(0, CLASSES, truth.shape, generator=generator)
    predicted = torch.where(torch.rand(truth.shape, generator=generator) < 0.8, truth, noise)
    truth[torch.rand(truth.shape, generator=generator) < 0.05] = 255
    return truth, predicted


def distances(repeats: int) -> bool:
    """The table of shapes; whether ours is no slower than distance transforms of whole masks, and than MONAI."""
    kept = True
    print("\n### shapes: two maps of two classes\n")
    print("| what | px | boundary px of a class | ms | this / ours | bound |\n|:--|--:|--:|--:|--:|:--|")
    for edge, smooth in SHAPES:
        truth, predicted = (mask(edge, smooth, seed) for seed in (0, 1))
        hausdorff = metrics.create("hausdorff", forms=["hausdorff", "hausdorff_95", "average_hausdorff"], neighbours=4)
        bf1 = metrics.create("boundary_f1")
        calls: dict[str, Callable[[], Any]] = {
            "ours, Hausdorff": lambda t=truth, p=predicted, m=hausdorff: m(t, p, TWO, None),
            "ours, BF1": lambda t=truth, p=predicted, m=bf1: m(t, p, TWO, None),
            "SciPy, whole image": lambda t=truth, p=predicted: whole_image(t, p),
            **monai(truth, predicted),
        }
        found = {name: call() for name, call in calls.items()}
        expected = found["ours, Hausdorff"]["hausdorff_px_own"]
        assert all(np.isclose(value, expected) for value in found.values() if isinstance(value, float)), found
        seconds = least(calls, repeats)
        count = int(sum(edges(array == 1).sum() for array in (truth, predicted)))
        for name, own in seconds.items():
            bound = ""
            if not name.startswith("ours"):
                fits = own >= max(seconds["ours, Hausdorff"], seconds["ours, BF1"])
                kept &= fits
                bound = f"ours no slower: {'kept' if fits else 'MISSED'}"
            ratio = own / seconds["ours, Hausdorff"]
            print(f"| {name} | {edge}² | {count:,} | {own * 1e3:.1f} | {ratio:.2f} | {bound} |", flush=True)
    if not importlib.util.find_spec("monai"):
        print("\nMONAI is not installed: no comparison with it")
    return kept


def mask(edge: int, smooth: float, seed: int) -> Array:
    """A smooth random mask, uint8, 0 at the image's edge."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((edge, edge)), smooth)
    return np.pad((field > 0)[1:-1, 1:-1], 1).astype(np.uint8)


def edges(filled: Array) -> Array:
    """Pixels of a mask that touch another along their edges."""
    found: Array = filled & ~ndimage.binary_erosion(filled, border_value=1)
    return found


def whole_image(truth: Array, predicted: Array) -> float:
    """Hausdorff distances of both classes, the second's given, by a distance transform of the image per direction."""
    found = []
    for label in (0, 1):
        outlines = edges(predicted == label), edges(truth == label)
        there = ndimage.distance_transform_edt(~outlines[1])[outlines[0]].max()
        found.append(max(there, ndimage.distance_transform_edt(~outlines[0])[outlines[1]].max()))
    return float(found[1])


def monai(truth: Array, predicted: Array) -> dict[str, Callable[[], float]]:
    """MONAI's Hausdorff distances of both classes, the second's given, if it is installed."""
    if not importlib.util.find_spec("monai"):
        return {}
    warnings.filterwarnings("ignore", category=FutureWarning)
    from monai.metrics import compute_hausdorff_distance

    tensors = [torch.from_numpy(np.stack([array == 0, array == 1])[None]).float() for array in (predicted, truth)]
    return {"MONAI, edges": lambda: float(compute_hausdorff_distance(*tensors, include_background=True)[0, 1])}


if __name__ == "__main__":
    main()
