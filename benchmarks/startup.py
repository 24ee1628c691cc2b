"""The fixed cost of one run, without its steps. Run as ``python -m benchmarks.startup``.

``scripts/train.py`` trains one epoch of three steps on chips that are drawn, in a new process each time, and
``scripts/evaluate.py`` scores it. The fixed cost is the time from the command to its end, less three steps, each
counted as the fastest after the first; so what the first step takes longer belongs to it (kernels chosen, a network
compiled), as does the validation of a few chips. Networks take turns; the least of the rounds counts, part by part as
well. On a GPU in bf16 under torch.compile, after one run that fills the compile cache, which is shown too. Exit status
1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STEPS = 3
BOUNDS = {("cpu", "unet"): 5.0, ("cpu", "smp"): 9.0, ("cuda", "unet"): 15.0, ("cuda", "smp"): 15.0}
SETTINGS: dict[str, dict[str, Any]] = {  # chips of 32 px on a CPU: the steps are not what is measured
    "cpu": {"px": 32, "batch_size": 4, "precision": "fp32", "compile": False},
    "cuda": {"px": 128, "batch_size": 64, "precision": "bf16", "compile": True},
}
PARTS = ("interpreter", "imports", "data", "model", "optimizer", "first step", "validation", "publish", "rest")
Parts = dict[str, float]


# --- in the process that is measured -------------------------------------------------------------------------------


def child(script: str, marks: Path) -> None:
    """Run the script that stands first in sys.argv with clocks around the parts of a training; write what they took."""
    taken: Parts = {"interpreter": time.time() - float(os.environ["STARTUP_BEGAN"])}
    begin = time.perf_counter()
    if Path(script).name == "train.py":
        _watch(taken, begin)
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        marks.write_text(json.dumps(taken), encoding="ascii")


def _watch(taken: Parts, begin: float) -> None:
    from pipeline.train import engine, loop, step

    taken["imports"] = time.perf_counter() - begin

    def watch(owner: Any, name: str, part: str) -> None:
        inner = getattr(owner, name)

        @functools.wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            found = inner(*args, **kwargs)
            taken[part] = taken.get(part, 0.0) + time.perf_counter() - start
            return found

        setattr(owner, name, timed)

    watch(engine, "data_hashes", "data")
    watch(engine, "join", "data")
    watch(engine.models, "create", "model")
    watch(engine, "make_optimizer", "optimizer")
    watch(loop, "score_chips", "validation")
    watch(engine, "_publish", "publish")
    watch(engine.state.Saver, "save", "publish")
    step.Stepper.epoch = _steps(step.Stepper.epoch, taken)  # type: ignore[method-assign]


def _steps(inner: Callable[..., Iterator[Any]], taken: Parts) -> Callable[..., Iterator[Any]]:
    """An epoch that notes what its first step took and the fastest of the others."""

    def epoch(*args: Any, **kwargs: Any) -> Iterator[Any]:
        start, found = time.perf_counter(), []
        for loss in inner(*args, **kwargs):
            loss.item()
            found.append(time.perf_counter() - start)
            yield loss
            start = time.perf_counter()
        taken["first step"], taken["step"] = found[0], min(found[1:])

    return epoch


# --- in the process that measures ----------------------------------------------------------------------------------


def measure(network: str, device: str, folder: Path) -> tuple[Parts, float]:
    """The parts of one training, "whole" among them without its steps, and the seconds of the evaluation."""
    from benchmarks.training_data import a_run

    settings = {key: value for key, value in SETTINGS[device].items() if key != "px"}
    spec = a_run({"name": network, "params": {}}, **settings, epochs=1)
    data, out, work = folder / "data", folder / "out", folder / "work"
    for path in (out, work):
        shutil.rmtree(path, ignore_errors=True)
    paths = ["--data", str(data), "--work", str(work)]
    training = ["train.py", "--run", network, "--spec", json.dumps(spec), "--out", str(out), *paths]
    parts = _run(training, folder)
    parts["whole"] -= STEPS * parts["step"]
    parts["first step"] -= parts["step"]
    parts["rest"] = parts["whole"] - sum(parts[part] for part in PARTS if part in parts)
    return parts, _run(["evaluate.py", "--run", str(out), *paths], folder)["whole"]


def _run(command: list[str], folder: Path) -> Parts:
    """Run a script in a new process; what it noted, its seconds as "whole" and those of the "processor"."""
    marks = folder / "marks.json"
    environment = os.environ | {"STARTUP_BEGAN": str(time.time()), "OMP_NUM_THREADS": "1"}
    begin = time.perf_counter()
    measured = [sys.executable, "-m", "benchmarks.startup", "--child", str(marks), str(ROOT / "scripts" / command[0])]
    before = os.times()
    done = subprocess.run([*measured, *command[1:]], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    after = os.times()
    whole = time.perf_counter() - begin
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stderr}")
    found: Parts = json.loads(marks.read_text(encoding="ascii"))
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return found | {"whole": whole, "processor": processor}


def table(trained: dict[str, list[Parts]], scored: dict[str, list[float]], device: str) -> bool:
    """Print the least of the rounds; whether the bounds hold."""
    columns = ["network", "fixed cost, s", "most", "processor, steps too, s", *PARTS, "evaluation, s", "bound", "holds"]
    print(f"| {' | '.join(columns)} |\n|:--|{'--:|' * (len(columns) - 3)}:--|:--|")
    fine = True
    for network, rounds in trained.items():
        wholes = [parts["whole"] for parts in rounds]
        bound = BOUNDS[device, network]
        fine &= min(wholes) <= bound
        cells = [f"`{network}`", f"{min(wholes):.2f}", f"{max(wholes):.2f}"]
        cells += [f"{min(parts['processor'] for parts in rounds):.2f}"]
        cells += [f"{min(parts.get(part, 0.0) for parts in rounds):.2f}" for part in PARTS]
        cells += [f"{min(scored[network]):.2f}", f"{bound:g} s", "yes" if min(wholes) <= bound else "NO"]
        print(f"| {' | '.join(cells)} |")
    return fine


def device_here() -> str:
    """cuda or cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def drawn(device: str) -> Iterator[Path]:
    """A folder with the few chips that a measured run trains on, below ``data``."""
    from benchmarks.training_data import write_store

    setting = SETTINGS[device]
    with tempfile.TemporaryDirectory() as place:
        write_store(Path(place) / "data", setting["px"], STEPS * setting["batch_size"], setting["batch_size"])
        yield Path(place)


