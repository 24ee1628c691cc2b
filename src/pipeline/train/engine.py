"""Train one run: a loop whose every step is a function of (seed, epoch, step), so that a killed run resumes bit by bit.

Resume state lives in ``work/<run>/`` with the hashes of spec, data, split and code; a mismatch discards it. The lean
imports (torch, numpy, pyarrow, safetensors) are on purpose: a GPU machine without geo packages trains too.
"""

from __future__ import annotations

import csv
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import models
from pipeline.dataset.joined import Joined, data_hashes, join, scaling
from pipeline.dataset.targets import ExtraTargets, store_targets
from pipeline.errors import RunError
from pipeline.files import atomic_file, atomic_folder, canonical_json, read_json, write_json
from pipeline.metrics import from_confusion
from pipeline.train import state
from pipeline.train.checkpoint import CHECKPOINTS, save_checkpoint
from pipeline.train.inference import Scaler, score_chips, training_format
from pipeline.train.lock import run_lock
from pipeline.train.objective import Objective
from pipeline.train.provenance import environment
from pipeline.train.weight_search import WeightSearch

Array = np.ndarray[Any, np.dtype[Any]]
Spec = dict[str, Any]


@dataclass
class Trainer(state.Learner):
    """The pieces of one run in training."""

    spec: Spec
    joined: Joined
    scaler: Scaler
    objective: Objective
    search: WeightSearch | None
    extra: ExtraTargets
    device: torch.device
    facts: dict[str, Any]
    log: Callable[[str], None]


def train(
    run: str, spec: Spec, code_hash: str, *, data: Path, out: Path, work: Path, log: Callable[[str], None]
) -> None:
    """Train `run` as `spec` says and write ``run.json``, ``history.csv`` and ``checkpoints/`` below `out`.

    Args:
        run: the run's id.
        spec: the resolved run (`pipeline.runs`).
        code_hash: of the code that this run executes.
        data: folder of the regions' data.
        out: ``results/runs/<run>``.
        work: ``work/<run>``; it stays until the run is scored, so that a training that outlived its snakemake and
            ended is published again from its last state, not repeated.
        log: takes one line of text.

    Raises DataError for broken chip stores and RunError for a loss that is not finite or a device out of memory.
    """
    with run_lock(work, log) as waited:
        hashes = data_hashes(data, spec["data"]) | {"code": code_hash}
        fingerprint = canonical_json({"spec": spec, "hashes": hashes})
        if waited and _already_done(out, fingerprint):
            log("finished by the process that was waited for")
        else:
            _train(run, spec, hashes, fingerprint, data, out, work, log)


def _already_done(out: Path, fingerprint: str) -> bool:
    path = out / "run.json"
    if not path.is_file():
        return False
    facts = read_json(path)
    complete = all((out / "checkpoints" / f"{name}.safetensors").is_file() for name in CHECKPOINTS)
    return complete and bool(facts["finished"]) and facts["fingerprint"] == fingerprint


