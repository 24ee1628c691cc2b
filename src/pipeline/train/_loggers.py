"""TensorBoard, MLflow and DVCLive as `pipeline.train.loggers.Logger`; each is imported where it is opened."""

from __future__ import annotations

import csv
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

from pipeline.files import canonical_json, write_text
from pipeline.train.history import Row

MLFLOW_PARAMS = 100  # that one request takes
MLFLOW_CHARACTERS = 500  # that every version takes as a parameter


class TensorBoard:
    """Event files below ``<folder>``, those of a series below ``<folder>/<series>``.

    Every process writes its own; the first event of a series makes readers forget its epochs from that one on in the
    files before.
    """

    def __init__(self, folder: Path, spec: dict[str, Any], resumes: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._make, self._folder, self._writers = SummaryWriter, folder, dict[str, Any]()
        if not resumes:
            shutil.rmtree(folder, ignore_errors=True)
            self._writer("", 0).add_text("spec", f"`{canonical_json(spec)}`", 0)

    def _writer(self, series: str, step: int) -> Any:
        if series not in self._writers:
            folder = str(self._folder / series)
            self._writers[series] = self._make(folder, purge_step=step)
        return self._writers[series]

    def row(self, series: str, step: int, values: Row) -> None:
        """See `pipeline.train.loggers.Logger`."""
        writer = self._writer(series, step)
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    def end(self, step: int, best: Row, status: str) -> None:
        """See `pipeline.train.loggers.Logger`."""
        if status == "FINISHED":
            for name, value in best.items():
                self._writer("", step + 1).add_scalar(name, value, step)
        for writer in self._writers.values():
            writer.close()


class MLflow:
    """A run of an MLflow server (MLFLOW_TRACKING_URI), else of the folder ``<folder>``.

    Attributes:
        id: of the MLflow run, which a resumed training takes up again.
    """

    def __init__(self, folder: Path, run: str, spec: dict[str, Any], known: str | None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # training waits meanwhile
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = folder.absolute().as_uri()
        from mlflow.entities import Metric, Param, RunStatus
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        logging.getLogger("urllib3").setLevel(logging.ERROR)  # its retries; what fails is said in one line
        self._metric, self._client = Metric, MlflowClient(tracking_uri=uri)
        self._steps: dict[str, set[int]] | None = None
        if known is not None:
            try:
                self._client.update_run(known, status=RunStatus.to_string(RunStatus.RUNNING))
                self.id, self._steps = known, {}
                return
            except MlflowException:
                pass  # another server, or the run was deleted there
        made = self._client.create_run(self._experiment(str(spec["data"]["region"])), run_name=run)
        params = [Param(key, str(value)[:MLFLOW_CHARACTERS]) for key, value in _flat(spec).items()]
        self.id = str(made.info.run_id)
        for start in range(0, len(params), MLFLOW_PARAMS):
            self._client.log_batch(self.id, params=params[start : start + MLFLOW_PARAMS])

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another run has made it just now
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def row(self, series: str, step: int, values: Row) -> None:
        """See `pipeline.train.loggers.Logger`; what a resumed run has already is kept."""
        prefix, now = f"{series}/" if series else "", int(time.time() * 1000)
        named = {prefix + name: value for name, value in values.items()}
        lacking = {name: value for name, value in named.items() if step not in self._known(name)}
        if lacking:
            self._client.log_batch(self.id, metrics=[self._metric(n, v, now, step) for n, v in lacking.items()])

    def _known(self, name: str) -> set[int]:
        if self._steps is None:
            return set()
        if name not in self._steps:
            self._steps[name] = {metric.step for metric in self._client.get_metric_history(self.id, name)}
        return self._steps[name]

    def end(self, step: int, best: Row, status: str) -> None:
        """See `pipeline.train.loggers.Logger`."""
        if status == "FINISHED":
            self.row("", step, best)
        self._client.set_terminated(self.id, status)


class DVCLive:
    """DVCLive's files in ``<folder>``; neither DVC nor git is asked to keep them, and no server is told."""

    def __init__(self, folder: Path, spec: dict[str, Any], resumes: bool) -> None:
        os.environ.setdefault("DVC_STUDIO_OFFLINE", "true")
        from dvclive.live import Live

        logging.getLogger("dvclive").setLevel(logging.ERROR)
        self._live: Any = Live(str(folder), resume=resumes, save_dvc_exp=False, dvcyaml=None)
        self._folder, self._begun = folder / "plots" / "metrics", set[str]()
        if not resumes:
            self._live.log_params({key: str(value) for key, value in _flat(spec).items()})

    def row(self, series: str, step: int, values: Row) -> None:
        """See `pipeline.train.loggers.Logger`."""
        self._live.step = step
        for name, value in values.items():
            named = f"{series}/{name}" if series else name
            if named not in self._begun:
                self._begun.add(named)
                _forget(self._folder / f"{named}.tsv", step)
            self._live.log_metric(named, value)
        self._live.make_summary()

    def end(self, step: int, best: Row, status: str) -> None:
        """See `pipeline.train.loggers.Logger`."""
        self._live.step = step
        for name, value in best.items():
            self._live.log_metric(name, value, plot=False)
        self._live.make_summary()


def _forget(path: Path, step: int) -> None:
    """Drop the epochs from `step` on of one of DVCLive's files."""
    if not path.is_file():
        return
    head, *rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t"))
    kept = [row for row in rows if len(row) == len(head) and row[0].isdigit() and int(row[0]) < step]
    write_text(path, "".join("\t".join(row) + "\n" for row in [head, *kept]))


def _flat(spec: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings of a run by dotted path; lists as JSON."""
    found: dict[str, Any] = {}
    for key, value in spec.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = canonical_json(value) if isinstance(value, list) else value
    return found
