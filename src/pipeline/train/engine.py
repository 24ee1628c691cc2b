"""Train one run: prepare it, take up its resume state, train it, publish what a table needs.

Resume state lives in ``work/<run>/`` with the hashes of spec, data, split and code; a mismatch discards it. The lean
imports (torch, numpy, pyarrow, safetensors) are on purpose: a GPU machine without geo packages trains too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import augment, losses, models, samplers, schedules, variants
from pipeline.augment._transform import Batch, Source
from pipeline.dataset.joined import Joined, class_counts, data_hashes, join, scaling, top_value
from pipeline.dataset.targets import store_targets
from pipeline.defaults import train_settings
from pipeline.errors import RunError
from pipeline.files import atomic_folder, canonical_json, read_json, write_json
from pipeline.protocol import LAST, checkpoint_name
from pipeline.schedules._stage import Stage
from pipeline.train import state
from pipeline.train.average import MovingAverage
from pipeline.train.checkpoint import save_checkpoint
from pipeline.train.compiling import compiled, share_cache
from pipeline.train.display import Display, terminal
from pipeline.train.feed import Feed
from pipeline.train.history import write_history
from pipeline.train.inference import Scaler, training_format
from pipeline.train.launch import processes
from pipeline.train.lock import run_lock
from pipeline.train.loggers import Loggers, check_loggers
from pipeline.train.loop import Trainer, fit
from pipeline.train.memory import network_fits
from pipeline.train.numerics import set_numerics
from pipeline.train.objective import Objective
from pipeline.train.optimizers import make_optimizer
from pipeline.train.options import Options
from pipeline.train.provenance import environment
from pipeline.train.step import Stepper
from pipeline.train.weight_search import WeightSearch
from pipeline.train.world import World

Array = np.ndarray[Any, np.dtype[Any]]
Spec = dict[str, Any]
Log = Callable[[str], None]
DEFAULT = Options()


def train(
    run: str,
    spec: Spec,
    code_hash: str,
    *,
    data: Path,
    out: Path,
    work: Path,
    log: Log,
    options: Options = DEFAULT,
    logs: Path = Path("logs"),
) -> None:
    """Train `run` as `spec` says and write ``run.json``, ``history.csv`` and ``checkpoints/`` below `out`.

    Args:
        run: the run's id.
        spec: the resolved run (`pipeline.runs`); settings of `train` that it lacks take their frozen defaults.
        code_hash: of the code that this run executes.
        data: folder of the regions' data.
        out: ``results/runs/<run>``.
        work: ``work/<run>``; it stays until the run is scored, so that a training that outlived its snakemake and
            ended is published again from its last state, not repeated.
        log: takes one line of text.
        options: how the machine is used.
        logs: below which loggers write.

    Raises ConfigError for a logger that is not installed, DataError for broken chip stores and RunError for a loss that
    is not finite or a device out of memory.
    """
    check_loggers(options.loggers)
    with run_lock(work, log) as waited:
        hashes = data_hashes(data, spec["data"]) | {"code": code_hash}
        fingerprint = canonical_json({"spec": spec, "hashes": hashes})
        if waited and _already_done(out, fingerprint):
            log("finished by the process that was waited for")
        else:
            job = {"spec": spec, "hashes": hashes, "data": str(data), "work": str(work), "options": asdict(options)}
            with processes(job, train_settings(spec)["devices"], work, log) as world:
                _train(run, spec, hashes, fingerprint, data, out, work, log, options, logs, world)


def _already_done(out: Path, fingerprint: str) -> bool:
    path = out / "run.json"
    if not path.is_file():
        return False
    facts = read_json(path)
    if not facts["finished"] or facts["fingerprint"] != fingerprint:
        return False
    return all((out / "checkpoints" / f"{name}.safetensors").is_file() for name in (*facts["checkpoints"], LAST))


def _train(
    run: str,
    spec: Spec,
    hashes: dict[str, str],
    fingerprint: str,
    data: Path,
    out: Path,
    work: Path,
    log: Log,
    options: Options,
    logs: Path,
    world: World,
) -> None:
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    begin = time.monotonic()
    trainer = prepare(spec, hashes, data, work, log, options, world)
    joined, learner = trainer.stepper.feed.joined, trainer.learner
    facts = {
        "id": run,
        "kind": "run",
        "name": spec["model"]["name"],
        "spec": spec,
        "classes": joined.classes,
        "colours": joined.labels.meta["colours"],
        "parameters": sum(p.numel() for p in learner.model.parameters() if p.requires_grad),
        "chips": {split: len(rows) for split, rows in joined.rows.items()},
        "hashes": hashes,
        "fingerprint": fingerprint,
        "started": started,
        "finished": None,
        **environment(world.device),
    }
    write_json(out / "run.json", facts)
    resumed = _resume(trainer, work, fingerprint, log)
    earlier = sum(row["seconds"] for row in learner.progress.history) if resumed else 0.0
    with (
        trainer.display as display,
        Loggers(options.loggers, run, spec, work=work, folder=logs, resumed=resumed, log=display.log) as loggers,
    ):
        fit(trainer, state.Saver(work, fingerprint), loggers)
        loggers.end(learner.progress.epoch, learner.progress.best)
    facts["checkpoints"] = _publish(trainer, out, log)
    facts["finished"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    facts["seconds"] = round(time.monotonic() - begin + earlier, 1)
    write_json(out / "run.json", facts)
    best = {name: round(value, 4) for name, value in learner.progress.best.items()}
    log(f"{learner.progress.epoch} epochs, best {best}")


def take_part(spec: Spec, hashes: dict[str, str], data: str, work: str, options: dict[str, Any], world: World) -> None:
    """Train beside process 0 of a run on several devices; nothing is written or said.

    Args:
        spec: the resolved run.
        hashes: of its data, split and code.
        data: folder of the regions' data.
        work: ``work/<run>``.
        options: fields of `Options`.
        world: of this process.
    """
    silent = Options(**{**options, "loggers": ()})
    trainer = prepare(spec, hashes, Path(data), Path(work), _nothing, silent, world)
    fingerprint = canonical_json({"spec": spec, "hashes": hashes})
    _resume(trainer, Path(work), fingerprint, _nothing)
    fit(trainer, state.Saver(Path(work), fingerprint))


def _nothing(line: str) -> None:
    """Where the lines of other processes than the first go."""


def prepare(
    spec: Spec,
    hashes: dict[str, str],
    data: Path,
    work: Path,
    log: Log,
    options: Options = DEFAULT,
    world: World | None = None,
) -> Trainer:
    """Make all pieces of a run: data, network, loss, optimiser and what the settings of its training name.

    `world` is this process among those of the run, by default the only one.
    """
    settings = train_settings(spec)
    torch.set_num_threads(settings["threads"])
    world = world or World(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    set_numerics(world.device, settings["deterministic"])
    joined = join(data, spec["data"])
    learner, scaler, facts = _learner(spec, settings, joined, world)
    objective = Objective(spec["loss"], settings["epochs"], world.device)
    made_for = canonical_json({"data": spec["data"], "hashes": hashes})
    with world.in_turn():
        extra = store_targets(work / "targets", joined, objective.derive, len(joined.classes), made_for, log)
    display = Display(settings["epochs"], log, terminal() if world.first else None)
    feed = Feed(joined, extra, world.device, options.residency, runs=options.runs_per_gpu, log=display.log)
    counts = class_counts(joined)
    search = WeightSearch(objective.search, settings["epochs"], settings["patience"]) if objective.search else None
    if search is not None and search.never is not None:
        log(search.never)
    stepper = Stepper(
        learner=learner,
        network=_network(learner.model, settings, world, data),
        feed=feed,
        scaler=scaler,
        objective=objective,
        transforms=_transforms(settings, feed, counts),
        settings=settings,
        seed=spec["seed"],
        world=world,
        watch_errors=samplers.needs_errors(settings["sampler"]["name"]),
        idle=_has_idle_heads(spec),
    )
    return Trainer(
        learner=learner,
        stepper=stepper,
        settings=settings,
        schedule=_schedule(settings),
        sampler=samplers.create(settings["sampler"]["name"], **settings["sampler"]["params"]),
        counts=counts,
        search=search,
        facts=facts,
        display=display,
    )


def _schedule(settings: dict[str, Any]) -> Callable[[int, float, schedules.History], Stage]:
    """The schedule of the settings; one whose `epochs` are null falls over as many as the run may have."""
    name, params = settings["schedule"]["name"], dict(settings["schedule"]["params"])
    if "epochs" in variants.parameters("schedules", name) and params.get("epochs") is None:
        params["epochs"] = settings["epochs"]
    return schedules.create(name, **params)


def _has_idle_heads(spec: Spec) -> bool:
    """Whether the network gives outputs that the loss does not ask for."""
    name = spec["model"]["name"]
    outputs = getattr(variants.light("models", name), "outputs", None)
    given = outputs(**spec["model"]["params"]) if outputs else variants.declared("models", name, "OUTPUTS", ())
    return bool(set(given) - {"mask", *losses.needs(spec["loss"]["name"], **spec["loss"]["params"]).outputs})


def _learner(
    spec: Spec, settings: dict[str, Any], joined: Joined, world: World
) -> tuple[state.Learner, Scaler, dict[str, Any]]:
    """The network with fresh weights and its optimiser, what it sees of pixels, and what a checkpoint says of it."""
    offset, scale = scaling(joined, spec["data"]["normalize"])
    bands = int(joined.images.chips.shape[1])
    torch.manual_seed(spec["seed"])
    name, params = spec["model"]["name"], spec["model"]["params"]
    with network_fits(name, settings, world.device):
        model = models.create(name, in_channels=bands, classes=len(joined.classes), **params)
        if world.size > 1:
            from pipeline.train.sync_norm import prepare_norms  # imports torch.compile: a second

            prepare_norms(model, world, settings["sync_batch_norm"])
        memory_format = training_format(model, world.device, settings["precision"])
        model = model.to(world.device, memory_format=memory_format)  # type: ignore[call-overload]
    learner = state.Learner(
        model=model,
        optimizer=make_optimizer(model, settings, world.device),
        progress=state.Progress(),
        average=None if settings["ema"] is None else MovingAverage(model, settings["ema"]),
        errors=torch.full((len(joined.rows["train"]),), torch.nan, device=world.device),
    )
    facts = {
        "model": spec["model"],
        "in_channels": bands,
        "classes": joined.classes,
        "colours": joined.labels.meta["colours"],
        "offset": offset,
        "scale": scale,
        "chip_px": joined.images.chip_px,
        "resize_px": spec["data"].get("resize_px"),
    }
    return learner, Scaler.of(offset, scale, world.device, memory_format), facts


def _network(model: torch.nn.Module, settings: dict[str, Any], world: World, data: Path) -> torch.nn.Module:
    """The network as training calls it: compiled where the settings say so, with the cache of the project."""
    if not settings["compile"]:
        return model
    share_cache(data.parent / "cache" / "compile")
    return compiled(model, world.device, graphs=settings["micro_batch"] is None and world.size == 1)


def _transforms(settings: dict[str, Any], feed: Feed, counts: Array) -> list[Any]:
    """The run's augmentations, acquainted with its training chips."""

    def take(at: Array) -> Batch:
        batch = feed.batch("train", at)
        return batch | {"image": batch["image"].float()}

    source = Source(counts, feed.joined.classes, top_value(feed.joined), take)
    transforms = [augment.create(entry["name"], **entry["params"]) for entry in settings["augment"]]
    for transform in transforms:
        transform.begin(source)
    return transforms


