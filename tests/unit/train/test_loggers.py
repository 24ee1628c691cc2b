"""Loggers: what they were given is read back with the libraries' own readers, kills and a dead server included."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.train import loggers
from pipeline.train.engine import train
from pipeline.train.loggers import Loggers, check_loggers
from pipeline.train.options import Options
from tests.support.tiny import a_spec

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "train.py"
ALL = ("tensorboard", "mlflow", "dvclive")
Points = dict[str, list[tuple[int, float]]]  # name → (step, value) in the order of the reader


def row(epoch: int, value: float = 0.5) -> dict[str, float]:
    return {"epoch": epoch, "lr": 0.1, "train_loss": value, "val_loss": value / epoch, "val_iou_a/b": math.nan}


def history(epochs: int) -> list[dict[str, float]]:
    return [row(epoch) for epoch in range(1, epochs + 1)]


def read_tensorboard(folder: Path, series: str = "") -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard" / "run" / series), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def mlflow_runs(folder: Path) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=(folder / "mlflow").as_uri())
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()]))


def read_mlflow(folder: Path, series: str = "") -> Points:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=(folder / "mlflow").as_uri())
    (run,) = mlflow_runs(folder)
    prefix = f"{series}/" if series else ""
    names = [name.removeprefix(prefix) for name in run.data.metrics if name.startswith(prefix)]
    points = {n: client.get_metric_history(run.info.run_id, prefix + n) for n in names if not n.startswith("try_")}
    return {name: sorted((m.step, m.value) for m in metrics) for name, metrics in points.items()}


def read_dvclive(folder: Path, series: str = "") -> Points:
    place = folder / "dvclive" / "run" / "plots" / "metrics" / series
    found = {}
    for path in place.rglob("*.tsv"):
        name = path.relative_to(place).with_suffix("").as_posix()
        if not name.startswith("try_"):
            rows = list(csv.reader(path.read_text().splitlines(), delimiter="\t"))[1:]
            found[name] = [(int(step), float(value)) for step, value in rows]
    return found


READERS: dict[str, Callable[..., Points]] = {
    "tensorboard": read_tensorboard,
    "mlflow": read_mlflow,
    "dvclive": read_dvclive,
}


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(autouse=True)
def _seconds_between_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers take event files in the order of the seconds in their names; here processes follow each other faster."""
    from tensorboard.summary.writer import event_file_writer

    clock = SimpleNamespace(time=map(float, itertools.count(1_700_000_000)).__next__)
    monkeypatch.setattr(event_file_writer, "time", clock)


def open_loggers(folder: Path, *names: str, resumed: bool = False, lines: list[str] | None = None) -> Loggers:
    log = (lines if lines is not None else []).append
    (folder / "work").mkdir(parents=True, exist_ok=True)
    return Loggers(names, "run", a_spec(), work=folder / "work", folder=folder, resumed=resumed, log=log)


@pytest.mark.parametrize("name", ALL)
def test_every_epoch_once_whatever_a_kill_left(name: str, tmp_path: Path) -> None:
    """Killed after the rows went out and before that was written down; the one after starts with the state's rows."""
    first = open_loggers(tmp_path, name)
    first.saved(history(2))
    noted = (tmp_path / "work" / loggers.FILE).read_bytes()
    first.saved(history(4))
    (tmp_path / "work" / loggers.FILE).write_bytes(noted)
    again = open_loggers(tmp_path, name, resumed=True)
    again.saved(history(4))
    again.saved(history(6))
    again.end(6, {"best_accuracy": 0.75})
    points = READERS[name](tmp_path)
    for column in ("train/loss", "val/loss", "lr", "val/iou_a_b"):
        assert [step for step, _ in points[column]] == [1, 2, 3, 4, 5, 6], column
    assert [value for _, value in points["val/loss"]] == pytest.approx([0.5 / epoch for epoch in range(1, 7)])
    assert all(math.isnan(value) for _, value in points["val/iou_a_b"])
    if name != "dvclive":
        assert points["best/accuracy"] == [(6, 0.75)]
    else:
        summary = json.loads((tmp_path / "dvclive/run/metrics.json").read_text())
        assert summary["best"]["accuracy"] == 0.75 and summary["step"] == 6


@pytest.mark.parametrize("name", ALL)
def test_rows_that_a_kill_kept_from_a_logger_come_after_it(name: str, tmp_path: Path) -> None:
    open_loggers(tmp_path, name).saved(history(2))
    open_loggers(tmp_path, name, resumed=True).saved(history(5))
    assert [step for step, _ in READERS[name](tmp_path)["val/loss"]] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ALL)