def _train(
    run: str,
    spec: Spec,
    hashes: dict[str, str],
    fingerprint: str,
    data: Path,
    out: Path,
    work: Path,
    log: Callable[[str], None],
) -> None:
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    begin = time.monotonic()
    trainer = _prepare(spec, hashes, data, work, log)
    facts = {
        "id": run,
        "kind": "run",
        "name": spec["model"]["name"],
        "spec": spec,
        "classes": trainer.joined.classes,
        "colours": trainer.joined.labels.meta["colours"],
        "parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "chips": {split: len(rows) for split, rows in trainer.joined.rows.items()},
        "hashes": hashes,
        "fingerprint": fingerprint,
        "started": started,
        "finished": None,
        **environment(trainer.device),
    }
    write_json(out / "run.json", facts)
    resumed = _resume(trainer, work, fingerprint)
    earlier = sum(row["seconds"] for row in trainer.progress.history) if resumed else 0.0
    _fit(trainer, work, fingerprint)
    _publish(trainer, work, out)
    facts["finished"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    facts["seconds"] = round(time.monotonic() - begin + earlier, 1)
    write_json(out / "run.json", facts)
    best = {name: round(value, 4) for name, value in trainer.progress.best.items()}
    log(f"{trainer.progress.epoch} epochs, best {best}")


def _prepare(spec: Spec, hashes: dict[str, str], data: Path, work: Path, log: Callable[[str], None]) -> Trainer:
    torch.set_num_threads(spec["train"]["threads"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
    joined = join(data, spec["data"])
    offset, scale = scaling(joined, spec["data"]["normalize"])
    bands = int(joined.images.chips.shape[1])
    torch.manual_seed(spec["seed"])
    model = models.create(
        spec["model"]["name"], in_channels=bands, classes=len(joined.classes), **spec["model"]["params"]
    )
    memory_format = training_format(model, device, spec["train"]["precision"])
    model = model.to(device, memory_format=memory_format)  # type: ignore[call-overload]
    facts = {
        "model": spec["model"],
        "in_channels": bands,
        "classes": joined.classes,
        "colours": joined.labels.meta["colours"],
        "offset": offset,
        "scale": scale,
        "chip_px": joined.images.chip_px,
    }
    epochs = spec["train"]["epochs"]
    objective = Objective(spec["loss"], epochs, device)
    search = WeightSearch(objective.search, epochs, spec["train"]["patience"]) if objective.search else None
    if search is not None and search.never is not None:
        log(search.never)
    made_for = canonical_json({"data": spec["data"], "hashes": hashes})
    return Trainer(
        model=model,
        optimizer=_optimizer(model, spec["train"]),
        progress=state.Progress(),
        spec=spec,
        joined=joined,
        scaler=Scaler.of(offset, scale, device, memory_format),
        objective=objective,
        search=search,
        extra=store_targets(work / "targets", joined, objective.derive, len(joined.classes), made_for, log),
        device=device,
        facts=facts,
        log=log,
    )


def _optimizer(model: torch.nn.Module, settings: dict[str, Any]) -> torch.optim.Optimizer:
    """The papers' optimisers; RMSprop with ρ 0.9 and ε 1e-7, as the Frankfurt report's."""
    lr, decay = settings["lr"], settings["weight_decay"]
    parameters = [p for p in model.parameters() if p.requires_grad]
    name = settings["optimizer"]
    if name == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=lr, alpha=0.9, eps=1e-7, weight_decay=decay)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=decay)
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(parameters, lr=lr, weight_decay=decay)


def _resume(trainer: Trainer, work: Path, fingerprint: str) -> bool:
    """Take up the last complete epoch from `work`, and the weight search that was under way."""
    found = state.load(work, fingerprint, trainer.log)
    if found is None:
        return False
    trainer.restore(found)
    if trainer.search is not None:
        trainer.search.resume(found["search"])
    trainer.log(f"resumed after epoch {trainer.progress.epoch}")
    return True


def _fit(trainer: Trainer, work: Path, fingerprint: str) -> None:
    settings, search = trainer.spec["train"], trainer.search
    while trainer.progress.epoch < settings["epochs"] and trainer.progress.bad_epochs < settings["patience"]:
        progress = trainer.progress
        row = _epoch(trainer)
        progress.epoch += 1
        progress.history.append(row)
        for name, score in CHECKPOINTS.items():
            if row[score] > progress.best.get(name, -math.inf):
                progress.best[name] = row[score]
                facts = {**trainer.facts, "checkpoint": name, "epoch": progress.epoch, score: row[score]}
                save_checkpoint(work / progress.folder / f"{name}.safetensors", trainer.model, facts)
        improved = row["val_loss"] < progress.best_loss
        progress.best_loss = min(progress.best_loss, row["val_loss"])
        progress.bad_epochs = 0 if improved else progress.bad_epochs + 1
        found = search.advance(trainer, work) if search is not None else []
        state.save(work, fingerprint, trainer, search.state() if search is not None else None)
        _say(trainer, row)
        for line in found:
            trainer.log(line)


def _epoch(trainer: Trainer) -> dict[str, float]:
    """Train and validate one epoch; returns its row of the history."""
    begin, progress, objective = time.monotonic(), trainer.progress, trainer.objective
    objective.on_epoch(progress.epoch, progress.loss_weight)
    row = {"epoch": progress.epoch + 1, "lr": trainer.optimizer.param_groups[0]["lr"]}
    if objective.changing_weight is not None:
        row["loss_weight"] = objective.changing_weight
    row["train_loss"] = _train_epoch(trainer, progress.epoch)
    row |= _validate(trainer)
    row["seconds"] = round(time.monotonic() - begin, 3)
    return row


def _say(trainer: Trainer, row: dict[str, float]) -> None:
    settings = trainer.spec["train"]
    chips = len(trainer.joined.rows["train"])
    left = (settings["epochs"] - row["epoch"]) * row["seconds"]
    trainer.log(
        f"epoch {row['epoch']:.0f}/{settings['epochs']}  train {row['train_loss']:.4f}  val {row['val_loss']:.4f}  "
        f"accuracy {row['val_accuracy']:.4f}  jaccard {row['val_jaccard_coefficient']:.4f}  "
        f"mean IoU {row['val_mean_iou']:.4f}  {chips / row['seconds']:.0f} chips/s  at most {left:.0f} s left"
    )


def _train_epoch(trainer: Trainer, epoch: int) -> float:
    """One pass over the training chips; returns the mean loss. The incomplete last batch is left out."""
    settings, rows = trainer.spec["train"], trainer.joined.rows["train"]
    size = min(settings["batch_size"], len(rows))
    order = np.random.default_rng([trainer.spec["seed"], epoch]).permutation(len(rows))
    trainer.model.train()
    total, steps = 0.0, len(rows) // size
    last = time.monotonic()
    for step in range(steps):
        total += _step(trainer, order[step * size : (step + 1) * size], epoch, step)
        if time.monotonic() - last > 10:
            last = time.monotonic()
            trainer.log(f"epoch {epoch + 1}  step {step + 1}/{steps}  loss {total / (step + 1):.4f}")
    return float(total / steps)


def _step(trainer: Trainer, at: Array, epoch: int, step: int) -> float:
    words = np.random.SeedSequence([trainer.spec["seed"], epoch, step]).generate_state(2)
    torch.manual_seed(int(words[0]))
    part = trainer.joined.rows["train"].take(at)
    images, masks = trainer.joined.batch(part)
    extra = trainer.extra.batch("train", at, images, masks)
    if trainer.spec["train"]["flips"]:
        images, masks, *others = _flip([images, masks, *extra.values()], np.random.default_rng(int(words[1])))
        extra = dict(zip(extra, others, strict=True))
    inputs, targets = trainer.scaler(images), trainer.objective.tensors(masks, extra)
    trainer.optimizer.zero_grad(set_to_none=True)
    try:
        with torch.autocast(trainer.device.type, torch.bfloat16, enabled=trainer.spec["train"]["precision"] == "bf16"):
            output = trainer.model(inputs)
        loss = trainer.objective(output, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        trainer.optimizer.step()
    except torch.OutOfMemoryError:
        size = trainer.spec["train"]["batch_size"]
        raise RunError(f"the device ran out of memory at batch_size {size}; try {max(1, size // 2)}") from None
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise RunError(
            f"batch norm has one value per channel at batch_size {len(at)} with these chips; take a larger batch_size"
        ) from None
    value = float(loss.detach())
    if not math.isfinite(value):
        chips = ", ".join(str(chip) for chip in part.chip_ids[:8])
        raise RunError(f"the loss is {value} at epoch {epoch + 1}, batch {step + 1} (chips {chips}); try a lower lr")
    return value


def _flip(arrays: list[Array], rng: np.random.Generator) -> list[Array]:
    """One of the eight symmetries of the square per chip, for all of [N, ..., H, W] together: image, mask, targets."""
    arrays = [array.copy() for array in arrays]
    chips = len(arrays[0])
    for chip, (turns, mirror) in enumerate(zip(rng.integers(0, 4, chips), rng.integers(0, 2, chips), strict=True)):
        for array in arrays:
            turned = np.rot90(array[chip], turns, (-2, -1))
            array[chip] = turned[..., ::-1] if mirror else turned
    return arrays


def _validate(trainer: Trainer) -> dict[str, float]:
    trainer.objective.for_validation()
    outcome = score_chips(trainer.model, trainer.joined, "val", trainer.scaler, trainer.objective, trainer.extra)
    scores = from_confusion(outcome.counts.sum(axis=0))
    return {
        "val_loss": outcome.loss,
        "val_accuracy": scores["accuracy"],
        "val_jaccard_coefficient": outcome.jaccard_coefficient,
        "val_mean_iou": scores["mean_iou"],
    }


def _publish(trainer: Trainer, work: Path, out: Path) -> None:
    """Write the history and copy the checkpoints to their place."""
    history = trainer.progress.history
    with atomic_file(out / "history.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
    with atomic_folder(out / "checkpoints") as folder:  # by name: a killed process leaves half a file in `work`
        for name in CHECKPOINTS:
            for suffix in (".safetensors", ".json"):
                shutil.copy2(work / trainer.progress.folder / f"{name}{suffix}", folder)
