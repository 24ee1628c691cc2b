"""What the config files may say, as pydantic models: class schemes, regions, label recipes, studies.

Unknown keys are forbidden, values do not change after reading. `pipeline.config` reads the files and re-exports these
models; config/schema.json is generated from them. Imports neither torch nor GDAL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    TypeAdapter,
    WithJsonSchema,
    model_validator,
)

from pipeline.errors import ConfigError, choices
from pipeline.grid import MERCATOR_MAX_LAT, Grid, web_mercator_grid
from pipeline.names import checked_name

IGNORE = 255
Name = Annotated[str, AfterValidator(checked_name)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Section(BaseModel):
    """Base of every config section: unknown keys are errors, numbers finite, values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# --- class schemes -----------------------------------------------------------------------------------------------


class ClassEntry(Section):
    """One class of a scheme."""

    index: int = Field(ge=0, le=254, description="value in the label raster")
    name: Name
    colour: tuple[int, int, int] = Field(description="red, green, blue, 0 to 255")

    @model_validator(mode="after")
    def _colour_range(self) -> ClassEntry:
        if not all(0 <= band <= 255 for band in self.colour):
            raise ValueError(f"colour {list(self.colour)} has a value outside 0 to 255")
        return self


class ClassScheme(Section):
    """All K classes of a label raster, background included; 255 is ignored."""

    classes: list[ClassEntry] = Field(min_length=2)

    @model_validator(mode="after")
    def _unique(self) -> ClassScheme:
        for field in ("index", "name"):
            seen: set[Any] = set()
            for entry in self.classes:
                value = getattr(entry, field)
                if value in seen:
                    raise ValueError(f"class {field} {value} is used twice")
                seen.add(value)
        indices = sorted(entry.index for entry in self.classes)
        if indices != list(range(len(indices))):
            raise ValueError(f"class indices must be 0 to {len(indices) - 1} without gaps, got {indices}")
        return self

    @property
    def names(self) -> list[str]:
        """Class names in index order."""
        return [entry.name for entry in self._ordered()]

    @property
    def colours(self) -> list[tuple[int, int, int]]:
        """RGB colours in index order."""
        return [entry.colour for entry in self._ordered()]

    def _ordered(self) -> list[ClassEntry]:
        return sorted(self.classes, key=lambda entry: entry.index)

    def index(self, name: str) -> int:
        """The index of class `name`."""
        if name not in self.names:
            raise ConfigError(f"no class {name!r}; {choices(name, self.names)}")
        return self.names.index(name)


# --- regions -----------------------------------------------------------------------------------------------------


class XyzSource(Section):
    """Tiles over HTTP from a template such as ``https://host/{z}/{x}/{y}.jpg``."""

    kind: Literal["xyz"]
    url: str = Field(description="template with {z}, {x}, {y}; a literal ${NAME} is taken from the environment")
    serve: Path | None = Field(None, description="folder z/x/y.* served on loopback as {host} while downloading")
    zoom: int | None = Field(None, ge=0, le=23, description="zoom of the tiles; default: the grid's")
    max_zoom: int = Field(23, ge=0, le=23)
    attribution: str = ""
    terms: str = Field("", description="link to the terms of use")
    connections: int = Field(8, ge=1, le=64)
    retries: int = Field(5, ge=0, le=20)
    timeout_s: float = Field(30.0, gt=0)
    max_missing: float = Field(0.0, ge=0, le=1, description="largest share of missing tiles per shard that is no error")

    @model_validator(mode="after")
    def _placeholders(self) -> XyzSource:
        missing = [part for part in ("{z}", "{x}", "{y}") if part not in self.url]
        if missing:
            raise ValueError(f"the url {self.url!r} lacks {', '.join(missing)}")
        if ("{host}" in self.url) != (self.serve is not None):
            raise ValueError("{host} in the url and `serve` go together")
        if self.serve is None and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"the url {self.url!r} must start with http:// or https://")
        return self


class RasterSource(Section):
    """A local raster file."""

    kind: Literal["raster"]
    path: Path
    bands: list[int] | None = Field(None, min_length=1, description="1-based bands to take; default: all but alpha")
    attribution: str = ""
    terms: str = ""


