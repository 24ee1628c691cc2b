"""What the settings of a training must satisfy together, checked while the Snakefile is parsed; light."""

from __future__ import annotations

from typing import Any

from pipeline import variants
from pipeline.errors import ConfigError, choices

LAST, MONITOR = "last", "monitor"
SHORT = {"val_accuracy": "best_accuracy", "val_jaccard_coefficient": "best_jaccard"}
LOSSES = ("train_loss", "val_loss")
OVERALL = ("accuracy", "balanced_accuracy", "mean_iou", "mean_f1", "mcc", "kappa", "jaccard_coefficient")
PER_CLASS = ("iou", "f1", "precision", "recall")


def checkpoint_name(kept: str) -> str:
    """The file of the checkpoint that a run keeps for `kept`: a score of the history, ``monitor`` or ``last``."""
    return SHORT.get(kept, kept if kept == LAST else f"best_{kept.removeprefix('val_')}")


def score_names(classes: list[str]) -> list[str]:
    """Columns that the history of a run on `classes` can have."""
    per_class = (f"{score}_{name}" for score in PER_CLASS for name in classes)
    return [*LOSSES, *(f"val_{name}" for name in (*OVERALL, *per_class))]


def monitored(settings: dict[str, Any]) -> str:
    """The column of the history that early stopping watches; of a metric of the family it is ``val_monitor``.

    A name of its own, since such a metric may be called as a score that the history has anyway: `mean_iou` without a
    class is not the mean IoU.
    """
    monitor = settings["monitor"]
    return monitor if isinstance(monitor, str) else f"val_{MONITOR}"


def followed(settings: dict[str, Any]) -> str | None:
    """The column of the history that the schedule watches, where it has a ``monitor``."""
    name: str | None = settings["schedule"]["params"].get("monitor")
    return name


def check_protocol(settings: dict[str, Any], classes: list[str], place: str) -> None:
    """ConfigError, in one line, for settings of a training that do not fit together.

    Args:
        settings: resolved, with all keys of `pipeline.defaults.FROZEN_TRAIN`.
        classes: of the region.
        place: opens every message.
    """
    known = score_names(classes)
    _check_monitor(settings["monitor"], classes, f"{place}.monitor")
    columns = list(dict.fromkeys([*known, monitored(settings)]))
    if followed(settings) not in (None, *columns):
        name = settings["schedule"]["name"]
        raise ConfigError(
            f"{place}.schedule: {name}: no score {followed(settings)!r}; {choices(str(followed(settings)), columns)}"
        )
    kept, possible = settings["checkpoints"], [*known, MONITOR, LAST]
    for name in kept:
        if name not in possible:
            raise ConfigError(f"{place}.checkpoints: no score {name!r}; {choices(name, possible)}")
    if not kept or len(set(kept)) != len(kept):
        raise ConfigError(f"{place}.checkpoints must name one score or more, none twice; got {kept}")
    size, micro, devices = settings["batch_size"], settings["micro_batch"], settings["devices"]
    if micro is not None and (micro > size or size % micro):
        raise ConfigError(f"{place}.micro_batch {micro} must divide batch_size {size}")
    parts = size // (micro or size)
    if devices > 1 and (size % devices if micro is None else parts % devices):
        unit = f"batch_size {size}" if micro is None else f"the {parts} parts of a batch (batch_size / micro_batch)"
        raise ConfigError(f"{place}.devices {devices} must divide {unit}")


def _check_monitor(monitor: Any, classes: list[str], place: str) -> None:
    """ConfigError for what early stopping cannot watch: no score of the history, no metric of counts, best where 0."""
    if isinstance(monitor, str):
        known = score_names(classes)
        if monitor not in known:
            raise ConfigError(f"{place}: no score {monitor!r}; {choices(monitor, known)}")
        return
    name, params = monitor["name"], monitor["params"]
    if variants.declared("metrics", name, "NEEDS") != "counts":
        raise ConfigError(f"{place}: {name!r} is no metric of confusion counts")
    if variants.declared("metrics", name, "BEST") == 0:
        raise ConfigError(f"{place}: {name!r} is best where it is lowest; early stopping takes a metric that rises")
    left_out = params.get("leave_out") or []
    for label in left_out:
        if label not in classes:
            raise ConfigError(f"{place}: {name}.leave_out: no class {label!r}; {choices(str(label), classes)}")
    if set(left_out) == set(classes):
        raise ConfigError(f"{place}: {name}.leave_out names all classes; leave one at least")


def check_schedule(model: str, settings: dict[str, Any], place: str) -> None:
    """ConfigError when a schedule does not fit the other settings, or asks for a part of a model that has no parts.

    A schedule's light module may have ``fits(train, **params)``, which raises ConfigError (its `monitor` is a column of
    the history), and ``parts(**params)``, the parts of a network that it lets learn alone.
    """
    name, params = settings["schedule"]["name"], settings["schedule"]["params"]
    further = variants.light("schedules", name)
    fits, parts = getattr(further, "fits", None), getattr(further, "parts", None)
    if fits is not None:
        try:
            fits(settings | {"monitor": monitored(settings)}, **params)
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from None
    asked = parts(**params) if parts is not None else []
    if asked and not variants.declared("models", model, "ENCODER"):
        raise ConfigError(
            f"{place}: {name} trains the part {' and '.join(asked)} alone, and model {model!r} does not say what its "
            f"encoder is; name its submodules in src/pipeline/models/{model}.py, such as ENCODER = ('encoder',)"
        )