def _resume(trainer: Trainer, work: Path, fingerprint: str, log: Log) -> bool:
    """Take up the last saved epoch from `work`, and the weight search that was under way."""
    world = trainer.stepper.world
    found = state.load(work, fingerprint, log) if world.first else None
    if not world.agreed(found is not None):
        return False
    found = found or state.load(work, fingerprint, log)
    assert found is not None
    fresh = trainer.learner.snapshot()
    try:
        trainer.learner.restore(found)
        if trainer.search is not None:
            trainer.search.resume(found["search"])
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:  # it does not fit
        trainer.learner.restore(fresh)
        state.discard(work, log, error)
        return False
    log(f"resumed after epoch {trainer.learner.progress.epoch}")
    return True


def _publish(trainer: Trainer, out: Path, log: Log) -> list[str]:
    """Write the history and the checkpoints, the last epoch's among them; gives the names of those to be scored.

    RunError where none is: a score that was not a number in any epoch, such as the IoU of a class that the validation
    chips do not have, has no best epoch.
    """
    learner = trainer.learner
    write_history(out / "history.csv", learner.progress.history)
    learner.keep(LAST, {**trainer.facts, "checkpoint": LAST, "epoch": learner.progress.epoch})
    with atomic_folder(out / "checkpoints") as folder:
        for name, kept in learner.kept.items():
            save_checkpoint(folder / f"{name}.safetensors", kept.weights, kept.facts)
    wanted = {kept: checkpoint_name(kept) for kept in trainer.settings["checkpoints"]}
    never = [kept for kept, name in wanted.items() if name not in learner.kept]
    if never:
        lacking = f"{', '.join(never)} was not a number in any of {learner.progress.epoch} epochs: no checkpoint of it"
        if len(never) == len(wanted):
            raise RunError(f"{lacking}, and nothing to score; name another score in the study's checkpoints, or last")
        log(lacking)
    return [name for name in wanted.values() if name in learner.kept]
