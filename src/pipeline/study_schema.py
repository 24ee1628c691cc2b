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


class StudyTrain(Section):
    """Optimiser and protocol. A list instead of a value is an axis of the study."""

    optimizer: axis(Literal["rmsprop", "adam", "adamw", "sgd"]) = ["rmsprop"]  # type: ignore[valid-type]
    lr: axis(Annotated[float, Field(gt=0, le=1e5)]) = [1e-3]  # type: ignore[valid-type]
    weight_decay: axis(Annotated[float, Field(ge=0)]) = [0.0]  # type: ignore[valid-type]
    batch_size: axis(Annotated[int, Field(ge=1)]) = [32]  # type: ignore[valid-type]
    epochs: axis(Annotated[int, Field(ge=1)]) = [30]  # type: ignore[valid-type]
    patience: axis(Annotated[int, Field(ge=1, description="epochs without a better validation loss")]) = [5]  # type: ignore[valid-type]
    flips: axis(Annotated[StrictBool, Field(description="random flips and quarter turns, image and mask")]) = [False]  # type: ignore[valid-type]
    precision: axis(Literal["fp32", "bf16"]) = ["fp32"]  # type: ignore[valid-type]
    threads: axis(Annotated[int, Field(ge=1, description="CPU threads of one run; part of what it is")]) = [1]  # type: ignore[valid-type]


Score = Literal["val_mean_iou", "val_accuracy", "val_mean_f1", "val_jaccard_coefficient", "val_loss"]


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


class MainConfig(Section):
    """config/config.yaml: which studies to build."""

    studies: list[str] = Field(min_length=1)
