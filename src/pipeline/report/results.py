"""Read what a run left on disk, with one line for whatever is missing or broken. Imports neither torch nor GDAL."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline import variants
from pipeline.errors import DataError, RunError
from pipeline.files import read_json
from pipeline.metrics import from_confusion

if TYPE_CHECKING:
    from pipeline.runs import Run, Study

Array = np.ndarray[Any, np.dtype[Any]]
IGNORE = 255
SCORES = ("accuracy", "mean_iou", "mean_f1")
BATCH_SCORES = ("jaccard_coefficient", "loss")


def is_loss(column: str) -> bool:
    """Whether a score column holds the value of the networks' own loss, which compares between equal losses alone."""
    return column.partition("_")[2] in ("loss", "loss_last")


def lower_is_better(column: str) -> bool:
    """Whether a smaller value of a score column such as ``val_loss`` or ``test_hausdorff_px`` is the better one."""
    name = column.partition("_")[2]
    return is_loss(column) or any(metric in name for metric in _distances())


@functools.cache
def _distances() -> tuple[str, ...]:
    """The metrics whose files declare that 0 is best; their scores have their names in them."""
    return tuple(name for name in variants.names("metrics") if variants.declared("metrics", name, "BEST") == 0)


@dataclass(frozen=True)
class RunResult:
    """What `open_run` read of one run.

    Attributes:
        run: the run as the study resolved it.
        folder: results/runs/<id>.
        info: the content of run.json.
        checkpoint: the checkpoint that the validation score picked; None for baselines and rules, which have none.
        scores: ``val_*`` and ``test_*`` of that checkpoint; NaN where a score does not exist.
        test: confusion counts of the test split, [C, C] int64, rows truth.
        cells: the counts per chip of that checkpoint: chip_id, split, truth, predicted, pixels.
    """

    run: Run
    folder: Path
    info: dict[str, Any]
    checkpoint: str | None
    scores: dict[str, float]
    test: Array
    cells: pd.DataFrame

    @property
    def classes(self) -> list[str]:
        """Class names in index order."""
        return list(self.info["classes"])

    @property
    def colours(self) -> list[tuple[int, int, int]]:
        """Class colours, 0 to 255, in index order."""
        return [(int(red), int(green), int(blue)) for red, green, blue in self.info["colours"]]

    def history(self) -> pd.DataFrame | None:
        """The learning curve, a row per epoch; None for baselines and rules. RunError when it is missing or broken."""
        return read_history(self.run, self.folder)

    def predictions(self) -> tuple[Array, list[str]]:
        """(class indices uint8 [N, H, W], chip ids) of the test split; RunError when missing or broken."""
        name = "test.npy" if self.checkpoint is None else f"test-{self.checkpoint}.npy"
        path = self.folder / "predictions" / name
        chips = [str(chip) for chip in _json(self.run.id, self.folder / "predictions" / "chips.json")]
        if not path.is_file():
            raise missing(self.run.id, path)
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise broken(self.run.id, path, error) from None
        if array.ndim != 3 or len(array) != len(chips):
            raise broken(self.run.id, path, f"shape {array.shape} does not fit the {len(chips)} ids of chips.json")
        return array, chips


def missing(run: str, path: Path) -> RunError:
    """The error for a file that a run should have written."""
    return RunError(f"run {run}: {path} is missing; delete the folder {_run_folder(path)} and run it again")


def broken(run: str, path: Path, why: object) -> RunError:
    """The error for a file of a run that cannot be used."""
    text = " ".join(str(why).split())
    return RunError(
        f"run {run}: {path} cannot be used ({text}); delete the folder {_run_folder(path)} and run it again"
    )


def _run_folder(path: Path) -> Path:
    return path.parent.parent if path.parent.name == "predictions" else path.parent


def _json(run: str, path: Path) -> Any:
    if not path.is_file():
        raise missing(run, path)
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise broken(run, path, error) from None


def read_info(run: Run, folder: Path) -> dict[str, Any]:
    """The content of run.json; RunError when it is missing, broken, or another run's."""
    path = folder / "run.json"
    info = _json(run.id, path)
    lacking = [key for key in ("id", "classes", "colours") if not isinstance(info, dict) or key not in info]
    if lacking:
        raise broken(run.id, path, f"no {', '.join(lacking)}")
    if info["id"] != run.id:
        raise broken(run.id, path, f"it belongs to run {info['id']}")
    return dict(info)


def read_history(run: Run, folder: Path) -> pd.DataFrame | None:
    """history.csv of a network, a row per epoch, floats as written; None for other kinds."""
    if run.kind != "run":
        return None
    path = folder / "history.csv"
    if not path.is_file():
        raise missing(run.id, path)
    try:
        history = pd.read_csv(path, float_precision="round_trip")
    except (OSError, ValueError) as error:
        raise broken(run.id, path, error) from None
    if "epoch" not in history.columns:
        raise broken(run.id, path, "no column epoch")
    return history


def _read_cells(run: Run, folder: Path, classes: int) -> pd.DataFrame:
    path = folder / "confusion.parquet"
    if not path.is_file():
        raise missing(run.id, path)
    try:
        cells = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise broken(run.id, path, error) from None
    needed = ["chip_id", "split", "truth", "predicted", "pixels"] + ["checkpoint"] * (run.kind == "run")
    lacking = [name for name in needed if name not in cells.columns]
    if lacking:
        raise broken(run.id, path, f"no column {', '.join(lacking)}")
    largest = max(cells["truth"].max(), cells["predicted"].max()) if len(cells) else 0
    if largest >= classes:
        raise broken(run.id, path, f"class {largest} but run.json lists {classes} classes")
    return cells


