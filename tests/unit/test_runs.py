"""Studies expand into runs whose ids are stable promises."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline import config as module
from pipeline import variants as module_of_variants
from pipeline.defaults import FROZEN_DATA, FROZEN_TRAIN
from pipeline.errors import ConfigError
from pipeline.files import canonical_json, read_json
from pipeline.runs import expand_runs, minimal, run_id
from pipeline.study_schema import StudyData, StudyTrain

PROJECT = Path(__file__).resolve().parents[2]
reading = module_of_variants.declared
GOLDEN = Path(__file__).with_name("golden_run_ids.json")
DATA = {
    "region": "demo",
    "imagery": "summer",
    "recipe": "osm",
    "split": "blocks",
    "normalize": "none",
    "train_subset": None,
}


def network(**changes: Any) -> dict[str, Any]:
    """A spec with every setting at the frozen defaults, then `changes` by section."""
    spec: dict[str, Any] = {
        "version": 1,
        "kind": "run",
        "data": dict(DATA),
        "model": {
            "name": "unet",
            "params": {"width": 64, "depth": 5, "dropout": 0.0, "bn_momentum": 0.01, "bn_eps": 0.001},
        },
        "loss": {"name": "focal", "params": {"alpha": 0.25, "gamma": 2.0, "reduction": "classes"}},
        "train": dict(FROZEN_TRAIN),
        "seed": 0,
    }
    for section, values in changes.items():
        spec[section] = values if section == "seed" else {**spec[section], **values}
    return spec


@pytest.fixture
def config(tmp_path: Path) -> Path:
    shutil.copytree(PROJECT / "config", tmp_path / "config")
    return tmp_path / "config"


def clear() -> None:
    """Forget what was read."""
    expand_runs.cache_clear()
    module._load.cache_clear()


def study(config: Path, **changes: Any) -> Any:
    """Expand the demo study after `changes` to its file."""
    yaml = YAML(typ="safe", pure=True)
    content = yaml.load((PROJECT / "config" / "studies" / "demo.yaml").read_text())
    content.update(changes)
    with open(config / "studies" / "mine.yaml", "w") as handle:
        yaml.dump({key: value for key, value in content.items() if value is not None}, handle)
    clear()
    return expand_runs("mine", config, PROJECT / "rules" / "variants")


def test_golden_ids() -> None:
    """These ids are in people's results folders: a change here is a new spec version."""
    specs = {
        "defaults": network(),
        "another loss": network(loss={"name": "jaccard", "params": {"eps": 1e-5}}),
        "dropout": network(model={"params": {**network()["model"]["params"], "dropout": 0.1}}),
        "learning rate": network(train={"lr": 1e-4}),
        "seed": network(seed=1),
        "subset": network(data={"train_subset": 6400}),
        "baseline": {
            "version": 1,
            "kind": "baseline",
            "data": DATA,
            "model": {"name": "constant", "params": {"label": ""}},
            "seed": 0,
        },
    }
    assert {name: run_id(spec) for name, spec in specs.items()} == read_json(GOLDEN)


def test_the_frozen_defaults_are_those_of_the_config() -> None:
    defaults = {key: value[0] for key, value in StudyTrain().model_dump().items()}
    named = {key: {"name": defaults[key], "params": {}} for key in ("schedule", "sampler")}
    assert defaults | named == FROZEN_TRAIN
    data = StudyData(region="r", imagery="i", recipe="l", split="s").model_dump()
    assert {key: data[key][0] for key in FROZEN_DATA} == FROZEN_DATA


def test_a_setting_at_its_default_is_not_in_the_hash() -> None:
    assert minimal(network()) == {
        "version": 1,
        "kind": "run",
        "seed": 0,
        "data": {key: DATA[key] for key in ("region", "imagery", "recipe", "split")},
        "model": {"name": "unet", "params": {}},
        "loss": {"name": "focal", "params": {}},
        "train": {},
    }