def fixed_cost(network: str, rounds: int) -> float:
    """The fixed cost of a run of `network` and of its evaluation in seconds, the least of the rounds.

    On a GPU a run before them fills the compile cache.
    """
    device = device_here()
    with drawn(device) as folder:
        found = [measure(network, device, folder) for _ in range(rounds + SETTINGS[device]["compile"])]
    return min(parts["whole"] + scored for parts, scored in found[-rounds:])


def main() -> None:
    """Print the table; exit 1 when a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=("unet", "smp"))
    options = parser.parse_args()
    device = device_here()
    there = importlib.util.find_spec("segmentation_models_pytorch") is not None
    networks = [name for name in options.networks or ("unet", "smp") if name != "smp" or there]
    with drawn(device) as folder:
        print(f"{device}; {', '.join(f'{key} {value}' for key, value in SETTINGS[device].items())}\n")
        if SETTINGS[device]["compile"]:
            for name in networks:
                print(f"`{name}`, the compile cache empty: {measure(name, device, folder)[0]['whole']:.1f} s\n")
        rounds = [{name: measure(name, device, folder) for name in networks} for _ in range(options.rounds)]
    if not there:
        print("Left out: segmentation-models-pytorch is not installed.\n")
    trained = {name: [one[name][0] for one in rounds] for name in networks}
    if not table(trained, {name: [one[name][1] for one in rounds] for name in networks}, device):
        sys.exit("\nover the bound")


if __name__ == "__main__":
    if "--child" in sys.argv[1:2]:
        marks, script = sys.argv[2:4]
        sys.argv = [script, *sys.argv[4:]]
        child(script, Path(marks))
    else:
        main()
