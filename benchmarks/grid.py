"""The Frankfurt report's 108 runs, extrapolated from a measured slice. Run as ``python -m benchmarks.grid``.

Three networks, two losses, batches of 32 and 64, three learning rates, three shares of dropout: runs that differ in
learning rate or dropout alone are taken to cost the same, so that twelve slices stand for 108 runs (dropout none, which
with dropout is a little dearer). Each slice is measured on chips that are drawn: steps of training, the validation, and
the scoring of both checkpoints; the fixed cost of a run, by ``benchmarks.startup``, is measured for each network. A run
is then its epochs of 6,400 chips, each validated, its fixed cost and its evaluation; runs follow one another. Nothing
stops early, which makes it an upper bound. The arithmetic alone, at the fastest matrix product measured here, is the
floor. On a GPU in bf16 under torch.compile; on a CPU a slice is one step of two chips, and days come out. Exit status 1
when an H200 would take longer than the bound.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.startup import fixed_cost
from benchmarks.training import GPU, ceiling
from benchmarks.training_data import a_run, prepared, write_store
from benchmarks.training_jobs import clock_of, flops, time_steps
from pipeline.train.inference import score_chips
from pipeline.train.loop import Trainer
from pipeline.train.step import parts_of

NETWORKS = ("unet", "resnet18_unet", "inception_unet")
LOSSES = ("focal", "jaccard")
BATCHES = (32, 64)
ALIKE = 9  # three learning rates and three shares of dropout
CHECKPOINTS = 2  # of a run, scored by its evaluation
PX = 128
BOUND_MIN = 60.0
FORWARD = 1 / 3  # of the operations of forward and backward


@dataclass(frozen=True)
class Slice:
    """What was measured of one setting, in seconds, and the operations of one chip, forward and backward."""

    network: str
    loss: str
    batch: int
    per_chip: float
    per_validated: float
    fixed: float
    flops: int

    def run_seconds(self, grid: Grid) -> float:
        """Seconds of one run."""
        epoch = grid.chips * self.per_chip + grid.val * self.per_validated
        scored = CHECKPOINTS * (grid.val + grid.test) * self.per_validated
        return grid.epochs * epoch + scored + self.fixed

    def run_flops(self, grid: Grid) -> float:
        """Operations of one run."""
        seen = grid.epochs * (grid.chips + FORWARD * grid.val) + FORWARD * CHECKPOINTS * (grid.val + grid.test)
        return seen * self.flops


@dataclass(frozen=True)
class Grid:
    """How long each run is: epochs, and chips of training, validation and test."""

    epochs: int
    chips: int
    val: int
    test: int


def steps_of(trainer: Trainer, batch: int) -> Callable[[int], Any]:
    """The engine's own steps on the drawn chips, again and again."""
    chips = len(trainer.stepper.feed.joined.rows["train"])

    def job(steps: int) -> Any:
        trainer.learner.model.train()
        order = np.resize(np.random.default_rng(steps).permutation(chips), steps * batch)
        return trainer.stepper.epoch(0, parts_of(order, batch, None))

    return job


def validations_of(trainer: Trainer) -> Callable[[int], Any]:
    """The validation of all drawn validation chips, again and again."""
    stepper = trainer.stepper
    stepper.objective.for_validation()
    model = trainer.learner.scored()
    return lambda times: (
        score_chips(model, stepper.feed, "val", stepper.scaler, stepper.objective) for _ in range(times)
    )


