"""Read and check the config files. Imports neither torch nor GDAL.

Every file is read as YAML 1.2 and validated against the models of `pipeline.schema`; a mistake ends in one line that
names the file, the key, the value and the choices. `config/schema.json` is generated from the same models.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from pipeline.errors import ConfigError, choices
from pipeline.mistakes import explain
from pipeline.names import is_name, no_name
from pipeline.schema import (
    IGNORE,
    ChipConfig,
    ClassEntry,
    ClassScheme,
    DemoConfig,
    GridConfig,
    LandcoverConfig,
    LandcoverLayer,
    LandcoverService,
    LandcoverVector,
    LineLayer,
    OsmConfig,
    PolygonLayer,
    RecipeConfig,
    RegionConfig,
    SplitConfig,
)
from pipeline.section import Section
from pipeline.sources._base import TiledSource
from pipeline.sources.raster import Source as RasterSource
from pipeline.sources.xyz import Source as XyzSource
from pipeline.study_schema import MainConfig, StudyConfig, StudyData, StudyTrain

__all__ = [
    "IGNORE",
    "ChipConfig",
    "ClassEntry",
    "ClassScheme",
    "DemoConfig",
    "GridConfig",
    "LandcoverConfig",
    "LandcoverLayer",
    "LandcoverService",
    "LandcoverVector",
    "LineLayer",
    "MainConfig",
    "OsmConfig",
    "PolygonLayer",
    "RasterSource",
    "RecipeConfig",
    "RegionConfig",
    "Section",
    "SplitConfig",
    "StudyConfig",
    "StudyData",
    "StudyTrain",
    "XyzSource",
    "check_comparison",
    "check_recipe",
    "json_schema",
    "load_classes",
    "load_main",
    "load_recipe",
    "load_region",
    "load_study",
    "validate",
]

Model = TypeVar("Model", bound=Section)

TRUTH = "truth"  # name of the truth's chips; those of land covers have a hyphen, which no name has
FOLDERS: dict[str, type[Section]] = {
    "classes": ClassScheme,
    "recipes": RecipeConfig,
    "regions": RegionConfig,
    "studies": StudyConfig,
}
PROVIDED = ("imagery", "landcover")  # parts of a region whose entries may name one of config/providers/<part>


def read_yaml(path: Path) -> Any:
    """Read one YAML 1.2 file (``1e-3`` is a number, ``off`` a word); ConfigError names file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        names = [entry.stem for entry in path.parent.glob("*.yaml")]
        raise ConfigError(f"{path} does not exist; {choices(path.stem, names)}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}:" if error.problem_mark else ""
        raise ConfigError(f"{path}:{line} {error.problem or error.context}") from None
    except ReaderError as error:
        line = f"line {text.count(chr(10), 0, error.position) + 1}"
        raise ConfigError(f"{path}: {line}: the character {text[error.position]!r} is not allowed in YAML") from None
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply") from None
    except (YAMLError, ValueError) as error:  # ValueError: a date that does not exist, a number of 5000 digits
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None


def validate(model: type[Model], raw: Any, place: str) -> Model:
    """Build `model` from `raw`; ConfigError in one line with `place`, the key, the value and the choices."""
    if raw is None:
        raise ConfigError(f"{place}: is empty; it needs {', '.join(_required(model))}")
    if not isinstance(raw, dict):
        raise ConfigError(f"{place}: must be a mapping of keys, got {type(raw).__name__}")
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{place}: {explain(model, raw, error)}") from None


def _required(model: type[BaseModel]) -> list[str]:
    return [name for name, field in model.model_fields.items() if field.is_required()]


@functools.cache
def _load(kind: str, name: str, root: Path) -> Any:
    path = root / kind / f"{name}.yaml"
    if not is_name(name):
        if path.parent == root / kind and path.is_file():
            raise ConfigError(f"{path}: {no_name(name)}; rename the file")
        known = [entry.stem for entry in (root / kind).glob("*.yaml") if is_name(entry.stem)]
        raise ConfigError(f"{root / kind}: {no_name(name)}; {choices(name, known)}")
    raw = read_yaml(path)
    if kind == "regions":
        raw = _with_providers(raw, root, str(path))
    return validate(FOLDERS[kind], raw, str(path))


def _with_providers(raw: Any, root: Path, place: str) -> Any:
    """The region as written, each entry with `provider: <name>` laid over that file of config/providers."""
    for part in PROVIDED:
        entries = raw.get(part) if isinstance(raw, dict) else None
        if not isinstance(entries, dict):
            continue
        for name, entry in entries.items():
            if isinstance(entry, dict) and "provider" in entry:
                own = {key: value for key, value in entry.items() if key != "provider"}
                found = _provider(entry["provider"], part, root, f"{place}: {part}.{name}")
                if part == "landcover" and own.get("path") and found.get("url") and "url" not in own:
                    raise ConfigError(
                        f"{place}: {part}.{name}: the entry {entry['provider']} brings a url: "
                        "set `url: null` to use your path"
                    )
                entries[name] = {**found, **own}
    return raw


def _provider(provider: Any, part: str, root: Path, place: str) -> dict[str, Any]:
    folder = root / "providers" / part
    if not isinstance(provider, str) or not is_name(provider) or not (folder / f"{provider}.yaml").is_file():
        known = [entry.stem for entry in folder.glob("*.yaml")]
        raise ConfigError(f"{place}.provider: no {folder}/{provider}.yaml; {choices(str(provider), known)}")
    found = read_yaml(folder / f"{provider}.yaml")
    if not isinstance(found, dict):
        raise ConfigError(f"{folder / provider}.yaml: must be a mapping of keys, got {type(found).__name__}")
    return found


def load_classes(name: str, root: Path = Path("config")) -> ClassScheme:
    """The class scheme `name`."""
    return _load("classes", name, root)  # type: ignore[no-any-return]


def load_recipe(name: str, root: Path = Path("config")) -> RecipeConfig:
    """The label recipe `name`."""
    return _load("recipes", name, root)  # type: ignore[no-any-return]


def load_region(name: str, root: Path = Path("config")) -> RegionConfig:
    """The region `name`, its references checked: classes, land-cover classes, recipes of its splits, local files.

    Images, labels, land covers and the truth share the folder data/<region>/chips, so no two may have one name there.
    """
    region: RegionConfig = _load("regions", name, root)
    place = f"{root / 'regions' / name}.yaml"
    if TRUTH in region.imagery:
        raise ConfigError(f"{place}: imagery.{TRUTH}: {_same_chips(name, TRUTH, 'the truth')}")
    scheme = _referenced(load_classes, region.classes, root, f"{place}: classes")
    for source, landcover in region.landcover.items():
        for value, label in landcover.classes.items():
            if label not in scheme.names:
                raise ConfigError(
                    f"{place}: landcover.{source}.classes.{value}: no class {label!r}; {choices(label, scheme.names)}"
                )
    for split, entry in region.splits.items():
        try:
            check_recipe(name, entry.balance, root)
        except ConfigError as error:
            raise ConfigError(f"{place}: splits.{split}.balance: {error}") from None
    if region.demo is None:
        _check_files(region, place)
    return region


def _same_chips(region: str, name: str, owner: str) -> str:
    return f"its chips would lie where those of {owner} do, in data/{region}/chips/{name}; rename it"


def _referenced(load: Any, name: str, root: Path, place: str) -> Any:
    try:
        return load(name, root)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None


def _check_files(region: RegionConfig, place: str) -> None:
    paths: dict[str, Path | None] = {"truth": region.truth}
    for number, extract in enumerate(region.osm_extracts):
        paths["osm.path" if number == 0 else f"osm.{number}.path"] = extract.path
    tiled = {name: source for name, source in region.imagery.items() if isinstance(source, TiledSource)}
    served = {f"imagery.{name}.serve": source.serve for name, source in tiled.items()}
    for name, source in region.imagery.items():
        for number, file in enumerate(source.paths if isinstance(source, RasterSource) else []):
            paths[f"imagery.{name}" if number == 0 else f"imagery.{name}.path.{number}"] = file
    for name, landcover in region.landcover.items():
        paths[f"landcover.{name}.path"] = getattr(landcover, "path", None)
    for key, path in (paths | served).items():
        if path is not None and not path.exists():
            what = "folder" if key in served else "file"
            raise ConfigError(
                f"{place}: {key}: the {what} {str(path)!r} does not exist; paths count from the Snakefile's folder"
            )


def check_recipe(region_name: str, recipe_name: str, root: Path = Path("config")) -> None:
    """ConfigError unless recipe `recipe_name` can be painted in the region: known classes and sources, a free name."""
    recipe = load_recipe(recipe_name, root)
    region: RegionConfig = _load("regions", region_name, root)
    scheme = load_classes(region.classes, root)
    place = f"{root / 'recipes' / recipe_name}.yaml"
    if recipe_name == TRUTH or recipe_name in region.imagery:
        owner = "the truth" if recipe_name == TRUTH else f"imagery {recipe_name!r}"
        raise ConfigError(f"{place}: {_same_chips(region_name, recipe_name, owner)}")
    layers = recipe.layers.items()
    labels = {f"layers.{name}.label": layer.label for name, layer in layers if not isinstance(layer, LandcoverLayer)}
    if recipe.background is not None:
        labels["background"] = recipe.background
    for key, label in labels.items():
        if label not in scheme.names:
            raise ConfigError(f"{place}: {key}: no class {label!r} in {region.classes}; {choices(label, scheme.names)}")
    for key, layer in layers:
        if isinstance(layer, LandcoverLayer):
            strange = next((label for label in layer.without if label not in scheme.names), None)
            if strange is not None:
                known = choices(strange, scheme.names)
                raise ConfigError(f"{place}: layers.{key}.without: no class {strange!r} in {region.classes}; {known}")
            if layer.source not in region.landcover:
                raise ConfigError(
                    f"{place}: layers.{key}.source: region {region_name!r} has no land cover {layer.source!r}; "
                    f"{choices(layer.source, region.landcover)}"
                )
        elif region.osm is None:
            raise ConfigError(f"{place}: layers.{key}: region {region_name!r} has no `osm` extract")


def check_comparison(region_name: str, pair: str, root: Path = Path("config")) -> None:
    """ConfigError unless `pair` is ``<a>-<b>``: two recipes that can be painted in the region, or one and ``truth``."""
    a, hyphen, b = pair.partition("-")
    place = f"comparison {pair!r} of {region_name!r}"
    if not hyphen:
        raise ConfigError(
            f"{place}: name two recipes, or a recipe and the truth: data/{region_name}/comparisons/<a>-<b>/"
        )
    if a == b:
        raise ConfigError(f"{place}: recipe {a!r} is compared with itself; name two")
    if a == TRUTH:
        raise ConfigError(f"{place}: the truth stands second: data/{region_name}/comparisons/{b}-{a}/")
    if b == TRUTH and load_region(region_name, root).truth is None:
        raise ConfigError(f"{place}: {root / 'regions' / region_name}.yaml has no `truth` to compare with")
    for recipe in (a, b):
        if recipe != TRUTH:
            check_recipe(region_name, recipe, root)


def load_study(name: str, root: Path = Path("config")) -> StudyConfig:
    """The study `name`, as written; `pipeline.runs.expand_runs` resolves it."""
    return _load("studies", name, root)  # type: ignore[no-any-return]


def load_main(root: Path = Path("config")) -> MainConfig:
    """config/config.yaml."""
    path = root / "config.yaml"
    return validate(MainConfig, read_yaml(path), str(path))


def json_schema() -> dict[str, Any]:
    """The JSON schemas of all config files by folder, config.yaml's as ``config``; written to config/schema.json.

    References count from the root, so that an editor may take a part of it: ``config/schema.json#/regions``.
    """
    models: dict[str, type[Section]] = {"config": MainConfig, **FOLDERS}
    found = {name: model.model_json_schema(ref_template=f"#/{name}/$defs/{{model}}") for name, model in models.items()}
    for part in PROVIDED:
        entries = found["regions"]["properties"][part]
        named = {"provider": {"type": "string", "description": f"a file of config/providers/{part}; its keys hold too"}}
        of_provider = {"type": "object", "properties": named, "required": ["provider"]}
        entries["additionalProperties"] = {"anyOf": [of_provider, entries["additionalProperties"]]}
    return found