ImagerySource = Annotated[XyzSource | RasterSource, Field(discriminator="kind")]


class GridConfig(Section):
    """The region's grid: the x/y/z pixels of a zoom (EPSG:3857), or the pixels of one of its raster sources."""

    zoom: int | None = Field(None, ge=0, le=23)
    imagery: str | None = Field(None, description="name of a raster source under `imagery`")

    @model_validator(mode="after")
    def _one(self) -> GridConfig:
        if (self.zoom is None) == (self.imagery is None):
            raise ValueError("give either `zoom` or `imagery`")
        return self


class OsmConfig(Section):
    """An OpenStreetMap extract."""

    path: Path = Field(description="local .osm.pbf")


class LandcoverConfig(Section):
    """A land-cover raster and what its values mean."""

    path: Path
    classes: dict[int, str] = Field(description="value in the raster → class name; every value must be listed")
    ignore: list[int] = Field(default_factory=list, description="values that become 255")


class SplitConfig(Section):
    """Which ground belongs to training, validation and test.

    `block` draws square blocks and keeps chips of different splits `buffer_m` apart; `random` draws each chip by
    itself (the Frankfurt report's, which leaks). With `folds`, fold number `fold` is the test set.
    """

    kind: Literal["block", "random"] = "block"
    block_px: int | None = Field(None, ge=1, description="edge of a block in pixels; default: four chips (random: one)")
    buffer_m: float | None = Field(None, ge=0, description="metres between splits; default: one chip (random: 0)")
    fractions: tuple[float, float, float] = Field((0.7, 0.15, 0.15), description="train, val, test")
    folds: int | None = Field(None, ge=2, le=50)
    fold: int = Field(0, ge=0)
    balance: str = Field(description="recipe whose class counts the assignment balances")
    seed: Seed = 0

    @model_validator(mode="after")
    def _sane(self) -> SplitConfig:
        if any(share <= 0 for share in self.fractions) or abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(f"fractions {list(self.fractions)} must be positive and add up to 1")
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} does not exist: {self.folds} folds count from 0")
        if self.kind == "random" and self.buffer_m:
            raise ValueError("a random split has no buffer: drop buffer_m or take kind: block")
        return self


class ChipConfig(Section):
    """How chips are cut: a regular grid of squares from the region's top-left corner."""

    px: Annotated[int, Field(ge=8, le=4096)] = 128
    margin_px: Annotated[int, Field(ge=0, description="left out along the region's border")] = 0
    drop_outer: Annotated[StrictBool, Field(description="drop the outermost row and column of chips on each side")] = (
        False
    )


class DemoConfig(Section):
    """Marks a region whose sources are generated from a seed."""

    seed: Seed = 7