def test_a_training_from_the_start_begins_anew(name: str, tmp_path: Path) -> None:
    open_loggers(tmp_path, name).saved(history(5))
    open_loggers(tmp_path, name).saved(history(2))
    if name == "mlflow":  # what was stored on a server stays there
        assert len(mlflow_runs(tmp_path)) == 2
    else:
        assert [step for step, _ in READERS[name](tmp_path)["val/loss"]] == [1, 2]


@pytest.mark.parametrize("name", ALL)
def test_tries_of_a_search_are_series_of_their_own(name: str, tmp_path: Path) -> None:
    found = open_loggers(tmp_path, name)
    found.saved(history(2))
    for weight in ("0.5", "0.1"):
        for epoch in (3, 4):
            found.take(row(epoch, float(weight)), f"try_{weight}_after_2")
        found.saved(history(2))
    again = open_loggers(tmp_path, name, resumed=True)  # the state of before the second try's last epoch
    again.take(row(4, 0.1), "try_0.1_after_2")
    again.saved(history(4))
    assert [step for step, _ in READERS[name](tmp_path)["val/loss"]] == [1, 2, 3, 4]
    for weight in ("0.5", "0.1"):
        points = READERS[name](tmp_path, f"try_{weight}_after_2")["train/loss"]
        assert points == [(3, pytest.approx(float(weight))), (4, pytest.approx(float(weight)))]


def test_mlflow_has_parameters_the_region_and_an_end(tmp_path: Path) -> None:
    found = open_loggers(tmp_path, "mlflow")
    found.saved(history(1))
    found.end(1, {})
    (run,) = mlflow_runs(tmp_path)
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
    assert run.data.params["train.lr"] == "0.01" and run.data.params["model.params.width"] == "4"
    assert run.data.params["data.region"] == "tiny" and run.data.params["seed"] == "3"


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_training_that_fails_is_said_to_have_failed(error: type, status: str, tmp_path: Path) -> None:
    with pytest.raises(error), open_loggers(tmp_path, "mlflow") as found:
        found.saved(history(1))
        raise error
    (run,) = mlflow_runs(tmp_path)
    assert run.info.status == status
    open_loggers(tmp_path, "mlflow", resumed=True).saved(history(2))
    (run,) = mlflow_runs(tmp_path)
    assert run.info.status == "RUNNING"


@pytest.mark.parametrize("name", ALL)
def test_published_again_nothing_is_said_twice(name: str, tmp_path: Path) -> None:
    for resumed in (False, True):
        found = open_loggers(tmp_path, name, resumed=resumed)
        found.saved(history(2))
        found.end(2, {"best_accuracy": 0.75})
    assert len(READERS[name](tmp_path)["val/loss"]) == 2
    if name == "mlflow":
        assert mlflow_runs(tmp_path)[0].info.status == "FINISHED"
    if name != "dvclive":
        assert len(READERS[name](tmp_path)["best/accuracy"]) == 1


def test_a_logger_that_was_added_later_has_the_epochs_of_before(tmp_path: Path) -> None:
    open_loggers(tmp_path).saved(history(3))
    open_loggers(tmp_path, "dvclive", resumed=True).saved(history(4))
    assert [step for step, _ in read_dvclive(tmp_path)["val/loss"]] == [1, 2, 3, 4]


def test_half_a_record_of_a_killed_process_harms_nothing(tmp_path: Path) -> None:
    open_loggers(tmp_path, "tensorboard", "dvclive").saved(history(2))
    (events,) = (tmp_path / "tensorboard/run").glob("events*")
    events.write_bytes(events.read_bytes()[:-7])
    path = tmp_path / "dvclive/run/plots/metrics/val/loss.tsv"
    path.write_text(path.read_text() + "3\t")
    (tmp_path / "work" / loggers.FILE).write_text(json.dumps({"rows": {"tensorboard": 1, "dvclive": 1}}))
    open_loggers(tmp_path, "tensorboard", "dvclive", resumed=True).saved(history(4))
    for name in ("tensorboard", "dvclive"):
        assert [step for step, _ in READERS[name](tmp_path)["val/loss"]] == [1, 2, 3, 4], name


