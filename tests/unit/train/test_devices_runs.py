"""Runs on several devices, as processes on the CPU: the numbers of one process, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import RunError
from pipeline.evaluate.network import evaluate
from pipeline.train.engine import train
from pipeline.train.launch import processes
from pipeline.train.provenance import run_code_hash
from tests.support.project import alive, wait_until
from tests.support.tiny import a_spec
from tests.unit.train.test_engine import SCRIPT, history, run_training, same_weights, start, wait_for_line

PLAIN = {"optimizer": "sgd", "lr": 0.1, "epochs": 3, "flips": False}
JACCARD = {"loss": {"name": "jaccard", "params": {}}}


def without_dropout(spec: dict[str, Any]) -> dict[str, Any]:
    model = spec["model"]
    return spec | {"model": model | {"params": model["params"] | {"dropout": 0.0}}}


def assert_equal_histories(one: Path, other: Path, tolerance: float) -> None:
    rows, others = history(one), history(other)
    assert len(rows) == len(others) > 1 and rows[0].keys() == others[0].keys()
    for row, its in zip(rows, others, strict=True):
        for column in row:
            assert float(row[column]) == pytest.approx(float(its[column]), rel=tolerance), (row["epoch"], column)


def children(pid: int) -> list[int]:
    """The processes that a run has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pids: list[int]) -> Callable[[], bool]:
    return lambda: not any(alive(pid) for pid in pids)


def test_two_processes_with_synchronised_batch_norm_are_one_with_the_same_batch(region: Path, tmp_path: Path) -> None:
    run_training(region, tmp_path / "one", without_dropout(a_spec(**PLAIN)))
    process = start(region, tmp_path / "two", without_dropout(a_spec(**PLAIN, devices=2, sync_batch_norm=True)))
    lines = wait_for_line(process, "3 epochs, best")
    assert process.wait() == 0
    assert sum(": epoch " in line for line in lines) == 3 and len(set(lines)) == len(lines)  # of one process alone
    assert_equal_histories(tmp_path / "two", tmp_path / "one", 1e-5)


def test_two_processes_see_the_same_dropout_and_flips_as_one_that_takes_a_batch_in_two_parts(
    region: Path, tmp_path: Path
) -> None:
    settings = {"sampler": {"name": "hard_example", "params": {}}, "ema": 0.9, "clip_norm": 1.0, "lr": 0.003}
    run_training(region, tmp_path / "one", a_spec(**settings, epochs=3, micro_batch=4) | JACCARD)
    run_training(region, tmp_path / "two", a_spec(**settings, epochs=3, devices=2) | JACCARD)
    assert_equal_histories(tmp_path / "two", tmp_path / "one", 1e-4)
    metrics = evaluate(tmp_path / "two" / "out", region, tmp_path / "two" / "work", lambda _: None)
    epoch = metrics["checkpoints"]["best_jaccard"]["epoch"]
    expected = float(history(tmp_path / "two")[epoch - 1]["val_jaccard_coefficient"])
    assert metrics["checkpoints"]["best_jaccard"]["val"]["jaccard_coefficient"] == pytest.approx(expected, rel=1e-6)


def test_frozen_parts_and_extra_targets_are_shared_too(region: Path, tmp_path: Path) -> None:
    """The encoder stands still at first, so that other weights meet in the second epoch; process 0 derives alone."""
    stages = [{"part": "decoder", "lr": 0.1, "epochs": 1}, {"part": "all", "lr": 0.05, "epochs": 2}]
    settings = PLAIN | {"schedule": {"name": "staged_unfreezing", "params": {"stages": stages}}}
    loss = {"loss": {"name": "weighted_sum", "params": {"terms": ["focal", "boundary_distance"]}}}
    run_training(region, tmp_path / "one", a_spec(**settings, micro_batch=4) | loss)
    lines = run_training(region, tmp_path / "two", a_spec(**settings, devices=2) | loss)
    assert sum(line.startswith("derived") for line in lines) == 1
    assert_equal_histories(tmp_path / "two", tmp_path / "one", 1e-4)


def test_killed_anywhere_nobody_is_left_and_it_ends_with_the_weights_of_an_undisturbed_run(
    region: Path, tmp_path: Path
) -> None:
    spec = a_spec(epochs=5, devices=2)
    run_training(region, tmp_path / "whole", spec, run_code_hash(SCRIPT, spec))

    process = start(region, tmp_path / "killed", spec)
    wait_for_line(process, "epoch 1/5")
    (child,) = children(process.pid)
    os.kill(child, signal.SIGKILL)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    (error,) = [line for line in said.splitlines() if "epoch " not in line or "error" in line]
    assert f"error: process 1 of the run (pid {child}) was ended by signal 9 (SIGKILL)" in error

    process = start(region, tmp_path / "killed", spec)
    wait_for_line(process, "epoch 3/5")
    (child,) = children(process.pid)
    process.kill()
    process.wait()
    wait_until(gone([child]), "the end of the other process", 5)

    lines = run_training(region, tmp_path / "killed", spec, run_code_hash(SCRIPT, spec))
    assert any(line.startswith("resumed after epoch") for line in lines)
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
    assert same_weights(tmp_path / "killed", tmp_path / "whole")


def test_an_interrupt_is_one_line_and_nobody_is_left(region: Path, tmp_path: Path) -> None:
    process = start(region, tmp_path, a_spec(epochs=500, patience=500, devices=2))
    wait_for_line(process, "epoch 1/")
    (child,) = children(process.pid)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert [line for line in said.splitlines() if "epoch " not in line] == ["tiny-run: interrupted"]
    assert not alive(child)


def test_a_loss_that_is_not_finite_is_said_once(region: Path, tmp_path: Path) -> None:
    before = children(os.getpid())  # of other tests of this process
    lines: list[str] = []
    spec = a_spec(optimizer="sgd", lr=1e30, epochs=3, devices=2)
    with pytest.raises(RunError, match=r"the loss is (nan|inf) at epoch \d+, batch \d+ \(chips r\d+c\d+p32"):
        train("tiny-run", spec, "code", data=region, out=tmp_path / "out", work=tmp_path / "work", log=lines.append)
    assert not any("the loss is" in line or "error" in line for line in lines)
    assert set(children(os.getpid())) <= set(before)


def failing_job(region: Path, work: Path) -> dict[str, Any]:
    """That process 1 cannot do, and process 0 does not try."""
    spec = a_spec(devices=2) | {"loss": {"name": "nonsense", "params": {}}}
    return {"spec": spec, "hashes": {}, "data": str(region), "work": str(work), "options": {}}


def test_what_fails_in_another_process_alone_is_the_errors_line(region: Path, tmp_path: Path) -> None:
    before = children(os.getpid())
    job = failing_job(region, tmp_path)
    with pytest.raises(RunError, match="nonsense") as caught, processes(job, 2, tmp_path, print) as world:
        world.agreed(None)
    assert "\n" not in str(caught.value)
    assert set(children(os.getpid())) <= set(before)


STUCK = """
import json, sys, time
from pathlib import Path
from pipeline.train import launch
launch.GRACE_S = 0.5
with launch.processes(json.loads(sys.argv[1]), 2, Path(sys.argv[2]), lambda line: print(line, flush=True)):
    time.sleep(120)
"""


def test_a_job_that_does_not_notice_a_dead_process_is_ended(region: Path, tmp_path: Path) -> None:
    """As one that waits on its GPU for a process that is no more."""
    command = [sys.executable, "-c", STUCK, json.dumps(failing_job(region, tmp_path)), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 1 and done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert line.startswith("error: ") and "nonsense" in line