class RegionConfig(Section):
    """One file of config/regions."""

    title: str = ""
    bbox: tuple[float, float, float, float] | None = Field(None, description="west, south, east, north in degrees")
    grid: GridConfig
    shard_px: int = Field(8192, ge=256, le=65536)
    classes: str = Field(description="name of a file in config/classes")
    imagery: dict[Name, ImagerySource] = Field(min_length=1)
    osm: OsmConfig | None = None
    landcover: dict[Name, LandcoverConfig] = Field(default_factory=dict)
    chips: ChipConfig = ChipConfig()
    splits: dict[Name, SplitConfig] = Field(default_factory=dict)
    truth: Path | None = Field(None, description="a class raster that no training sees, for truth_* columns")
    demo: DemoConfig | None = None

    @model_validator(mode="after")
    def _sane(self) -> RegionConfig:
        if self.bbox is not None:
            _check_bbox(self.bbox)
        if self.grid.zoom is not None and self.bbox is None:
            raise ValueError("a grid by zoom needs a bbox")
        if self.grid.imagery is not None:
            source = self.imagery.get(self.grid.imagery)
            if source is None:
                raise ValueError(
                    f"grid.imagery: no source {self.grid.imagery!r}; {choices(self.grid.imagery, self.imagery)}"
                )
            if not isinstance(source, RasterSource):
                raise ValueError(
                    f"grid.imagery: {self.grid.imagery!r} is of kind {source.kind}, only a raster has a grid"
                )
        for name, split in self.splits.items():
            if split.block_px is not None and split.block_px % self.chips.px:
                raise ValueError(f"splits.{name}: block_px {split.block_px} is no multiple of chips.px {self.chips.px}")
        for name, source in self.imagery.items():
            if isinstance(source, XyzSource):
                if self.grid.zoom is None:
                    raise ValueError(f"imagery.{name}: x/y/z tiles need a grid by zoom")
                if (source.zoom or self.grid.zoom) != self.grid.zoom:
                    raise ValueError(f"imagery.{name}: zoom {source.zoom} differs from the grid's {self.grid.zoom}")
                if self.grid.zoom > source.max_zoom:
                    raise ValueError(f"imagery.{name}: zoom {self.grid.zoom} is above the source's {source.max_zoom}")
        return self

    def static_grid(self) -> Grid | None:
        """The grid where the config alone decides it (`grid.zoom`), else None (it comes from the raster's header)."""
        if self.grid.zoom is None or self.bbox is None:
            return None
        return web_mercator_grid(self.bbox, self.grid.zoom, self.shard_px)

    def shard_names(self) -> list[str]:
        """Names of the region's shards; a grid taken from a raster is one shard."""
        grid = self.static_grid()
        return ["r00c00"] if grid is None else [shard.name for shard in grid.shards()]


def _check_bbox(bbox: tuple[float, float, float, float]) -> None:
    west, south, east, north = bbox
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= 90 and -90 <= north <= 90):
        raise ValueError(f"bbox {list(bbox)} is not west, south, east, north in degrees")
    if south >= north:
        raise ValueError(f"bbox: south {south} is not below north {north}; the order is west, south, east, north")
    if west >= east:
        raise ValueError(f"bbox: west {west} is not left of east {east}; the order is west, south, east, north")
    if max(abs(south), abs(north)) > MERCATOR_MAX_LAT:
        raise ValueError(f"bbox reaches beyond {MERCATOR_MAX_LAT:.2f} degrees of latitude")


# --- label recipes -----------------------------------------------------------------------------------------------


class LandcoverLayer(Section):
    """Paint the classes of one of the region's land-cover rasters."""

    kind: Literal["landcover"]
    source: str


class PolygonLayer(Section):
    """Paint OSM areas with one class."""

    kind: Literal["areas"]
    layer: Literal["water", "buildings", "landuse"]
    tags: dict[str, list[str]] | None = Field(None, description="only areas with one of these tag values")
    label: str = Field(description="class to paint")
    all_touched: StrictBool = False


class LineLayer(Section):
    """Paint OSM lines as wide as they are: the width tag, else lanes x lane_m, else the set's default, in metres."""

    kind: Literal["lines"]
    layer: Literal["roads", "waterways"]
    label: str = Field(description="class to paint")
    widths_m: dict[str, float] = Field(
        min_length=1, description="value of highway or waterway → default width, metres; others are left out"
    )
    grades: list[str] | None = Field(None, description="tracktype values that a highway=track must have")
    lane_m: float | None = Field(None, gt=0, description="metres per lane, for lines with `lanes` and no `width`")
    use_width_tag: StrictBool = True

    @model_validator(mode="after")
    def _positive(self) -> LineLayer:
        for value, width in self.widths_m.items():
            if not 0 < width <= 500:
                raise ValueError(f"widths_m.{value}: {width} is no width in metres (above 0, at most 500)")
        return self


RecipeLayer = Annotated[LandcoverLayer | PolygonLayer | LineLayer, Field(discriminator="kind")]


class RecipeConfig(Section):
    """One file of config/recipes: layers painted in order, later ones over earlier ones."""

    title: str = ""
    background: str | None = Field(None, description="class of pixels that no layer paints; default: ignored (255)")
    layers: dict[Name, RecipeLayer] = Field(min_length=1)


# --- studies -----------------------------------------------------------------------------------------------------

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


class MainConfig(Section):
    """config/config.yaml: which studies to build."""

    studies: list[str] = Field(min_length=1)
