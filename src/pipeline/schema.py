"""What the config files may say, as pydantic models: class schemes, regions, label recipes (studies: study_schema.py).

Unknown keys are forbidden, values do not change after reading. `pipeline.config` reads the files and re-exports these
models; config/schema.json is generated from them. Imports neither torch nor GDAL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StrictBool, Tag, model_validator

from pipeline.errors import ConfigError, choices
from pipeline.extent import check_bbox, check_pixels, check_source, grid_of
from pipeline.grid import Grid
from pipeline.section import Name, Section
from pipeline.sources._kinds import union
from pipeline.sources.raster import Source as RasterSource

IGNORE = 255
Seed = Annotated[int, Field(ge=0, lt=2**63)]


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
        if any(entry.name == "ignored" for entry in self.classes):
            raise ValueError("class name 'ignored' means pixels of no class in statistics; take another")
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


class GridConfig(Section):
    """The region's grid: the x/y/z pixels of a zoom (EPSG:3857), squares in a coordinate system, or a raster's own."""

    zoom: int | None = Field(None, ge=0, le=23)
    crs: str | None = Field(None, description="coordinate system of the grid, such as EPSG:25832")
    resolution: float | None = Field(
        None, gt=0, description="units of `crs` per pixel; pixel edges lie on multiples of it"
    )
    origin: tuple[float, float] | None = Field(
        None, description="x, y in `crs` where counting those multiples begins (default 0, 0), such as a WMTS's corner"
    )
    imagery: str | None = Field(None, description="name of a raster source under `imagery`, whose pixels are taken")

    @model_validator(mode="after")
    def _one(self) -> GridConfig:
        if (self.crs is None) != (self.resolution is None):
            raise ValueError("`crs` and `resolution` go together")
        if self.origin is not None and self.crs is None:
            raise ValueError("`origin` is for a grid of `crs` and `resolution`")
        if [self.zoom, self.imagery, self.crs].count(None) != 2:
            raise ValueError("give one of `zoom`, `imagery`, or `crs` with `resolution`")
        return self


class OsmConfig(Section):
    """An OpenStreetMap extract: a local file, or one to download and check."""

    path: Path | None = Field(None, description="local .osm.pbf")
    url: str | None = Field(None, description="where to download it; ${NAME} is taken from the environment")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    md5: str | None = Field(None, pattern="^[0-9a-f]{32}$")
    checksum_url: str | None = Field(None, description="a file that opens with the extract's md5 or sha256")

    @model_validator(mode="after")
    def _one(self) -> OsmConfig:
        if (self.path is None) == (self.url is None):
            raise ValueError("give either `path` or `url`")
        checks = [key for key in ("sha256", "md5", "checksum_url") if getattr(self, key) is not None]
        if self.url is not None and len(checks) != 1:
            raise ValueError("a `url` needs one of sha256, md5, checksum_url, so that a damaged download is noticed")
        if self.url is not None and not self.url.partition("?")[0].endswith(".osm.pbf"):
            raise ValueError(f"the url {self.url!r} names no .osm.pbf")
        if self.url is None and checks:
            raise ValueError(f"{checks[0]} belongs to a `url`")
        return self

    @property
    def file_name(self) -> str:
        """The extract's name without folders."""
        return self.path.name if self.path else str(self.url).partition("?")[0].rpartition("/")[2]


class LandcoverSection(Section):
    """What every kind of land cover takes: the meaning of its values."""

    classes: dict[int | str, str] = Field(description="value in the source → class name")
    ignore: list[int | str] = Field(default_factory=list, description="values that become 255 on purpose")
    max_unmapped: float = Field(
        0.0, ge=0, le=1, description="largest share of the region with values in neither list that is no error"
    )
    attribution: str = ""
    terms: str = ""

    @model_validator(mode="after")
    def _apart(self) -> LandcoverSection:
        both = sorted(map(str, self.classes.keys() & set(self.ignore)))
        if both:
            raise ValueError(f"value {both[0]} stands in `classes` and in `ignore`")
        return self


class LandcoverConfig(LandcoverSection):
    """A land-cover raster: a local file, or files on a server that are read by window."""

    kind: Literal["raster"] = "raster"
    path: Path | None = None
    url: str | Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="one or more GeoTIFFs on a server, those on top first; read by window"
    )
    band: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _one(self) -> LandcoverConfig:
        if (self.path is None) == (self.url is None):
            raise ValueError("give either `path` or `url`")
        return self


class LandcoverVector(LandcoverSection):
    """Land-cover polygons in a file that GDAL reads."""

    kind: Literal["vector"]
    path: Path
    layer: str | None = Field(None, description="default: the file's only one")
    field: str = Field(description="column that holds the values")


class LandcoverService(LandcoverSection):
    """Land-cover polygons of an ArcGIS feature service, asked for page by page."""

    kind: Literal["arcgis"]
    url: str = Field(description="…/FeatureServer/<layer>; ${NAME} is taken from the environment")
    field: str = Field(description="column that holds the values")
    page_size: int = Field(1000, ge=1, le=100_000)
    connections: int = Field(2, ge=1, le=64)
    rate_per_s: float | None = Field(None, gt=0)
    retries: int = Field(5, ge=0, le=20)
    timeout_s: float = Field(60.0, gt=0)


