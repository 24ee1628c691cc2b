"""What a study's file may say, as pydantic models; see `pipeline.schema`. Imports neither torch nor GDAL."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, TypeAdapter, WithJsonSchema

from pipeline.section import Section

Many = Annotated[list[Any], Field(min_length=1)]


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def axis(kind: Any) -> Any:
    """The type of a study's setting: one value of `kind`, or a list of them, kept as a list."""
    schema = TypeAdapter(kind).json_schema()
    either = {"anyOf": [schema, {"type": "array", "minItems": 1, "items": schema}]}
    return Annotated[list[kind], Field(min_length=1), BeforeValidator(_as_list), WithJsonSchema(either)]


def whole(kind: Any, many: bool = False) -> Any:
    """The type of a setting whose value is a list of `kind`; with `many`, a list of such lists is an axis."""
    one = TypeAdapter(list[kind]).json_schema()
    either = {"anyOf": [one, {"type": "array", "minItems": 1, "items": one}]}

    def wrapped(value: Any) -> Any:
        several = many and isinstance(value, list) and value and all(isinstance(item, list) for item in value)
        return value if several else [value if isinstance(value, list) else [value]]

    return Annotated[list[list[kind]], BeforeValidator(wrapped), WithJsonSchema(either if many else one)]


class StudyData(Section):
    """Where chips come from. A list instead of a value is an axis of the study."""

    region: axis(str)  # type: ignore[valid-type]
    imagery: axis(str)  # type: ignore[valid-type]
    recipe: axis(str)  # type: ignore[valid-type]
    split: axis(str)  # type: ignore[valid-type]
    normalize: axis(Literal["none", "unit", "standard"]) = Field(  # type: ignore[valid-type]
        ["none"],
        description="pixel values as they are (the Frankfurt report), divided by the dtype's maximum, or standardised "
        "by the training split's mean and deviation per band",
    )
    train_subset: axis(Annotated[int, Field(ge=1)] | None) = Field(  # type: ignore[valid-type]
        [None], description="a fixed random subset of N training chips"
    )
    val_subset: axis(Annotated[int, Field(ge=1)] | None) = Field(  # type: ignore[valid-type]
        [None], description="a fixed random subset of N validation chips"
    )
    resize_px: axis(Annotated[int, Field(ge=1)] | None) = Field(  # type: ignore[valid-type]
        [None], description="chips of a multiple of this size are shrunk to it, image and mask by their nearest pixels"
    )


Score = Literal["val_mean_iou", "val_accuracy", "val_mean_f1", "val_jaccard_coefficient", "val_loss"]
Entry = str | dict[str, Any]


