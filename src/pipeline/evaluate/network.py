"""Score a trained run's checkpoints on the validation and test chips."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.dataset.joined import join
from pipeline.dataset.targets import ExtraTargets
from pipeline.defaults import train_settings
from pipeline.evaluate.counts import confusion_rows, write_confusion, write_histograms, write_predictions
from pipeline.files import atomic_folder, read_json, write_json
from pipeline.metrics import from_confusion
from pipeline.protocol import checkpoint_name
from pipeline.train.checkpoint import load_checkpoint
from pipeline.train.feed import Feed
from pipeline.train.inference import Scaler, score_chips
from pipeline.train.numerics import set_numerics
from pipeline.train.objective import Objective
from pipeline.train.options import Options

DEFAULT = Options()


def evaluate(
    run: Path, data: Path, work: Path, log: Callable[[str], None], options: Options = DEFAULT
) -> dict[str, Any]:
    """Write ``metrics.json``, ``confusion.parquet`` and ``predictions/`` of the trained run in folder `run`.

    The checkpoints that the run's setting `checkpoints` names are scored on every chip of val and test, those left out
    whose score was never a number; predictions of the test chips are kept per checkpoint as
    ``predictions/test-<checkpoint>.npy``, the histograms of both splits' probabilities [C, 2, B] as
    ``predictions/probabilities-<checkpoint>.npz``. Of chips that the run shrinks, counts and scores are over the shrunk
    pixels, the kept predictions of the size of the chips. The resume state in the folder `work` is deleted: the run is
    complete. Returns the content of metrics.json.
    """
    facts = read_json(run / "run.json")
    spec = facts["spec"]
    settings = train_settings(spec)
    torch.set_num_threads(settings["threads"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    set_numerics(device, settings["deterministic"])
    joined = join(data, spec["data"])
    objective = Objective(spec["loss"], settings["epochs"], device)
    objective.for_validation()
    extra = ExtraTargets(objective.derive, len(joined.classes))
    runs = options.runs_per_gpu
    feed = Feed(joined, extra, device, options.residency, splits=("val", "test"), runs=runs, log=log)
    names = facts.get("checkpoints", [checkpoint_name(kept) for kept in settings["checkpoints"]])
    metrics: dict[str, Any] = {"checkpoints": {}}
    parts = []
    with atomic_folder(run / "predictions") as folder:
        for path in (run / "checkpoints" / f"{name}.safetensors" for name in names):
            model, stored = load_checkpoint(path)
            scaler = Scaler.of(stored["offset"], stored["scale"], device)
            model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            entry: dict[str, Any] = {"epoch": stored["epoch"]}
            histograms = {}
            for split in ("val", "test"):
                outcome = score_chips(
                    model, feed, split, scaler, objective, predictions=split == "test", histograms=True
                )
                scores = from_confusion(outcome.counts.sum(axis=0))
                entry[split] = {
                    "loss": outcome.loss,
                    "jaccard_coefficient": outcome.jaccard_coefficient,
                    "accuracy": scores["accuracy"],
                    "mean_iou": scores["mean_iou"],
                }
                parts.append(confusion_rows(joined.rows[split].chip_ids, outcome.counts, split, path.stem))
                histograms[split] = outcome.histograms
                if outcome.predictions is not None:
                    ids = joined.rows[split].chip_ids
                    write_predictions(folder, f"test-{path.stem}", outcome.predictions, ids, joined.factor)
            write_histograms(folder, f"probabilities-{path.stem}", histograms)
            metrics["checkpoints"][path.stem] = entry
            log(
                f"{path.stem} (epoch {entry['epoch']}): test mean IoU {entry['test']['mean_iou']:.4f}, "
                f"accuracy {entry['test']['accuracy']:.4f}, jaccard {entry['test']['jaccard_coefficient']:.4f}"
            )
    write_confusion(run / "confusion.parquet", parts)
    write_json(run / "metrics.json", metrics)
    shutil.rmtree(work, ignore_errors=True)
    return metrics