def test_what_does_not_exist_or_is_not_installed_is_one_line(
    region: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"^engine.loggers: no logger 'mlflo'; did you mean 'mlflow'\?"):
        check_loggers(["mlflo"])
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else find(name))
    lines: list[str] = []
    with pytest.raises(ConfigError, match=r"^engine.loggers: mlflow is not installed; pip install '.\[logging\]'"):
        train(
            "run",
            a_spec(),
            "code",
            data=region,
            out=tmp_path / "out",
            work=tmp_path / "work",
            log=lines.append,
            options=Options(loggers=("mlflow",)),
        )
    assert not lines and not list(tmp_path.iterdir())


class Broken:
    """A logger whose server is gone at the third epoch."""

    def __init__(self, *_: Any) -> None:
        self.taken: list[int] = []

    def row(self, series: str, step: int, values: dict[str, float]) -> None:
        if step == 3:
            raise ConnectionError("no answer of https://me:secret@host/api\nand more")
        self.taken.append(step)

    def end(self, step: int, best: dict[str, float], status: str) -> None:
        raise AssertionError("it was left out")


def test_one_that_fails_is_left_out_in_one_line_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.train import _loggers

    monkeypatch.setattr(_loggers, "TensorBoard", Broken)
    lines: list[str] = []
    found = open_loggers(tmp_path, "tensorboard", "dvclive", lines=lines)
    for epochs in (2, 4, 5):
        found.saved(history(epochs))
    found.end(5, {})
    assert len(lines) == 1
    assert lines[0].startswith(
        "logger tensorboard fails and is left out, the training goes on: ConnectionError: no ans"
    )
    assert "secret" not in lines[0] and "me:" not in lines[0] and "\n" not in lines[0]
    assert [step for step, _ in read_dvclive(tmp_path)["val/loss"]] == [1, 2, 3, 4, 5]


def test_history_so_far_lies_in_the_work_folder(tmp_path: Path) -> None:
    found = open_loggers(tmp_path)
    for epochs in (1, 3):
        found.saved(history(epochs))
        with open(tmp_path / "work" / "history.csv") as handle:
            assert [line["epoch"] for line in csv.DictReader(handle)] == [str(e) for e in range(1, epochs + 1)]


def start(region: Path, folder: Path, spec: dict[str, Any], **environment: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    (folder / "dvc.yaml").write_text("stages: {}\n")
    command = [sys.executable, str(SCRIPT), "--run", "run", "--spec", json.dumps(spec), "--data", str(region)]
    command += ["--out", "out", "--work", "work", "--engine", json.dumps({"loggers": ALL})]
    settings = os.environ | {"OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, env=settings)


def test_killed_and_resumed_the_three_have_the_history_and_nothing_lies_beside_it(region: Path, tmp_path: Path) -> None:
    """With a search, killed in the middle of one; the working folder is as clean as before, a DVC repository's too."""
    sums = {"terms": ["focal", "dice"], "schedule": "search", "first": 2, "try_epochs": 2, "candidates": [0.2, 0.6]}
    spec = a_spec(epochs=6) | {"loss": {"name": "weighted_sum", "params": sums}}
    folder = tmp_path / "project"
    process = start(region, folder, spec)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("run: epoch 4/6"):
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    process = start(region, folder, spec)
    _, text = process.communicate()
    assert process.returncode == 0 and "resumed after epoch" in text and "logger" not in text, text
    with open(folder / "out" / "history.csv") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 6
    for name in ALL:
        points = READERS[name](folder / "logs")
        for column, shown in (("val_loss", "val/loss"), ("loss_weight", "loss_weight"), ("seconds", "seconds")):
            wanted = [(int(line["epoch"]), pytest.approx(float(line[column]))) for line in rows]
            assert points[shown] == wanted, (name, column)
        for weight in ("0.2", "0.6"):
            tried = READERS[name](folder / "logs", f"try_{weight}_after_2")["loss_weight"]
            assert tried == [(3, pytest.approx(float(weight))), (4, pytest.approx(float(weight)))], name
    assert sorted(path.name for path in folder.iterdir()) == ["dvc.yaml", "logs", "out", "work"]
    assert (folder / "dvc.yaml").read_text() == "stages: {}\n"


def test_a_server_that_is_not_there_costs_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    lines: list[str] = []
    found = open_loggers(tmp_path, "mlflow", lines=lines)
    found.saved(history(2))
    found.end(2, {})
    (line,) = lines
    assert line.startswith("logger mlflow fails and is left out, the training goes on: MlflowException: ")
    assert f"127.0.0.1:{port}" in line and "secret" not in line
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert capfd.readouterr() == ("", "")