def _landcover_kind(value: Any) -> str:
    found = value.get("kind", "raster") if isinstance(value, dict) else getattr(value, "kind", "raster")
    return str(found)


Landcover = Annotated[
    Annotated[LandcoverConfig, Tag("raster")]
    | Annotated[LandcoverVector, Tag("vector")]
    | Annotated[LandcoverService, Tag("arcgis")],
    Discriminator(_landcover_kind),
]


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
    bbox: tuple[float, float, float, float] | None = Field(
        None, description="west, south, east, north in degrees; west above east is a box across 180 degrees"
    )
    grid: GridConfig
    shard_px: int = Field(8192, ge=256, le=65536)
    classes: str = Field(description="name of a file in config/classes")
    imagery: dict[Name, union()] = Field(min_length=1)  # type: ignore[valid-type]
    osm: OsmConfig | Annotated[list[OsmConfig], Field(min_length=1)] | None = None
    landcover: dict[Name, Landcover] = Field(default_factory=dict)
    chips: ChipConfig = ChipConfig()
    splits: dict[Name, SplitConfig] = Field(default_factory=dict)
    truth: Path | None = Field(None, description="a class raster that no training sees, for truth_* columns")
    demo: DemoConfig | None = None

    @model_validator(mode="after")
    def _sane(self) -> RegionConfig:
        if self.grid.imagery is None and self.bbox is None:
            raise ValueError(f"a grid by {'crs' if self.grid.zoom is None else 'zoom'} needs a bbox")
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
        try:
            if self.bbox is not None:
                check_bbox(self.bbox)
            grid = self.static_grid()
            check_pixels(grid, self.grid.crs, self.grid.resolution, self.grid.zoom, self.chips.px)
            for name, source in self.imagery.items():
                check_source(name, source, grid, self.grid.zoom)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _extracts_apart(self) -> RegionConfig:
        fetched = [extract.file_name for extract in self.osm_extracts if extract.url is not None]
        twice = next((name for name in fetched if fetched.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"osm: two extracts are called {twice!r}; download one of them yourself and give its path")
        return self

    @property
    def osm_extracts(self) -> list[OsmConfig]:
        """The region's OSM extracts, none to many."""
        if self.osm is None:
            return []
        return self.osm if isinstance(self.osm, list) else [self.osm]

    def static_grid(self) -> Grid | None:
        """The grid where the config alone decides it, else None (it comes from a raster's header)."""
        if self.grid.imagery is not None or self.bbox is None:
            return None
        grid = self.grid
        return grid_of(self.bbox, grid.zoom, grid.crs, grid.resolution or 0.0, self.shard_px, grid.origin or (0.0, 0.0))

    def shard_names(self) -> list[str]:
        """Names of the region's shards; a grid taken from a raster is one shard."""
        grid = self.static_grid()
        return ["r00c00"] if grid is None else [shard.name for shard in grid.shards()]


# --- label recipes -----------------------------------------------------------------------------------------------


MAX_LAYERS = IGNORE - 1  # a raster of sources has one byte a pixel, and 0 is none
TagValues = Annotated[dict[str, Annotated[list[str], Field(min_length=1)]], Field(min_length=1)]
PRIORITY = Field(0, description="layers of higher priority are painted over lower ones; equal ones in their order")


class LandcoverLayer(Section):
    """Paint the classes of one of the region's land-cover rasters."""

    kind: Literal["landcover"]
    source: str
    without: list[str] = Field(
        default_factory=list, description="classes of it that are not painted: what lies below stays"
    )
    priority: int = PRIORITY


class PolygonLayer(Section):
    """Paint OSM areas with one class."""

    kind: Literal["areas"]
    layer: Literal["water", "buildings", "landuse", "road_areas"]
    tags: TagValues | None = Field(None, description="only areas with one of these tag values")
    label: str = Field(description="class to paint")
    all_touched: StrictBool = False
    buffer_m: float = Field(0.0, ge=-100, le=500, description="grow (or shrink) areas by metres on the ground")
    priority: int = PRIORITY


class LineLayer(Section):
    """Paint OSM lines as wide as they are: the width tag, else lanes x lane_m, else the set's default, in metres."""

    kind: Literal["lines"]
    layer: Literal["roads", "waterways", "railways"]
    tags: TagValues | None = Field(None, description="only lines with one of these tag values")
    label: str = Field(description="class to paint")
    widths_m: dict[str, float] = Field(
        min_length=1, description="value of highway, waterway or railway → default width, metres; others are left out"
    )
    grades: list[str] | None = Field(None, description="tracktype values that a highway=track must have")
    lane_m: float | None = Field(None, gt=0, description="metres per lane, for lines with `lanes` and no `width`")
    use_width_tag: StrictBool = True
    pixel_m: float | None = Field(
        None, gt=0, le=100, description="paint on pixels of this size on the ground, repeated onto the grid's"
    )
    priority: int = PRIORITY

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

    @model_validator(mode="after")
    def _countable(self) -> RecipeConfig:
        if "none" in self.layers:
            raise ValueError("layer name 'none' means pixels of no layer in statistics; take another")
        if len(self.layers) > MAX_LAYERS:
            raise ValueError(f"has {len(self.layers)} layers, at most {MAX_LAYERS} fit into a raster of sources")
        return self
