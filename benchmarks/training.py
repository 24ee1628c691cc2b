"""Our engine beside the loop that tutorials write, and what limits it. Run as ``python -m benchmarks.training``.

A U-Net trains on chips that are drawn, not downloaded, with flips: by our engine as a run does it, by a DataLoader with
the same network and the same optimiser (fp32, on a GPU also AMP; without workers and with as many as cores), and by
that loop with segmentation-models-pytorch's U-Net where it is installed. Then our engine without data (one batch that
stays on the device) and without the network (loader, flips, scaling), the loader alone from each place where chips may
wait, and the validation. All take turns in processes of their own; ratios are medians over the rounds of ratios within
a round. Operations are counted, the ceiling is the fastest matrix product measured in the same command. On a GPU the
defaults are U-Net 31 M, batches of 64, bf16 under torch.compile; on a CPU a narrower one in fp32, with one thread, in
processor time, and with two, by the clock. Exit status 1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.training_data import write_store
from benchmarks.training_jobs import PLACES, Clock, Setting, Timed, Worker, clock_of, flops, left_out, network

GPU = torch.cuda.is_available()
LOOP_BOUND = 3.0 if GPU else 1.0  # times as fast as the plain loop
CEILING_BOUND = 0.45  # of the matrix products, on a GPU
LOADER_BOUND = 5.0  # times the images that the network consumes
SIZES = (4096, 8192, 16384) if GPU else (1024, 2048)
Key = tuple[str, str, int]  # process, job, threads


@dataclass
class Rounds:
    """What was timed: a list over the rounds of each job; the turns before; jobs that failed, with the reason."""

    timed: dict[Key, list[Timed]] = field(default_factory=dict)
    warming: dict[Key, Timed] = field(default_factory=dict)
    failed: dict[Key, str] = field(default_factory=dict)

    def rates(self, key: Key) -> list[float]:
        """Images per second, per round."""
        return [one.images / one.seconds for one in self.timed[key]]

    def rate(self, key: Key) -> float:
        """The median of the rounds."""
        return statistics.median(self.rates(key))

    def ratio(self, key: Key, other: Key) -> tuple[float, float, float]:
        """Median, least and largest over the rounds of the first's rate over the other's."""
        found = [a / b for a, b in zip(self.rates(key), self.rates(other), strict=True)]
        return statistics.median(found), min(found), max(found)

    def peak(self, key: Key) -> int | None:
        """The least peak of memory of all turns: on a CPU that of the first, since a process's peak only grows."""
        turns = [*self.timed[key], *([self.warming[key]] if key in self.warming else [])]
        return min((one.peak_bytes for one in turns if one.peak_bytes is not None), default=None)


def ceiling(threads: int) -> tuple[float, int]:
    """(operations per second, edge) of the fastest square matrix product: bf16 on a GPU, fp32 on a CPU."""
    torch.set_num_threads(threads)
    best = (0.0, 0)
    for size in SIZES:
        one, other = (_matrix(size) for _ in range(2))
        least = min(_seconds_of_product(one, other, clock_of(threads)) for _ in range(8))
        best = max(best, (2 * size**3 / least, size))
    return best


def _matrix(size: int) -> torch.Tensor:
    return torch.randn(size, size, device="cuda" if GPU else "cpu", dtype=torch.bfloat16 if GPU else torch.float32)


def _seconds_of_product(one: torch.Tensor, other: torch.Tensor, clock: Clock) -> float:
    """Of one product, from several in a row on a GPU."""
    count = 10 if GPU else 1
    if GPU:
        torch.cuda.synchronize()
    begin = clock()
    for _ in range(count):
        torch.mm(one, other)
    if GPU:
        torch.cuda.synchronize()
    return (clock() - begin) / count