def count_matrix(cells: pd.DataFrame, classes: int) -> Array:
    """Sum rows of truth, predicted, pixels into [C, C] int64, rows truth."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(
        counts,
        (cells["truth"].to_numpy(np.int64), cells["predicted"].to_numpy(np.int64)),
        cells["pixels"].to_numpy(np.int64),
    )
    return counts


def scores_of(counts: Array, prefix: str) -> dict[str, float]:
    """``<prefix>_accuracy``, ``_mean_iou``, ``_mean_f1``, ``_absent`` of counts [C, C]; NaN without pixels."""
    if counts.sum() == 0:
        return {f"{prefix}_{name}": math.nan for name in (*SCORES, "absent")}
    scores = from_confusion(counts)
    return {f"{prefix}_{name}": float(scores[name]) for name in (*SCORES, "absent")}


def _checkpoint_scores(run: Run, cells: pd.DataFrame, batch: dict[str, Any], classes: int) -> dict[str, float]:
    """All val_* and test_* of one checkpoint; `batch` is its part of metrics.json."""
    scores: dict[str, float] = {}
    for split in ("val", "test"):
        scores |= scores_of(count_matrix(cells[cells["split"] == split], classes), split)
        written = batch.get(split) or {}
        for name in BATCH_SCORES:
            value = written.get(name)
            scores[f"{split}_{name}"] = math.nan if value is None else float(value)
    return scores


def open_run(run: Run, results: Path, select: str) -> RunResult:
    """Read one run and choose its checkpoint.

    Args:
        run: of the study.
        results: the folder that holds ``runs/<id>``.
        select: validation score that picks the checkpoint, e.g. ``val_mean_iou``; for ``val_loss`` lower is better;
            of equal checkpoints the first by name is taken.

    Raises RunError in one line naming the run and the file when something is missing or broken.
    """
    folder = Path(results) / "runs" / run.id
    info = read_info(run, folder)
    classes = len(info["classes"])
    cells = _read_cells(run, folder, classes)
    path = folder / "metrics.json"
    batch: dict[str, Any] = {}
    if run.kind == "run" or path.is_file():
        batch = (_json(run.id, path) or {}).get("checkpoints") or {}
    if run.kind != "run":
        cells = cells.drop(columns="checkpoint", errors="ignore")
        scores = _checkpoint_scores(run, cells, next(iter(batch.values()), {}), classes)
        return _result(run, folder, info, None, scores, cells)
    options = {}
    for name in sorted(cells["checkpoint"].unique()):
        if name not in batch:
            raise broken(run.id, path, f"no checkpoint {name}, which confusion.parquet has")
        own = cells[cells["checkpoint"] == name].drop(columns="checkpoint")
        options[name] = (_checkpoint_scores(run, own, batch[name], classes), own)
    usable = [name for name, (scores, _) in options.items() if not math.isnan(scores.get(select, math.nan))]
    if not usable:
        raise broken(run.id, folder / "confusion.parquet", f"no checkpoint has {select}")
    sign = 1 if lower_is_better(select) else -1
    checkpoint = min(usable, key=lambda name: sign * options[name][0][select])
    return _result(run, folder, info, checkpoint, *options[checkpoint])


def _result(
    run: Run, folder: Path, info: dict[str, Any], checkpoint: str | None, scores: dict[str, float], cells: pd.DataFrame
) -> RunResult:
    test = count_matrix(cells[cells["split"] == "test"], len(info["classes"]))
    return RunResult(run, folder, info, checkpoint, scores, test, cells.reset_index(drop=True))


def provenance(study: Study, results: Path) -> list[dict[str, Any]]:
    """The content of every run.json in study order, for the report; RunError when one is missing or broken."""
    return [read_info(run, Path(results) / "runs" / run.id) for run in study.runs]


class Chips:
    """A chip store as the report needs it: `chips` memory-mapped [N, bands, H, W], `bits` of valid pixels, by chip id.

    Raises DataError when the store or a chip is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        try:
            self.chips: Array = np.load(self.folder / "chips.npy", mmap_mode="r", allow_pickle=False)
            self.bits: Array = np.load(self.folder / "valid.npy", mmap_mode="r", allow_pickle=False)
            ids = pd.read_parquet(self.folder / "index.parquet", columns=["chip_id"])["chip_id"]
        except (OSError, ValueError) as error:
            raise DataError(
                f"the chip store {self.folder} cannot be read ({' '.join(str(error).split())}); "
                "delete the folder and cut it again"
            ) from None
        self.rows = {str(chip): row for row, chip in enumerate(ids)}

    def __getitem__(self, chip: str) -> Array:
        """The chip [bands, H, W] of that id."""
        return np.asarray(self.chips[self._row(chip)])

    def valid(self, chip: str) -> Array:
        """Which pixels of the chip have data, bool [H, W]."""
        return np.unpackbits(self.bits[self._row(chip)], axis=-1, count=self.chips.shape[-1]).astype(bool)

    def _row(self, chip: str) -> int:
        if chip not in self.rows:
            raise DataError(f"the chip store {self.folder} has no chip {chip!r}; cut it again from the same grid")
        return self.rows[chip]


def plain(value: Any) -> Any:
    """A setting as one table cell: numbers, text and switches as they are, None as ``none``, lists as JSON.

    A mapping is its keys and values, a variant its name and parameters, a list of such one after the other.
    """
    if value is None:
        return "none"
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return "; ".join(str(plain(item)) for item in value)
    if isinstance(value, dict):
        variant = value.keys() == {"name", "params"}
        words = [value["name"]] if variant else []
        pairs = (value["params"] if variant else value).items()
        return " ".join(
            [*words, *(f"{key}={json.dumps(item) if isinstance(item, bool) else plain(item)}" for key, item in pairs)]
        )
    return value if isinstance(value, str | int | float) else json.dumps(value, sort_keys=True)