def test_numbers_and_key_order_do_not_change_an_id() -> None:
    one = network(train={"lr": 1e-3, "epochs": 30})
    other = dict(reversed(list(network(train={"lr": 0.001, "epochs": 30.0}).items())))
    assert run_id(one) == run_id(other)
    assert canonical_json({"b": 2.0, "a": [1e-3]}) == '{"a":[0.001],"b":2}'


def test_every_combination_is_a_run(config: Path) -> None:
    found = study(
        config,
        models=[{"unet": {"width": 8}}, {"unet": {"width": 4}}],
        losses=["focal", {"jaccard": {"train": {"lr": [0.1, 0.2]}}}],
        train={"lr": 0.05, "batch_size": [4, 8]},
        seeds=[0, 1, 2],
        baselines=None,
    )
    networks = [run for run in found.runs if run.kind == "run"]
    assert len(networks) == 2 * (1 + 2) * 2 * 3
    assert len({run.id for run in networks}) == len(networks)
    assert {run.spec["train"]["lr"] for run in networks if run.spec["loss"]["name"] == "jaccard"} == {0.1, 0.2}
    assert {run.spec["train"]["lr"] for run in networks if run.spec["loss"]["name"] == "focal"} == {0.05}
    assert set(networks[0].varied) == {"model.name", "model.width", "loss.name", "train.lr", "train.batch_size"}


def test_a_weighted_sum_is_checked_while_parsing_and_one_however_written(config: Path) -> None:
    def ids(*losses: Any) -> list[str]:
        return [run.id for run in study(config, losses=list(losses), models=["unet"], baselines=None).runs]

    long = {"weighted_sum": {"terms": ["generalized_dice", {"focal": {"gamma": 2}}], "weights": None}}
    assert ids("weighted_sum", long) == ids("weighted_sum") and len(ids("weighted_sum")) == 1
    assert ids({"weighted_sum": {"terms": ["generalized_dice", {"focal": {"gamma": 3}}]}}) != ids("weighted_sum")
    with pytest.raises(ConfigError, match=r"losses: loss weighted_sum: terms: no loss 'focl'; did you mean 'focal'\?"):
        ids({"weighted_sum": {"terms": ["focl", "jaccard"]}})
    spec = study(config, losses=[long], models=["unet"], baselines=None).runs[0].spec
    assert minimal(spec)["loss"] == {"name": "weighted_sum", "params": {}}


def test_two_studies_share_a_run(config: Path) -> None:
    one = {run.id for run in study(config).runs}
    other = {run.id for run in study(config, losses=["focal"], title="another").runs}
    assert len(other & one) == len(other) == 4