def measure(workers: dict[str, Worker], threads: list[int], rounds: int, seconds: float) -> Rounds:
    """Time all jobs of all processes in turns; a first short turn warms them up and says how many steps fit."""
    found = Rounds()
    keys = [(who, job, count) for count in threads for who, worker in workers.items() for job in worker.jobs]
    steps: dict[Key, int] = {}
    for who, job, count in keys:
        try:
            first = workers[who].time(job, 1, count)
        except RuntimeError as error:
            found.failed[who, job, count] = str(error)
        else:
            found.warming[who, job, count] = first
            steps[who, job, count] = max(2, min(2000, round(seconds / first.seconds)))
    for _ in range(rounds):
        for key, number in steps.items():
            found.timed.setdefault(key, []).append(workers[key[0]].time(key[1], number, key[2]))
    return found


# --- tables --------------------------------------------------------------------------------------------------------


def rivals(found: Rounds, setting: Setting, threads: list[int], per_image: dict[str, int], top: list[float]) -> bool:
    """Print our engine beside the loops; whether the bounds hold."""
    print("### Beside the plain loop\n")
    print("| what | threads | ours / this | rounds | images/s | GFLOP/s | of the ceiling | peak, GiB | bound | holds |")
    print("|:--|--:|--:|:--|--:|--:|--:|--:|:--|:--|")
    fine = True
    for count, most in zip(threads, top, strict=True):
        ours = ("ours", "epoch", count)
        keys = [ours, *(key for key in found.timed if key[2] == count and key[0] != "ours")]
        for key in keys:
            speed = found.rate(key) * per_image[key[0]]
            ratio, least, largest = found.ratio(ours, key)
            bound, holds = "", True
            if key == ours and GPU:
                bound, holds = f"{CEILING_BOUND:.0%} of the ceiling", speed / most >= CEILING_BOUND
            elif key[0] == "plain":
                bound, holds = f"≥ {LOOP_BOUND:g}", ratio >= LOOP_BOUND
            fine &= holds
            cells = [named(key, setting), str(count), f"{ratio:.2f}", f"{least:.2f}–{largest:.2f}"]
            cells += [shown(found.rate(key)), f"{speed / 1e9:,.0f}", f"{speed / most:.1%}", gib(found.peak(key))]
            print(f"| {' | '.join(cells)} | {bound} | {('yes' if holds else 'NO') if bound else ''} |")
    return fine


def named(key: Key, setting: Setting) -> str:
    """A job as the table calls it."""
    if key[0] == "ours":
        return f"ours, {setting.precision}{', torch.compile' if setting.compiled else ''}"
    precision, workers = key[1].split(", ")
    whose = "DataLoader" if key[0] == "plain" else f"DataLoader, library's U-Net of {setting.encoder}"
    return f"{whose}, {precision}, {workers} workers"


def gib(count: int | None) -> str:
    """Bytes in GiB."""
    return "" if count is None else f"{count / 2**30:.2f}"


def shown(rate: float) -> str:
    """Images per second."""
    return f"{rate:.3g}" if rate < 1000 else f"{rate:,.0f}"


def limits(found: Rounds, threads: list[int]) -> bool:
    """Print what an epoch would take without its parts, and the loader's bound; whether it holds."""
    print("\n### What limits it\n")
    print("| what | threads | of the whole | rounds | images/s | bound | holds |\n|:--|--:|--:|:--|--:|:--|:--|")
    fine = True
    labels = {
        "epoch": "the whole",
        "no data": "no data: one batch on the device",
        "no model": "no model: loader, flips, scaling",
        "loader": "loader alone",
        "validation": "validation",
    }
    for place, words in PLACES.items():
        labels |= {f"epoch, {place}": f"the whole, chips {words}", f"loader, {place}": f"loader alone, chips {words}"}
    for count in threads:
        whole = ("ours", "epoch", count)
        for job, label in labels.items():
            key = ("ours", job, count)
            if key not in found.timed:
                continue
            ratio, least, largest = found.ratio(key, whole)
            bound = f"≥ {LOADER_BOUND:g}" if job == "loader" else ""
            holds = ratio >= LOADER_BOUND or not bound
            fine &= holds
            cells = [label, str(count), f"{ratio:.2f}", f"{least:.2f}–{largest:.2f}", shown(found.rate(key))]
            print(f"| {' | '.join(cells)} | {bound} | {('yes' if holds else 'NO') if bound else ''} |")
    return fine


