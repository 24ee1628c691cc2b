"""The files every row of a table is made from: confusion counts per chip, and test predictions with their chip ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.joined import Joined, enlarged
from pipeline.files import atomic_file, write_json
from pipeline.metrics.confusion import confusion_counts
from pipeline.train.provenance import environment

Array = np.ndarray[Any, np.dtype[Any]]


def confusion_rows(chip_ids: Array, counts: Array, split: str, checkpoint: str | None = None) -> dict[str, list[Any]]:
    """Long-form rows of counts [N, C, C] (rows truth): only non-zero cells."""
    chip, truth, predicted = np.nonzero(counts)
    rows: dict[str, list[Any]] = {
        "chip_id": chip_ids[chip].tolist(),
        "split": [split] * len(chip),
        "truth": truth.tolist(),
        "predicted": predicted.tolist(),
        "pixels": counts[chip, truth, predicted].tolist(),
    }
    if checkpoint is not None:
        rows["checkpoint"] = [checkpoint] * len(chip)
    return rows


def write_confusion(path: Path, parts: list[dict[str, list[Any]]]) -> None:
    """Write ``confusion.parquet``: chip_id, split, truth, predicted, pixels (and checkpoint)."""
    columns = {name: [value for part in parts for value in part[name]] for name in parts[0]}
    with atomic_file(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


def write_predictions(folder: Path, name: str, predictions: Array, chip_ids: Array, factor: int = 1) -> None:
    """Write ``<name>.npy`` uint8 [N, H, W] and ``chips.json``, the ids in the same order.

    Predictions have the size of the chips as they were cut: those of chips shrunk by `factor` are enlarged by it.
    """
    with atomic_file(folder / f"{name}.npy") as temporary:
        np.save(temporary, enlarged(predictions.astype(np.uint8), factor))
    write_json(folder / "chips.json", [str(chip) for chip in chip_ids])


def write_histograms(folder: Path, name: str, histograms: Mapping[str, Array | None]) -> None:
    """Write ``<name>.npz``, by split the pixels by probability, [C, 2, B] int64 (`pipeline.metrics.histograms`)."""
    with atomic_file(folder / f"{name}.npz") as temporary, open(temporary, "wb") as handle:
        np.savez_compressed(handle, allow_pickle=False, **{k: v for k, v in histograms.items() if v is not None})


def write_baseline(
    run: str,
    spec: dict[str, Any],
    joined: Joined,
    predicted: dict[str, Array],
    hashes: dict[str, str],
    out: Path,
    seconds: float,
    parameters: int | None = None,
) -> None:
    """Write the result folder of a prediction that no network made.

    Args:
        run: the run's id.
        spec: the resolved run.
        joined: its data.
        predicted: for `val` and `test`, the classes uint8 [N, H, W] in index order.
        hashes: of data, split and code.
        out: ``results/runs/<run>``.
        seconds: it took.
        parameters: of the model, if that means anything.
    """
    classes = len(joined.classes)
    parts = []
    for split, classes_map in predicted.items():
        rows = joined.rows[split]
        counts = np.stack(
            [
                confusion_counts(joined.batch(rows.take(np.array([at])))[1][0], classes_map[at], classes)
                for at in range(len(rows))
            ]
        )
        parts.append(confusion_rows(rows.chip_ids, counts, split))
    write_predictions(out / "predictions", "test", predicted["test"], joined.rows["test"].chip_ids)
    write_confusion(out / "confusion.parquet", parts)
    facts = {
        "id": run,
        "kind": spec["kind"],
        "name": spec["model"]["name"],
        "spec": spec,
        "classes": joined.classes,
        "colours": joined.labels.meta["colours"],
        "parameters": parameters,
        "hashes": hashes,
        "seconds": round(seconds, 1),
        "started": None,
        "finished": None,
        **environment(),
    }
    write_json(out / "run.json", facts)