def test_the_frankfurt_grid_has_108_runs(config: Path) -> None:
    found = study(
        config,
        models=[{"unet": {"dropout": dropout, "width": width}} for dropout in (0, 0.1, 0.3) for width in (4, 5, 6)],
        losses=["focal", "jaccard"],
        train={"batch_size": [32, 64], "lr": [1e-3, 1e-4, 1e-5]},
        baselines=None,
    )
    assert sum(run.kind == "run" for run in found.runs) == 108


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": ["unet"]}, r"mine\.yaml: model: unknown key; did you mean 'models'\? choices: .*models"),
        ({"models": ["unnet"]}, r"models: no model 'unnet'; did you mean 'unet'\?"),
        ({"models": [{"unet": {"widht": 8}}]}, r"model 'unet' has no parameter 'widht'; did you mean 'width'\?"),
        ({"models": [{"unet": {"width": "wide"}}]}, r"width must be .* got 'wide'"),
        ({"losses": [{"focal": {"gama": 2}}]}, r"loss 'focal' has no parameter 'gama'; did you mean 'gamma'\?"),
        ({"losses": []}, r"losses: is empty"),
        ({"models": []}, r"models: is empty"),
        ({"losses": [3]}, r"losses: 3 is neither a name nor"),
        ({"train": {"epoch": 3}}, r"train\.epoch: unknown key; did you mean 'epochs'\?"),
        ({"train": {"lr": -1}}, r"train\.lr: must be above 0, got -1"),
        ({"train": {"lr": "fast"}}, r"train\.lr: .*number.*got 'fast'"),
        ({"losses": [{"focal": {"train": {"lrr": 1}}}]}, r"losses\.focal\.train: lrr: unknown key; did you mean 'lr'"),
        ({"baselines": ["forest"]}, r"no rule 'forest' in .*; did you mean 'random_forest'\?"),
        ({"baselines": [{"random_forest": {"tree": 1}}]}, r"'random_forest' has no parameter 'tree'"),
        ({"select": "val_iou"}, r"select: unknown value 'val_iou'; did you mean 'val_mean_iou'\? choices: "),
        ({"train": {"flips": "on"}}, r"train\.flips: must be true or false, got 'on'"),
        ({"data": {**DATA, "split": "block"}}, r"data\.split: region 'demo' has no split 'block'; did you mean"),
        ({"data": {**DATA, "imagery": "sumer"}}, r"data\.imagery: region 'demo' has no imagery 'sumer'"),
        ({"data": {**DATA, "region": "dmo"}}, r"data\.region: .*regions/dmo\.yaml does not exist; did you mean 'demo'"),
        (
            {"data": {**DATA, "region": "../regions/demo"}},
            r"data\.region: .*'\.\./regions/demo' is no name: .*choices: .*demo, .*zanzibar",
        ),
        ({"data": {**DATA, "recipe": "osm-v2"}}, r"data\.recipe: .*'osm-v2' is no name: .*did you mean 'osm'"),
        ({"seeds": [-1]}, r"seeds: must be at least 0, got -1"),
        ({"seeds": [0, 2**32]}, r"seeds: must be below 4294967296, got 4294967296"),
        ({"seeds": [99999999999999999999]}, r"seeds: must be below 4294967296, got 9+"),
        ({"train": {"lr": float("inf")}}, r"train\.lr: .*finite number, got inf"),
        ({"train": {"lr": 1e6}}, r"train\.lr: must be at most 100000, got 1000000\.0"),
        ({"train": {"weight_decay": float("inf")}}, r"train\.weight_decay: .*finite number, got inf"),
        (
            {"baselines": [{"landcover": {"source": "corse"}}]},
            r"baselines: landcover\.source: region 'demo' has no land cover 'corse'; did you mean 'coarse'\?",
        ),
        (
            {"baselines": [{"constant": {"label": "forrest"}}]},
            r"baselines: constant\.label: no class 'forrest' in frankfurt; did you mean 'forest'\?",
        ),
        (
            {"baselines": [{"landcover": {"fallback": "sea"}}]},
            r"baselines: landcover\.fallback: no class 'sea' in frankfurt; choices: fields, ",
        ),
        (
            {"select": "val_loss"},
            r"select: val_loss .*focal, jaccard; choices: val_accuracy, .*, val_mean_iou$",
        ),
        (
            {"select": "val_loss", "losses": ["focal", {"focal": {"gamma": 1}}]},
            r"select: val_loss .*focal \{.*\"gamma\":2.*\}, focal \{.*\"gamma\":1.*\}; choices",
        ),
        (
            {"models": [{"smp": {"foo": datetime.date(2024, 1, 1)}}]},
            r"models: model 'smp': foo must be .*got 2024-01-01",
        ),
        ({"models": [{"smp": {"foo": {"a": [1, float("nan")]}}}]}, r"models: model 'smp': foo must be .*finite.*nan"),
        ({"data": {**DATA, "recipe": "osn"}}, r"data\.recipe: .*recipes/osn\.yaml does not exist; did you mean 'osm'"),
        (
            {"train": {"schedule": [["constant", "cosine"]]}},
            r"train\.schedule: must be text or a mapping.*, got a list",
        ),
        ({"train": {"sampler": [["uniform"]]}}, r"train\.sampler: must be text or a mapping of keys, got a list"),
        ({"train": {"augment": ["rotaton"]}}, r"no augmentation 'rotaton'; did you mean 'rotation'\?"),
    ],
)
def test_a_mistake_in_a_study_is_one_line_with_place_value_and_choices(
    config: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        study(config, **changes)
    assert "\n" not in str(caught.value)
    assert "mine.yaml" in str(caught.value)


def test_baselines_of_one_name_are_told_apart_by_their_parameters(config: Path) -> None:
    found = study(config, baselines=[{"random_forest": {"trees": 5}}, {"random_forest": {"trees": 100}}, "constant"])
    others = [run.varied for run in found.runs if run.kind == "baseline"]
    assert others == [
        {"model.name": "random_forest", "model.trees": 5},
        {"model.name": "random_forest", "model.trees": 100},
        {"model.name": "constant"},
    ]
    networks = [run for run in found.runs if run.kind == "run"]
    assert all(set(run.varied) == {"model.name", "loss.name"} for run in networks)


def test_augmentations_are_named_with_what_differs_from_their_defaults(config: Path) -> None:
    lists = [[], [{"flips": {"quarter_turns": True}}, {"random_crop": {"px": 64}}], ["rotation"]]
    found = study(config, train={"augment": lists}, models=["unet"], losses=["focal"], baselines=None)
    named = [run.varied["train.augment"] for run in found.runs]
    assert named == [None, "flips quarter_turns=true + random_crop px=64", "rotation"]


def test_a_parameter_that_only_one_of_two_entries_has_is_varied(config: Path) -> None:
    smp = {"arch": "Unet", "encoder": "mobilenet_v2"}
    channels = [64, 48, 32, 16, 8]
    found = study(
        config, models=[{"smp": smp}, {"smp": {**smp, "decoder_channels": channels}}, "unet"], losses=["focal"]
    )
    assert [run.varied for run in found.runs if run.kind == "run"] == [
        {"model.name": "smp", "loss.name": "focal"},
        {"model.name": "smp", "model.decoder_channels": channels, "loss.name": "focal"},
        {"model.name": "unet", "loss.name": "focal"},
    ]


def test_no_two_runs_that_summary_would_average_differ_in_more_than_seed_and_split(config: Path) -> None:
    found = study(
        config,
        data={**DATA, "imagery": ["summer", "autumn"], "split": ["blocks", "random"], "train_subset": [None, 8]},
        models=["unet", {"unet": {"width": 8}}, {"smp": {"decoder_channels": [8]}}, "smp"],
        losses=["focal", {"focal": {"gamma": 1, "train": {"lr": [0.1, 0.2]}}}],
        seeds=[0, 1],
        baselines=["landcover", "constant", {"constant": {"label": "water"}}, {"random_forest": {"trees": 2}}],
    )
    groups: dict[str, set[str]] = {}
    for run in found.runs:
        key = {path: value for path, value in run.varied.items() if path != "data.split"}
        rest = {**run.spec, "seed": 0, "data": {**run.spec["data"], "split": ""}}
        groups.setdefault(canonical_json([run.kind, key]), set()).add(canonical_json(rest))
    assert len(groups) == 2 * 2 * 4 * 3 + 2 * 4
    assert all(len(specs) == 1 for specs in groups.values())


def test_what_baselines_leave_aside_is_not_varied(config: Path) -> None:
    found = study(config, data={**DATA, "normalize": "standard"}, models=["unet"], losses=["focal"])
    assert {path for run in found.runs for path in run.varied} == {"model.name", "loss.name"}


def test_one_loss_written_twice_may_select_by_its_value(config: Path) -> None:
    found = study(config, losses=["focal", {"focal": {"gamma": 2, "train": {"lr": 0.1}}}], select="val_loss")
    assert sum(run.kind == "run" for run in found.runs) == 4


def test_a_baseline_that_names_no_land_cover_needs_a_region_with_one(config: Path) -> None:
    assert study(config, baselines=["landcover"]).runs[-1].spec["model"]["params"]["source"] == "coarse"
    yaml = YAML(typ="safe", pure=True)
    path = config / "regions" / "demo.yaml"
    region = yaml.load(path.read_text())
    region["landcover"]["fine"] = region["landcover"]["coarse"]
    with open(path, "w") as handle:
        yaml.dump(region, handle)
    with pytest.raises(ConfigError, match=r"landcover\.source: region 'demo' has 2 land covers; choices: coarse, fine"):
        study(config, baselines=["landcover"])
    found = study(config, baselines=[{"landcover": {"source": "fine", "fallback": "water"}}])
    assert found.runs[-1].spec["model"]["params"] == {"source": "fine", "fallback": "water"}


@pytest.mark.parametrize("name", ["truth", "summer"])
def test_a_study_does_not_train_on_chips_of_another_kind(config: Path, name: str) -> None:
    shutil.copy(config / "recipes" / "osm.yaml", config / "recipes" / f"{name}.yaml")
    with pytest.raises(ConfigError, match=rf"mine\.yaml: data\.recipe: .*{name}\.yaml: .*data/demo/chips/{name}"):
        study(config, data={**DATA, "recipe": name})


def test_a_rule_of_ones_own_has_a_name_and_parameters_that_json_holds(config: Path, tmp_path: Path) -> None:
    rules = tmp_path / "variants"
    rules.mkdir()
    for name in ("mine", "My-Rule"):
        (rules / f"{name}.smk").write_text("")
    study(config, baselines=None)
    for entry, words in (
        ("My-Rule", r"baselines: 'My-Rule' is no name: .*rename .*My-Rule\.smk"),
        ({"mine": {"since": datetime.date(2024, 1, 1)}}, r"baselines: rule 'mine': since must be .*2024-01-01"),
        ({"mine": {"levels": [1, float("inf")]}}, r"baselines: rule 'mine': levels must be .*inf"),
        ({"mine": {5: 1}}, r"baselines: rule 'mine': 5 is no text"),
    ):
        yaml = YAML(typ="safe", pure=True)
        path = config / "studies" / "mine.yaml"
        content = yaml.load(path.read_text()) | {"baselines": [entry]}
        with open(path, "w") as handle:
            yaml.dump(content, handle)
        clear()
        with pytest.raises(ConfigError, match=words) as caught:
            expand_runs("mine", config, rules)
        assert "\n" not in str(caught.value)


def test_expanding_a_study_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pipeline.runs import expand_runs; expand_runs('demo'); "
        "print([m for m in ('torch', 'rasterio', 'geopandas', 'numpy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_loss_for_several_heads_needs_a_model_with_them(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = {"models": [{"resunet_a": {"width": 4, "head": "cmtsk"}}], "losses": ["multi_task", "tanimoto"]}
    assert len([run for run in study(config, **heads).runs if run.kind == "run"]) == 2
    nested = {"weighted_sum": {"terms": ["multi_task", "focal"]}}
    for model in ("unet", {"resunet_a": {"width": 4}}, {"smp": {"encoder": "resnet18"}}):
        for loss in ("multi_task", nested):
            with pytest.raises(
                ConfigError, match=r"'multi_task' needs the outputs boundary, distance, colour"
            ) as caught:
                study(config, models=[model], losses=[loss])
            assert "\n" not in str(caught.value)
    monkeypatch.setattr(module_of_variants, "declared", declares_heads)
    assert study(config, models=["unet"], losses=["multi_task"]).runs


def test_class_weights_are_as_many_as_the_regions_classes(config: Path) -> None:
    fit = [{"jaccard": {"class_weights": [1, 2, 3, 4]}}, {"weighted_sum": {"class_weights": [1, 2, 3, 4]}}]
    assert len([run for run in study(config, models=["unet"], losses=fit).runs if run.kind == "run"]) == 2
    short = {"jaccard": {"class_weights": [1, 2, 3]}}
    for losses in ([short], [{"weighted_sum": {"terms": ["focal", short]}}]):
        with pytest.raises(ConfigError, match=r"'jaccard' has 3 class_weights, the classes .* 4: forest") as caught:
            study(config, models=["unet"], losses=losses)
        assert "\n" not in str(caught.value)


def declares_heads(family: str, name: str, constant: str, default: Any = None) -> Any:
    own = {("models", "unet", "OUTPUTS"): ("mask", "boundary", "distance", "colour")}
    return own.get((family, name, constant)) or reading(family, name, constant, default)