# --- the command ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def standing(setting: Setting, only_ours: bool) -> Iterator[dict[str, Worker]]:
    """The processes, ready; the library's only where it is installed."""
    who = ["ours"] if only_ours else ["ours", "plain", *([] if left_out() else ["library"])]
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(Worker(name, setting)) for name in who}


def arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--width", type=int, default=64 if GPU else 16, help="channels of the U-Net's first level")
    parser.add_argument("--px", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64 if GPU else 8)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16" if GPU else "fp32")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=GPU)
    parser.add_argument("--threads", type=int, nargs="+", default=[cores] if GPU else [1, min(2, cores)])
    parser.add_argument("--workers", type=int, default=cores, help="of the DataLoader")
    parser.add_argument("--encoder", default="vgg19_bn" if GPU else "resnet18", help="of the library's U-Net")
    parser.add_argument("--chips", type=int, default=6400 if GPU else 256, help="training chips to draw")
    parser.add_argument("--val", type=int, default=1280 if GPU else 32, help="validation chips to draw")
    parser.add_argument("--rounds", type=int, default=5 if GPU else 3)
    parser.add_argument("--seconds", type=float, default=3.0 if GPU else 0.5, help="of each turn, about")
    parser.add_argument("--only-ours", action="store_true", help="without the plain loops")
    return parser.parse_args()


def main() -> None:
    """Print the tables; exit 1 when a bound is missed."""
    options = arguments()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_store(folder / "data", options.px, options.chips, options.val)
        setting = Setting(
            data=folder / "data",
            work=folder / "work",
            width=options.width,
            px=options.px,
            batch=options.batch,
            precision=options.precision,
            compiled=options.compile,
            encoder=options.encoder,
            workers=options.workers,
            val=options.val,
        )
        models = {"ours": setting.ours, "plain": setting.ours} | ({} if left_out() else {"library": setting.library})
        work = {name: flops(model, options.px) for name, model in models.items()}
        introduce(setting, work)
        tops = [ceiling(count) for count in options.threads]
        for count, (most, size) in zip(options.threads, tops, strict=True):
            kind = "bf16" if GPU else f"fp32, {count} thread(s)"
            print(f"Ceiling: {most / 1e12:.3g} TFLOP/s, product of {size}² matrices, {kind}.\n")
        with standing(setting, options.only_ours) as workers:
            found = measure(workers, options.threads, options.rounds, options.seconds)
    fine = rivals(found, setting, options.threads, work, [most for most, _ in tops])
    fine &= limits(found, options.threads)
    for (who, job, _), reason in found.failed.items():
        print(f"\nfailed: {who}, {job}: {reason}")
    print()
    if found.failed or not fine:
        sys.exit("a bound is missed, or a job failed")


def introduce(setting: Setting, work: dict[str, int]) -> None:
    """Print the device, the networks and what is missing."""
    device = torch.cuda.get_device_name() if GPU else f"CPU, {len(os.sched_getaffinity(0))} cores"
    print(f"{device}, torch {torch.__version__}; {setting.px} × {setting.px} px, batches of {setting.batch}.\n")
    for name, label in (("ours", f"U-Net, width {setting.width}"), ("library", f"U-Net of {setting.encoder}")):
        if name in work:
            model = setting.ours if name == "ours" else setting.library
            parameters = sum(parameter.numel() for parameter in network(model).parameters())
            print(f"{label}: {parameters:,} parameters, {work[name] / 1e9:.2f} GFLOP per image.\n")
    for package in left_out():
        print(f"Left out: {package} is not installed, so its U-Net is no rival here.\n")


if __name__ == "__main__":
    main()
