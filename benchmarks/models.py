"""Every network: parameters, multiply-adds at 256², images per second and training steps on this machine.

A Markdown table; nothing is bounded, since seconds are the machine's. Multiply-adds are those of convolutions and
matrix products. A GPU measures in bf16 autocast. The peak of memory is that of a training step and all that it works
on: on a GPU what torch allocated, on a CPU what a process of the network's own took beyond torch.

    .venv/bin/python -m benchmarks.models [unet resunet_a …] [--threads 2] [--seconds 2] [--compile]
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline import models, variants
from pipeline.errors import ConfigError

SIDE_PX, BANDS, CLASSES = 256, 3, 4
BATCH = {"cpu": 2, "cuda": 16}
LIBRARY = "segmentation_models_pytorch"
PATIENCE_S = 12.0  # a training step that would take longer is not measured
FURTHER: dict[str, list[dict[str, Any]]] = {  # besides each variant's defaults
    "resunet_a": [
        {"head": "mtsk"},
        {"head": "cmtsk"},
        {"depth": "d7v1"},
        {"depth": "d7v2"},
        {"depth": "d7v2", "head": "cmtsk"},
    ],
    "double_unet": [{"mode": "parallel"}],
    "smp": [
        {"encoder": "vgg16"},
        {"encoder": "densenet121"},
        {"encoder": "inceptionresnetv2"},
        {"arch": "DeepLabV3Plus", "encoder": "resnet34"},
        {"arch": "UPerNet", "encoder": "tu-swin_tiny_patch4_window7_224"},
        {"arch": "UPerNet", "encoder": "tu-convnext_tiny"},
    ],
}


@dataclass(frozen=True)
class Measured:
    """A row of the table; None where a step would have taken too long."""

    parameters: int
    multiply_adds: int
    images_per_s: float
    trained_per_s: float | None
    peak_bytes: int | None


def entries(names: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """Networks and parameters to measure: those of `names`, else all whose package is installed."""
    there = importlib.util.find_spec(LIBRARY) is not None
    chosen = names or [name for name in variants.names("models") if name != "smp" or there]
    return [(name, params) for name in chosen for params in [{}, *FURTHER.get(name, [])]]


def work(name: str, params: dict[str, Any]) -> tuple[int, int]:
    """Trainable parameters and multiply-adds of one image, counted without any arithmetic."""
    with torch.device("meta"), torch.no_grad():
        network = models.create(name, BANDS, CLASSES, **params).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, BANDS, SIDE_PX, SIDE_PX))
    trainable = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return trainable, counter.get_total_flops() // 2


def per_second(call: Callable[[], object], images: int, device: torch.device, seconds: float) -> float:
    """Images per second of `call` after one call to warm up, in about `seconds`; the fastest call counts."""

    def once() -> float:
        begin = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    first, end = once(), time.perf_counter() + seconds
    if first > PATIENCE_S:
        return images / first
    best = once()
    while time.perf_counter() < end:
        best = min(best, once())
    return images / best


def measure(name: str, params: dict[str, Any], device: torch.device, seconds: float, compiled: bool) -> Measured:
    """Count and time one network: forward in eval mode, then a training step with Adam and the cross entropy."""
    parameters, multiply_adds = work(name, params)
    torch.manual_seed(0)
    count = BATCH[device.type]
    network = models.create(name, BANDS, CLASSES, **params).to(device, memory_format=torch.channels_last)
    images = torch.rand(count, BANDS, SIDE_PX, SIDE_PX, device=device).to(memory_format=torch.channels_last)
    target = torch.randint(0, CLASSES, (count, SIDE_PX, SIDE_PX), device=device)
    optimizer = torch.optim.Adam(network.parameters())
    called = torch.compile(network) if compiled else network

    def forward() -> None:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            called(images)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            outputs = called(images)
            heads = list(outputs.values()) if isinstance(outputs, dict) else [outputs]
            loss = torch.nn.functional.cross_entropy(heads[0].float(), target)
            loss = loss + sum(head.float().square().mean() for head in heads[1:])
        loss.backward()
        optimizer.step()

    network.eval()
    forwards = per_second(forward, count, device, seconds)
    trained = None
    if 4 * count / forwards < PATIENCE_S:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        network.train()
        trained = per_second(step, count, device, seconds)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" and trained else None
    return Measured(parameters, multiply_adds, forwards, trained, peak)


def rate(value: float | None) -> str:
    """Three digits; a dash for what was not measured."""
    return "–" if value is None else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def measured_apart(name: str, params: dict[str, Any], threads: int, seconds: float, compiled: bool) -> Measured:
    """`measure` on the CPU in a process of its own, whose peak of memory begins with this one's size."""
    context = multiprocessing.get_context("fork")  # torch is there at once; this process computes nothing
    connection, other = context.Pipe(duplex=False)

    def job() -> None:
        torch.set_num_threads(threads)
        before = resident_bytes("VmRSS")
        row = measure(name, params, torch.device("cpu"), seconds, compiled)
        other.send(replace(row, peak_bytes=resident_bytes("VmHWM") - before if row.trained_per_s else None))

    process = context.Process(target=job)
    process.start()
    other.close()
    try:
        row: Measured = connection.recv()
    except EOFError:
        raise SystemExit(f"{label(name, params)}: its process ended without a result") from None
    process.join()
    return row


def resident_bytes(field: str) -> int:
    """This process's resident memory: VmRSS, or VmHWM for the peak."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) * 1024


def label(name: str, params: dict[str, Any]) -> str:
    """The entry as a study writes it."""
    return (
        f"`{name}`" if not params else f"`{name}: {{{', '.join(f'{key}: {value}' for key, value in params.items())}}}`"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="variants of src/pipeline/models/; default: all")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of the CPU")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--compile", action="store_true", help="under torch.compile")
    options = parser.parse_args()
    try:
        for name in options.names:
            variants.check("models", name, {}, "benchmarks.models")
    except ConfigError as error:
        parser.error(str(error))
    warnings.simplefilter("ignore")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {options.threads} threads"
    how = f"{'bf16' if device.type == 'cuda' else 'fp32'}{', torch.compile' if options.compile else ''}"
    print(
        f"{SIDE_PX} × {SIDE_PX} px, {BANDS} bands, {CLASSES} classes; {where}, {how}, batches of {BATCH[device.type]}."
    )
    print(f"– : a step would have taken more than {PATIENCE_S:.0f} s.\n")
    columns = ["parameters", "multiply-adds, 10⁹", "images/s", "trained images/s", "peak of a step, GiB"]
    print(f"| network | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}", flush=True)
    for name, params in entries(options.names):
        try:
            if device.type == "cpu":
                row = measured_apart(name, params, options.threads, options.seconds, options.compile)
            else:
                row = measure(name, params, device, options.seconds, options.compile)
        except torch.OutOfMemoryError:
            print(f"| {label(name, params)} |{' out of memory |' * len(columns)}", flush=True)
            continue
        cells = [
            f"{row.parameters:,}",
            f"{row.multiply_adds / 1e9:.2f}",
            rate(row.images_per_s),
            rate(row.trained_per_s),
            rate(row.peak_bytes / 2**30 if row.peak_bytes else None),
        ]
        print(f"| {label(name, params)} | {' | '.join(cells)} |", flush=True)
    if not options.names and importlib.util.find_spec(LIBRARY) is None:
        print("\nLeft out: segmentation-models-pytorch is not installed.")


if __name__ == "__main__":
    main()
