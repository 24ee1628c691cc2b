"""A study as its runs: every combination resolved, checked and named. Imports neither torch nor GDAL.

A run is one fully resolved training (or baseline, or researcher's own rule). Its id is ``<slug>-<10 hex digits>``
(``<name>.<10 hex digits>`` for baselines and rules); nothing parses the slug. The hash covers only what differs from
the frozen defaults of `SPEC_VERSION`, as canonical JSON: a new setting whose default means "as before" leaves every id
as it was, a changed default needs a new version.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pipeline import variants
from pipeline.config import StudyConfig, StudyTrain, check_recipe, load_classes, load_region, load_study, validate
from pipeline.defaults import FROZEN_DATA, FROZEN_TRAIN, train_variants
from pipeline.errors import ConfigError, choices
from pipeline.files import canonical_json
from pipeline.names import is_name, no_name
from pipeline.protocol import check_protocol, check_schedule
from pipeline.study_schema import Score

SPEC_VERSION = 1
METRIC_NEEDS = ("counts", "histograms", "chip")  # what a metric's file may say in NEEDS; see `pipeline.metrics`
Spec = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One row of a study: `kind` is run, baseline or rule; `varied` holds the settings that differ, by dotted path."""

    id: str
    kind: str
    name: str
    spec: Spec
    varied: dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A study, all its runs, networks first, and its further metrics, each as ``{"name": …, "params": …}``."""

    name: str
    config: StudyConfig
    runs: list[Run]
    metrics: list[dict[str, Any]] = field(default_factory=list)


@functools.cache
def expand_runs(name: str, root: Path = Path("config"), rules: Path = Path("rules/variants")) -> Study:
    """Resolve every combination of study `name`; ConfigError in one line for whatever is wrong in it."""
    config = load_study(name, root)
    place = f"{root / 'studies' / name}.yaml"
    _check_data(config, place, root)
    specs: dict[str, Spec] = {}
    for data in _product(config.data.model_dump()):
        for model, loss in itertools.product(config.models, config.losses):
            for spec in _network_specs(config, place, data, model, loss, root):
                specs.setdefault(run_id(spec), spec)
    _check_select(config, [spec["loss"] for spec in specs.values()], place)
    plain = {key: [value] for key, value in FROZEN_DATA.items()}
    for data in _product({**config.data.model_dump(), **plain}):
        for entry in config.baselines:
            spec = _baseline_spec(entry, data, config.seeds[0], rules, root, f"{place}: baselines")
            specs.setdefault(run_id(spec), spec)
    varied = _varied(list(specs.values()))
    runs = [
        Run(
            id=key,
            kind=spec["kind"],
            name=spec["model"]["name"],
            spec=spec,
            varied={path: value for path, value in _flat(spec).items() if path in varied},
        )
        for key, spec in specs.items()
    ]
    return Study(name, config, runs, _metrics(config, place, root))


def run_id(spec: Spec) -> str:
    """The id of a resolved spec."""
    digest = hashlib.sha256(canonical_json(minimal(spec)).encode()).hexdigest()[:10]
    if spec["kind"] != "run":
        return f"{spec['model']['name']}.{digest}"
    model, loss, train = spec["model"], spec["loss"], spec["train"]
    parts = [spec["data"]["region"], model["name"], loss["name"], f"lr{train['lr']:g}", f"s{spec['seed']}"]
    return "-".join(str(part) for part in parts) + f"-{digest}"


def minimal(spec: Spec) -> Spec:
    """What the hash covers: the spec without what equals the frozen defaults (and the variants' own defaults)."""
    short: Spec = {"version": spec["version"], "kind": spec["kind"], "seed": spec["seed"]}
    short["data"] = {key: value for key, value in spec["data"].items() if FROZEN_DATA.get(key, ...) != value}
    for family, part in (("models", "model"), ("losses", "loss")):
        if part in spec:
            name, params = spec[part]["name"], spec[part]["params"]
            home = family if spec["kind"] == "run" else "baselines"
            known = name in variants.names(home)
            short[part] = {"name": name, "params": variants.shortest(home, name, params) if known else dict(params)}
    if "train" in spec:
        short["train"] = _minimal_train(spec["train"])
    return short


def _minimal_train(settings: dict[str, Any]) -> dict[str, Any]:
    short = {key: value for key, value in settings.items() if key not in FROZEN_TRAIN or FROZEN_TRAIN[key] != value}
    for family, key in (("schedules", "schedule"), ("samplers", "sampler")):
        if key in short:
            short[key] = _short_entry(family, short[key])
    if isinstance(short.get("monitor"), dict):
        short["monitor"] = _short_entry("metrics", short["monitor"])
    if "augment" in short:
        short["augment"] = [_short_entry("augment", entry) for entry in short["augment"]]
    return short


def _short_entry(family: str, entry: dict[str, Any]) -> dict[str, Any]:
    return {"name": entry["name"], "params": variants.shortest(family, entry["name"], entry["params"])}


def _product(axes: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _network_specs(
    config: StudyConfig, place: str, data: dict[str, Any], model: Any, loss: Any, root: Path
) -> Iterator[Spec]:
    model_name, model_params = variants.entry_of(model, f"{place}: models")
    loss_name, loss_params = variants.entry_of(loss, f"{place}: losses")
    train = config.train
    for where, params in ((f"models.{model_name}", model_params), (f"losses.{loss_name}", loss_params)):
        override = params.pop("train", None)
        if override is not None:
            checked = validate(StudyTrain, override, f"{place}: {where}.train")
            train = train.model_copy(update={key: getattr(checked, key) for key in checked.model_fields_set})
    model_params = variants.check("models", model_name, model_params, f"{place}: models")
    loss_params = variants.check("losses", loss_name, loss_params, f"{place}: losses")
    _check_outputs((model_name, model_params), (loss_name, loss_params), place)
    _check_class_weights(loss_name, loss_params, data["region"], place, root)
    for raw in _product(train.model_dump()):
        settings = _resolved_train(raw, data["region"], f"{place}: train", root)
        check_schedule(model_name, settings, f"{place}: train.schedule")
        for seed in config.seeds:
            yield {
                "version": SPEC_VERSION,
                "kind": "run",
                "data": data,
                "model": {"name": model_name, "params": model_params},
                "loss": {"name": loss_name, "params": loss_params},
                "train": settings,
                "seed": seed,
            }


def _resolved_train(raw: dict[str, Any], region: str, place: str, root: Path) -> dict[str, Any]:
    """The settings of a training with its variants resolved; ConfigError for what does not fit together."""
    settings = dict(raw)
    for family, key in (("schedules", "schedule"), ("samplers", "sampler")):
        settings[key] = _entry(family, raw[key], f"{place}.{key}")
    settings["augment"] = [_entry("augment", entry, f"{place}.augment") for entry in raw["augment"]]
    if isinstance(raw["monitor"], dict):
        settings["monitor"] = _entry("metrics", raw["monitor"], f"{place}.monitor")
    for _, entry in train_variants(settings):
        _check_left_out(entry["params"].get("classes"), region, f"{place}: {entry['name']}.classes", root, whole=True)
    names = load_classes(load_region(region, root).classes, root).names
    check_protocol(settings, names, place)
    return settings


def _entry(family: str, raw: Any, place: str) -> dict[str, Any]:
    name, params = variants.entry_of(raw, place)
    return {"name": name, "params": variants.check(family, name, params, place)}


def _check_outputs(model: tuple[str, dict[str, Any]], loss: tuple[str, dict[str, Any]], place: str) -> None:
    """ConfigError when a loss, or one that it is made of, asks for outputs that the model does not give."""
    gives = getattr(variants.light("models", model[0]), "outputs", None)
    given = gives(**model[1]) if gives else variants.declared("models", model[0], "OUTPUTS", ("mask",))
    for family, name in variants.used("losses", *loss):
        lacking = [output for output in variants.declared(family, name, "OUTPUTS", ()) if output not in given]
        if lacking:
            raise ConfigError(
                f"{place}: losses: {name!r} needs the outputs {', '.join(lacking)}, which model {model[0]!r} does not "
                "give as it is set; resunet_a gives them with head: mtsk or cmtsk, a model of one's own with OUTPUTS"
            )


def _check_class_weights(loss: str, params: dict[str, Any], region: str, place: str, root: Path) -> None:
    """ConfigError when a loss, or one that it is made of, has not as many class weights as the region has classes."""
    classes, weights = load_classes(load_region(region, root).classes, root).names, params.get("class_weights")
    if weights is not None and len(weights) != len(classes):
        raise ConfigError(
            f"{place}: losses: {loss!r} has {len(weights)} class_weights, the classes of region {region!r} are "
            f"{len(classes)}: {', '.join(classes)}"
        )
    uses = getattr(variants.light("losses", loss), "uses", None)
    for name, its in uses(**params) if uses else ():
        _check_class_weights(name, its, region, place, root)


def _check_select(config: StudyConfig, losses: list[dict[str, Any]], place: str) -> None:
    """ConfigError when runs would be picked by the values of losses that do not compare."""
    resolved = list({canonical_json(loss): loss for loss in losses}.values())
    if config.select == "val_loss" and len(resolved) > 1:
        plain = len({loss["name"] for loss in resolved}) == len(resolved)
        shown = [loss["name"] + ("" if plain else f" {canonical_json(loss['params'])}") for loss in resolved]
        others = choices("", (score for score in get_args(Score) if score != "val_loss"))
        raise ConfigError(
            f"{place}: select: val_loss does not compare between different losses, here {', '.join(shown)}; {others}"
        )


def _metrics(config: StudyConfig, place: str, root: Path) -> list[dict[str, Any]]:
    """The study's further metrics with all parameters; classes that one leaves out must be some of every region's."""
    found = []
    for raw in config.metrics:
        name, params = variants.entry_of(raw, f"{place}: metrics")
        params = variants.check("metrics", name, params, f"{place}: metrics")
        needs = variants.declared("metrics", name, "NEEDS")
        if needs not in METRIC_NEEDS:
            raise ConfigError(
                f"src/pipeline/metrics/{name}.py: NEEDS must be one of {', '.join(METRIC_NEEDS)}, got {needs!r}"
            )
        for region in config.data.region:
            _check_left_out(params.get("leave_out"), region, f"{place}: metrics: {name}.leave_out", root)
        found.append({"name": name, "params": params})
    return found


def _check_left_out(labels: Any, region: str, place: str, root: Path, whole: bool = False) -> None:
    """ConfigError when a list of classes has one that the region has not, or all of its classes unless `whole`."""
    if not isinstance(labels, list):
        return
    classes = load_classes(load_region(region, root).classes, root).names
    for label in labels:
        if label not in classes:
            raise ConfigError(f"{place}: no class {label!r}; {choices(str(label), classes)}")
    if set(labels) == set(classes) and not whole:
        raise ConfigError(f"{place} names all classes of region {region!r}; leave one at least")


def _only_landcover(region: str, root: Path, place: str) -> str:
    known = list(load_region(region, root).landcover)
    if len(known) != 1:
        raise ConfigError(f"{place}: region {region!r} has {len(known)} land covers; {choices('', known)}")
    return known[0]


def _baseline_spec(raw: Any, data: dict[str, Any], seed: int, rules: Path, root: Path, place: str) -> Spec:
    name, params = variants.entry_of(raw, place)
    known = sorted(path.stem for path in rules.glob("*.smk"))
    if name not in known:
        raise ConfigError(f"{place}: no rule {name!r} in {rules}; {choices(name, known)}")
    if not is_name(name):
        raise ConfigError(f"{place}: {no_name(name)}; rename {rules / f'{name}.smk'}")
    kind = "baseline" if name in variants.names("baselines") else "rule"
    if kind == "baseline":
        params = variants.check("baselines", name, params, place)
        if params.get("source") == "":
            params["source"] = _only_landcover(data["region"], root, f"{place}: {name}.source")
        _check_region_names(name, params, data["region"], root, place)
    for key, value in params.items():
        if not isinstance(key, str):
            raise ConfigError(f"{place}: {kind} {name!r}: {key!r} is no text: put the parameter's name in quotes")
        variants.check_json(value, f"{place}: {kind} {name!r}: {key}")
    return {
        "version": SPEC_VERSION,
        "kind": kind,
        "data": data,
        "model": {"name": name, "params": params},
        "seed": seed,
    }


def _check_region_names(name: str, params: dict[str, Any], region_name: str, root: Path, place: str) -> None:
    """A baseline's parameter `source` is a land cover of the region; `label` and `fallback` are classes, or empty."""
    region = load_region(region_name, root)
    classes = load_classes(region.classes, root).names
    landcover = f"region {region_name!r} has no land cover"
    for key, known, complaint in (
        ("source", list(region.landcover), landcover),
        ("label", classes, "no class"),
        ("fallback", classes, "no class"),
    ):
        value = params.get(key, "")
        if isinstance(value, str) and value and value not in known:
            where = f" in {region.classes}" if known is classes else ""
            raise ConfigError(f"{place}: {name}.{key}: {complaint} {value!r}{where}; {choices(value, known)}")


def _check_data(config: StudyConfig, place: str, root: Path) -> None:
    for name in config.data.region:
        try:
            region = load_region(name, root)
        except ConfigError as error:
            raise ConfigError(f"{place}: data.region: {error}") from None
        for key, known in (("imagery", region.imagery), ("split", region.splits)):
            for value in getattr(config.data, key):
                if value not in known:
                    raise ConfigError(
                        f"{place}: data.{key}: region {name!r} has no {key} {value!r}; {choices(value, known)}"
                    )
        for px in config.data.resize_px:
            if px is not None and region.chips.px % px:
                raise ConfigError(
                    f"{place}: data.resize_px: {px} does not divide the chips of region {name!r}, {region.chips.px} px "
                    "wide; chips shrink by a whole factor"
                )
        for recipe in config.data.recipe:
            try:
                check_recipe(name, recipe, root)
            except ConfigError as error:
                raise ConfigError(f"{place}: data.recipe: {error}") from None


def _flat(spec: Spec) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section in ("data", "model", "loss", "train"):
        for key, value in spec.get(section, {}).items():
            if key == "params":
                flat |= {f"{section}.{name}": item for name, item in value.items()}
            elif key in ("schedule", "sampler") or (key == "monitor" and isinstance(value, dict)):
                flat[f"{section}.{key}"] = value["name"]
                flat |= {f"{section}.{key}.{name}": item for name, item in value["params"].items()}
            elif key == "augment":
                flat[f"{section}.{key}"] = " + ".join(_shown_entry(entry) for entry in value) or None
            else:
                flat[f"{section}.{key}"] = value
    return flat


def _shown_entry(entry: dict[str, Any]) -> str:
    """An augmentation as a table names it: with what differs from its defaults."""
    short = variants.shortest("augment", entry["name"], entry["params"])
    return " ".join([str(entry["name"]), *(f"{key}={canonical_json(value)}" for key, value in short.items())])


def _varied(specs: list[Spec]) -> list[str]:
    """Dotted paths of the settings that differ between runs of a kind.

    Own parameters of a model, loss or baseline are compared within that one; not having the parameter is a value too.
    """
    runs = [(spec, _flat(spec)) for spec in specs]
    varied = []
    for path in dict.fromkeys(path for _, flat in runs for path in flat):
        section, _, rest = path.partition(".")
        owner = path.rpartition(".")[0] if rest.count(".") else f"{section}.name"
        own = (section in ("model", "loss") or owner != f"{section}.name") and path != owner
        groups: dict[tuple[str, str], set[str]] = {}
        for spec, flat in runs:
            if section in spec:
                group = (spec["kind"], str(flat.get(owner, "")) if own else "")
                groups.setdefault(group, set()).add(canonical_json(flat[path]) if path in flat else "")
        if path in ("model.name", "loss.name") or any(len(values) > 1 for values in groups.values()):
            varied.append(path)
    return varied


def find_run(run: str, studies: list[str], root: Path = Path("config")) -> Run:
    """The run of that id in `studies`, else in any valid study of the config; ConfigError when none has it."""
    others = sorted(path.stem for path in (root / "studies").glob("*.yaml") if path.stem not in studies)
    for name in [*studies, *others]:
        try:
            found = next((item for item in expand_runs(name, root).runs if item.id == run), None)
        except ConfigError:
            if name in studies:
                raise
            continue
        if found is not None:
            return found
    raise ConfigError(f"no study has a run {run!r}; its settings or defaults have changed since it was made")