class StudyTrain(Section):
    """Optimiser and protocol. A list instead of a value is an axis of the study."""

    optimizer: axis(Literal["rmsprop", "adam", "adamw", "sgd"]) = ["rmsprop"]  # type: ignore[valid-type]
    lr: axis(Annotated[float, Field(gt=0, le=1e5)]) = [1e-3]  # type: ignore[valid-type]
    momentum: axis(Annotated[float, Field(ge=0, lt=1, description="of sgd")]) = [0.9]  # type: ignore[valid-type]
    weight_decay: axis(Annotated[float, Field(ge=0)]) = [0.0]  # type: ignore[valid-type]
    schedule: axis(Entry) = Field(  # type: ignore[valid-type]
        default=["constant"],
        description="of the learning rate, a file of src/pipeline/schedules: a name, or {name: {parameter: value}}",
    )
    batch_size: axis(Annotated[int, Field(ge=1, description="chips per step of the optimiser")]) = [32]  # type: ignore[valid-type]
    micro_batch: axis(Annotated[int, Field(ge=1)] | None) = Field(  # type: ignore[valid-type]
        default=[None],
        description="chips that the network sees at once: gradients of a step are accumulated over parts of this size",
    )
    epochs: axis(Annotated[int, Field(ge=1)]) = [30]  # type: ignore[valid-type]
    patience: axis(Annotated[int, Field(ge=1, description="epochs without a better `monitor`")]) = [5]  # type: ignore[valid-type]
    monitor: axis(Entry) = Field(  # type: ignore[valid-type]
        default=["val_loss"],
        description="what early stopping watches: train_loss, val_loss, a score such as val_mean_iou, or a metric of "
        "counts, a file of src/pipeline/metrics, as {name: {parameter: value}}",
    )
    checkpoints: whole(str) = Field(  # type: ignore[valid-type]
        default=[["val_accuracy", "val_jaccard_coefficient"]],
        description="which epochs are scored: the best of each named score or of the `monitor`, and `last`, which is "
        "always kept",
    )
    sampler: axis(Entry) = Field(  # type: ignore[valid-type]
        default=["uniform"],
        description="which training chips an epoch shows, a file of src/pipeline/samplers: a name, or {name: "
        "{parameter: value}}",
    )
    flips: axis(Annotated[StrictBool, Field(description="random flips and quarter turns, image and mask")]) = [False]  # type: ignore[valid-type]
    augment: whole(Entry, many=True) = Field(  # type: ignore[valid-type]
        default=[[]],
        description="augmentations in their order, files of src/pipeline/augment: names, or {name: {parameter: "
        "value}}; a list of such lists is an axis",
    )
    clip_norm: axis(Annotated[float, Field(gt=0)] | None) = Field(  # type: ignore[valid-type]
        default=[None], description="the largest norm of all gradients together"
    )
    ema: axis(Annotated[float, Field(gt=0, lt=1)] | None) = Field(  # type: ignore[valid-type]
        default=[None],
        description="decay per step of an exponential moving average of the weights, which is validated and kept",
    )
    precision: axis(Literal["fp32", "bf16"]) = ["fp32"]  # type: ignore[valid-type]
    threads: axis(Annotated[int, Field(ge=1, description="CPU threads of one run; part of what it is")]) = [1]  # type: ignore[valid-type]
    devices: axis(Annotated[int, Field(ge=1)]) = Field(  # type: ignore[valid-type]
        default=[1], description="GPUs of one run, or processes on the CPU, which share each batch"
    )
    sync_batch_norm: axis(StrictBool) = Field(  # type: ignore[valid-type]
        default=[False], description="batch norm over the chips of all devices"
    )
    deterministic: axis(StrictBool) = Field(  # type: ignore[valid-type]
        default=[False], description="bit-equal repetition on a GPU, at some cost; the CPU always repeats"
    )
    compile: axis(StrictBool) = Field(  # type: ignore[valid-type]
        default=[False], description="torch.compile, with one cache for all runs"
    )


class StudyConfig(Section):
    """One file of config/studies: every combination of the lists below is a run."""

    title: str = ""
    description: str = ""
    data: StudyData
    models: Many = Field(description="names, or {name: {parameter: value}}; `train:` inside overrides for this model")
    losses: Many = Field(description="names, or {name: {parameter: value}}; `train:` inside overrides for this loss")
    train: StudyTrain = StudyTrain()
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(default_factory=lambda: [0], min_length=1)
    baselines: list[Any] = Field(
        default_factory=list, description="names of rules/variants, or {name: {parameter: value}}"
    )
    select: Score = Field("val_mean_iou", description="validation score that picks the checkpoint and the best run")
    metrics: list[Any] = Field(
        default_factory=list,
        description="further scores, files of src/pipeline/metrics: names, or {name: {parameter: value}}",
    )
    last_epochs: Annotated[int, Field(ge=1)] | None = Field(
        None, description="add every validation score over the last k epochs of a run"
    )
    last_statistic: Literal["median", "mean"] = Field("median", description="what of the last epochs is taken")


class EngineConfig(Section):
    """How runs use the machine: part of no run, so that an edit retrains nothing."""

    residency: Literal["auto", "device", "memory", "disk"] = Field(
        default="auto",
        description="where chips wait: on the device, in main memory, or in their files; auto: the first that has room",
    )
    runs_per_gpu: Annotated[int, Field(ge=1)] = Field(default=1, description="runs that share a GPU")
    loggers: list[Literal["tensorboard", "mlflow", "dvclive"]] = Field(
        default_factory=list, description="where the history of each epoch goes besides history.csv"
    )


class MainConfig(Section):
    """config/config.yaml: which studies to build, and how runs use the machine."""

    studies: list[str] = Field(min_length=1)
    engine: EngineConfig = EngineConfig()