def measure(options: argparse.Namespace, folder: Path) -> list[Slice]:
    """The twelve slices, printed as they come."""
    print("| network | loss | batch | chips/s | validated chips/s | fixed cost, s | run, min | nine runs, min |")
    print("|:--|:--|--:|--:|--:|--:|--:|--:|", flush=True)
    precision = {"precision": "bf16" if GPU else "fp32", "compile": GPU, "threads": options.threads}
    grid, found = grid_of(options), []
    for network in NETWORKS:
        model = {"name": network, "params": {"width": options.width} if options.width else {}}
        fixed, operations = fixed_cost(network, options.rounds), flops(model, options.px)
        for loss, batch in product(LOSSES, BATCHES):
            shown = min(batch, options.at_most)
            trainer = prepared(folder / "data", folder / "work", a_run(model, loss, batch_size=shown, **precision))
            clock, steps = clock_of(options.threads), steps_of(trainer, shown)
            seconds = [time_steps(steps, options.steps, clock) for _ in range(options.rounds)]
            validated = time_steps(validations_of(trainer), options.rounds, clock) / options.rounds
            per_chip = statistics.median(seconds) / (options.steps * shown)
            one = Slice(network, loss, batch, per_chip, validated / options.drawn_val, fixed, operations)
            found.append(one)
            minutes = one.run_seconds(grid) / 60
            cells = [f"`{network}`", loss, str(batch), f"{1 / per_chip:,.3g}", f"{1 / one.per_validated:,.3g}"]
            cells += [f"{fixed:.1f}", f"{minutes:,.1f}", f"{ALIKE * minutes:,.0f}"]
            print(f"| {' | '.join(cells)} |", flush=True)
            del trainer
            gc.collect()
            if GPU:
                torch.compiler.reset()  # it stops compiling a network that was made too often
                torch.cuda.empty_cache()
    return found


def grid_of(options: argparse.Namespace) -> Grid:
    """The lengths that were asked for."""
    return Grid(options.epochs, options.train_chips, options.val_chips, options.test_chips)


def span(minutes: float) -> str:
    """Minutes, or days of many."""
    return f"{minutes:,.0f} minutes" if minutes < 2 * 24 * 60 else f"{minutes / 24 / 60:,.0f} days"


def arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--epochs", type=int, default=30, help="of every run")
    parser.add_argument("--train-chips", type=int, default=6400, help="of every epoch")
    parser.add_argument("--val-chips", type=int, default=1371, help="of every epoch; 15/70 of 6,400, as split")
    parser.add_argument("--test-chips", type=int, default=1371, help="of every evaluation")
    parser.add_argument("--steps", type=int, default=100 if GPU else 1, help="of a slice")
    parser.add_argument("--at-most", type=int, default=64 if GPU else 2, help="chips per step of a slice")
    parser.add_argument("--rounds", type=int, default=3 if GPU else 1, help="of a slice")
    parser.add_argument("--drawn", type=int, default=6400 if GPU else 64, help="training chips to draw")
    parser.add_argument("--drawn-val", type=int, default=1371 if GPU else 2, help="validation chips to draw")
    parser.add_argument("--threads", type=int, default=cores, help="of the CPU")
    parser.add_argument("--px", type=int, default=PX, help="edge of a chip; the grid's is 128")
    parser.add_argument("--width", type=int, help="of narrower networks, to try the command")
    return parser.parse_args()


def main() -> None:
    """Print slices and sum; exit 1 when an H200 misses the bound."""
    options = arguments()
    device = torch.cuda.get_device_name() if GPU else f"CPU, {options.threads} thread(s)"
    print(f"{device}, torch {torch.__version__}; {options.px} × {options.px} px, {'bf16' if GPU else 'fp32'}.\n")
    most, _ = ceiling(options.threads)
    with tempfile.TemporaryDirectory() as place:
        write_store(Path(place) / "data", options.px, options.drawn, options.drawn_val)
        found = measure(options, Path(place))
    grid = grid_of(options)
    minutes = sum(one.run_seconds(grid) for one in found) * ALIKE / 60
    floor = sum(one.run_flops(grid) for one in found) * ALIKE / most / 60
    fixed = sum(one.fixed for one in found) * ALIKE / 60
    runs = (
        f"{len(found) * ALIKE} runs of {grid.epochs} epochs of {grid.chips:,} chips, {grid.val:,} validated after each"
    )
    print(f"\n{runs},\none at a time: {span(minutes)}, {span(fixed)} of them starts, ends and compiled networks.")
    print(f"An extrapolation from {options.steps} step(s) per setting; an upper bound, since no run stops early.")
    print(f"The arithmetic alone: {span(floor)} at {most / 1e12:.3g} TFLOP/s, the fastest matrix product here.")
    if "H200" in device and minutes > BOUND_MIN:
        sys.exit(f"\nover the bound of {BOUND_MIN:.0f} minutes")


if __name__ == "__main__":
    main()
