"""Config files: what is right is read, what is wrong is one line."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from pipeline import config as module
from pipeline.config import (
    LandcoverConfig,
    json_schema,
    load_classes,
    load_main,
    load_recipe,
    load_region,
    load_study,
    read_yaml,
)
from pipeline.errors import ConfigError
from pipeline.files import read_json
from pipeline.names import is_name

PROJECT = Path(__file__).resolve().parents[2]
# the demo with no sources but its tiles
ONLY_TILES: dict[str, Any] = {"demo": None, "truth": None, "osm": None, "landcover": {}, "splits": {}}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    module._load.cache_clear()
    shutil.copytree(PROJECT / "config", tmp_path / "config")
    return tmp_path / "config"


def change(path: Path, **changes: Any) -> None:
    """Change top-level or dotted keys (``a__b``) of a YAML file."""
    yaml = YAML(typ="safe", pure=True)
    content = yaml.load(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = content
        for parent in parents:
            place = place[parent]
        place[last] = value
    with open(path, "w") as handle:
        yaml.dump(content, handle)


def test_the_schema_file_is_what_the_models_say() -> None:
    assert read_json(PROJECT / "config" / "schema.json") == json_schema(), "run `make schema`"


def schema_errors(folder: str, content: Any) -> list[str]:
    """What an editor that takes ``config/schema.json#/<folder>`` would underline, each by its dotted place."""
    whole = read_json(PROJECT / "config" / "schema.json")
    found = Draft202012Validator({**whole, "$ref": f"#/{folder}"}).iter_errors(content)
    return [".".join(map(str, error.absolute_path)) for error in found]


@pytest.mark.parametrize("path", sorted((PROJECT / "config").glob("*/*.yaml")), ids=lambda path: path.stem)
def test_an_editor_finds_no_mistake_in_shipped_files(path: Path) -> None:
    assert schema_errors(path.parent.name, read_yaml(path)) == []


def test_an_editor_finds_what_the_models_forbid() -> None:
    assert schema_errors("config", read_yaml(PROJECT / "config" / "config.yaml")) == []
    demo = read_yaml(PROJECT / "config" / "regions" / "demo.yaml")
    assert schema_errors("regions", demo | {"gird": {}}) == [""]
    assert schema_errors("regions", demo | {"grid": {"zoom": 99}}) == ["grid.zoom"]
    summer = demo["imagery"]["summer"]
    assert schema_errors("regions", demo | {"imagery": {"summer": summer | {"urll": "x"}}}) == ["imagery.summer"]
    assert schema_errors("regions", demo | {"imagery": {"bing": {"provider": 3}}}) == ["imagery.bing"]


def test_yaml_is_read_as_1_2(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("lr: 1e-3\nmode: off\nyes: no\n")
    assert read_yaml(tmp_path / "a.yaml") == {"lr": 0.001, "mode": "off", "yes": "no"}


def test_shipped_files_are_valid(config: Path) -> None:
    region = load_region("demo", config)
    assert region.shard_names() == ["r00c00", "r00c01", "r01c00", "r01c01"]
    grid = region.static_grid()
    assert grid is not None and (grid.width, grid.height) == (2560, 2560)
    assert load_classes("frankfurt", config).colours == [(4, 135, 29), (231, 231, 25), (229, 109, 109), (14, 10, 214)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bbox": [8.5, 50.01, 8.53, 49.99]}, r"bbox: south 50.01 is not below north 49.99"),
        ({"bbox": [8.6, 49.99, 8.5, 50.01]}, r"bbox: west 8.6 is not left of east 8.5"),
        ({"bbox": [500, 0, 501, 1]}, r"is not west, south, east, north in degrees"),
        ({"bbox": [0, 86, 1, 87]}, r"beyond 85.05 degrees"),
        ({"imagery__summer__urll": "x"}, r"imagery\.summer\.urll: unknown key; did you mean 'url'"),
        (
            {"imagery__summer__kind": "xzy"},
            r"imagery\.summer\.kind: unknown value 'xzy'; did you mean 'xyz'\? choices: .*wmts",
        ),
        ({"imagery__summer__url": "http://a/{z}/{x}.png"}, r"lacks \{y\}"),
        ({"imagery__summer__zoom": 16}, r"zoom 16 differs from the grid's 17"),
        ({"imagery__summer__max_zoom": 15}, r"imagery\.summer: zoom 17 is not one of the source's \(0 to 15\)"),
        ({"grid": {}}, r"grid: give one of `zoom`, `imagery`, or `crs` with"),
        ({"grid": {"imagery": "winter"}}, r"grid.imagery: no source 'winter'"),
        ({"grid": {"imagery": "summer"}}, r"'summer' is of kind xyz, only a raster has a grid"),
        ({"landcover__coarse__classes": {10: "woods"}}, r"landcover.coarse.classes.10: no class 'woods'"),
        ({"splits__blocks__fractions": [0.5, 0.2, 0.2]}, r"must be positive and add up to 1"),
        ({"splits__blocks__block_px": 500}, r"splits.blocks: block_px 500 is no multiple of chips.px 128"),
        ({"splits__blocks__balance": "nothing"}, r"splits.blocks.balance: .*nothing.yaml does not exist"),
        ({"splits__random__buffer_m": 10}, r"a random split has no buffer"),
        ({"splits__blocks__folds": 3, "splits__blocks__fold": 3}, r"fold 3 does not exist"),
        ({"classes": "frankfrut"}, r"classes: .*frankfrut.yaml does not exist; did you mean 'frankfurt'"),
        ({"chips": {"px": 4}}, r"chips\.px: must be at least 8, got 4"),
        ({"chips": {"pix": 128}}, r"chips.pix: unknown key; .*px"),
        ({"demo": None, "osm": {"path": "nowhere.osm.pbf"}}, r"the file '.*' does not exist"),
        (ONLY_TILES, r"imagery\.autumn\.serve: the folder 'data/demo/source/tiles/autumn' does not exist"),
        ({"title": 3}, r"title: must be text, got 3"),
        ({"imagery": {"truth": {"kind": "raster", "path": "a.tif"}}}, r"imagery\.truth: .*data/demo/chips/truth"),
        ({"imagery__my-photos": {"kind": "raster", "path": "a.tif"}}, r"'my-photos' is no name: .*underscores"),
        ({"splits__blocks__balance": "osm-v2"}, r"splits\.blocks\.balance: .*'osm-v2' is no name: .*mean 'osm'"),
        ({"classes": "../classes/frankfurt"}, r"classes: .*'\.\./classes/frankfurt' is no name: .*mean 'frankfurt'"),
        ({"splits__blocks__seed": -1}, r"splits\.blocks\.seed: must be at least 0, got -1"),
        ({"splits__blocks__seed": 2**63}, r"splits\.blocks\.seed: must be below 9223372036854775808, got 92"),
        ({"demo": {"seed": -1}}, r"demo\.seed: must be at least 0, got -1"),
        ({"osm": {"url": "https://a/b.osm.pbf"}}, r"demo\.yaml: osm: a `url` needs one of sha256, md5, checksum_url"),
        ({"osm": [{"path": "a", "url": "b"}]}, r"demo\.yaml: osm\.0: give either `path` or `url`"),
        ({"osm": [{"path": "a"}, {"pth": "b"}]}, r"demo\.yaml: osm\.1\.pth: unknown key; did you mean 'path'\?"),
        ({"osm": 3}, r"demo\.yaml: osm: must be a mapping of keys or a list, got 3"),
        (
            {"landcover__coarse": {"kind": "vector", "path": "a", "classes": {}}},
            r"landcover\.coarse\.field: this key is",
        ),
        ({"landcover__coarse": {"classes": {}}}, r"demo\.yaml: landcover\.coarse: give either `path` or `url`"),
        (
            {"landcover__coarse": {"kind": "vectors"}},
            r"landcover\.coarse\.kind: unknown value 'vectors'; did you mean 'v",
        ),
        ({"landcover__coarse__url": 3}, r"demo\.yaml: landcover\.coarse\.url: must be text or a list, got 3"),
        (
            {"landcover__coarse__ignore": [1.5]},
            r"landcover\.coarse\.ignore\.0: must be a whole number or text, got 1\.5",
        ),
        ({"imagery__summer": {"path": "a.tif"}}, r"imagery\.summer\.kind: this key is missing; choices: cog, .*, xyz"),
        ({"imagery__summer": "a.tif"}, r"demo\.yaml: imagery\.summer: must be a mapping of keys, got 'a\.tif'"),
        (
            {"imagery__summer__accept_terms": "yess"},
            r"imagery\.summer\.accept_terms: must be true or false, got 'yess'",
        ),
        (
            {"imagery__summer__values": {"id": "1"}},
            r"demo\.yaml: imagery\.summer\.values\.id: the url .* has no \{id\}",
        ),
        ({"imagery__summer__tile_px": 300}, r"imagery\.summer\.tile_px: unknown value 300; choices: 1024, 256, 512"),
        (
            {"imagery__Drone": {"kind": "raster", "path": "a.tif"}},
            r"demo\.yaml: imagery\.Drone: 'Drone' is no name: use",
        ),
        ({"imagery": None}, r"demo\.yaml: imagery: must be a mapping of keys, got nothing"),
        ({"grid__zoom": "twenty"}, r"demo\.yaml: grid\.zoom: must be a whole number, got 'twenty'"),
        ({"grid__zoom": [17]}, r"demo\.yaml: grid\.zoom: must be a whole number, got a list"),
        ({"osm": {"url": "https://a/b.osm.pbf", "md5": "x"}}, r"demo\.yaml: osm\.md5: must match pattern .*, got 'x'"),
        (
            {"splits__blocks__fractions": [0.5, 0.5]},
            r"fractions: must be three numbers: train, val, test, got a list of 2",
        ),
        ({"splits__blocks__fractions": [float("nan"), 0.2, 0.2]}, r"fractions\.0: .*finite number, got nan"),
    ],
)
def test_a_mistake_in_a_region_is_one_line(config: Path, changes: dict[str, Any], words: str) -> None:
    change(config / "regions" / "demo.yaml", **changes)
    with pytest.raises(ConfigError, match=words) as caught:
        load_region("demo", config)
    assert "\n" not in str(caught.value)
    assert "demo.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ([(0, "a"), (0, "b")], "class index 0 is used twice"),
        ([(0, "a"), (1, "a")], "class name a is used twice"),
        ([(0, "a"), (2, "b")], r"must be 0 to 1 without gaps, got \[0, 2\]"),
        ([(0, "a")], "classes: has 1; it needs at least 2"),
        ([(0, "a"), (255, "b")], r"classes\.1\.index: must be at most 254, got 255"),
        ([(0, "a"), (1, "ignored")], "'ignored' means pixels of no class"),
    ],
)
def test_a_mistake_in_a_class_scheme_is_one_line(config: Path, classes: list[Any], words: str) -> None:
    entries = [{"index": index, "name": name, "colour": [0, 0, 0]} for index, name in classes]
    change(config / "classes" / "frankfurt.yaml", classes=entries)
    with pytest.raises(ConfigError, match=words) as caught:
        load_classes("frankfurt", config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"layers__water__label": "wasser"},
            r"osm\.yaml: layers\.water\.label: no class 'wasser' in frankfurt; did you mean 'water'",
        ),
        ({"layers__landcover__source": "fine"}, r"layers.landcover.source: region 'demo' has no land cover 'fine'"),
        (
            {"layers__roads_1__widths_m": {"trunk": -2}},
            r"osm\.yaml: layers\.roads_1\.widths_m\.trunk: -2\.0 is no width",
        ),
        ({"layers__roads_1__width": 3}, r"layers\.roads_1\.width: unknown key; .*widths_m"),
        ({"background": "sea"}, r"background: no class 'sea'"),
        ({"layers__none": {"kind": "areas", "layer": "water", "label": "water"}}, r"'none' means pixels of no layer"),
        (
            {f"layers__l{i}": {"kind": "areas", "layer": "water", "label": "water"} for i in range(250)},
            r"has \d+ layers, at most 254",
        ),
        ({"layers__water__tags": {}}, r"layers\.water\.tags: is empty"),
        (
            {"layers__water__kind": "area"},
            r"osm\.yaml: layers\.water\.kind: unknown value 'area'; did you mean 'areas'\?",
        ),
        (
            {"layers__roads_1__layer": "road"},
            r"layers\.roads_1\.layer: unknown value 'road'; did you mean 'roads'\? choices",
        ),
        ({"layers__roads_1__widths_m": 5}, r"osm\.yaml: layers\.roads_1\.widths_m: must be a mapping of keys, got 5"),
        ({"layers__landcover__label": "water"}, r"osm\.yaml: layers\.landcover\.label: unknown key; .*source"),
        ({"layers": None}, r"osm\.yaml: layers: must be a mapping of keys, got nothing"),
        ({"layers__roads_1__tags": {"surface": []}}, r"tags.surface: is empty"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line(config: Path, changes: dict[str, Any], words: str) -> None:
    change(config / "recipes" / "osm.yaml", **changes)
    with pytest.raises(ConfigError, match=words) as caught:
        load_region("demo", config)
    assert "\n" not in str(caught.value)


def test_the_path_of_ones_own_copy_takes_the_place_of_an_entrys_url(config: Path) -> None:
    own = {"provider": "esa_worldcover", "path": "data/demo/own.tif"}
    change(config / "regions" / "demo.yaml", landcover={"mine": own, "coarse": {"path": "a.tif", "classes": {}}})
    with pytest.raises(ConfigError, match=r"landcover\.mine: the entry esa_worldcover brings a url: set `url: null`"):
        load_region("demo", config)
    classes = {10: "forest"}
    change(config / "regions" / "demo.yaml", landcover__mine={**own, "url": None, "classes": classes})
    found = load_region("demo", config).landcover["mine"]
    assert isinstance(found, LandcoverConfig)
    assert (found.path, found.url, found.classes) == (Path("data/demo/own.tif"), None, classes)


def test_bad_yaml_names_file_and_line(config: Path) -> None:
    (config / "classes" / "bad.yaml").write_text("classes:\n  - {index: 0\n  - b\n")
    with pytest.raises(ConfigError, match=r"bad.yaml: line \d"):
        load_classes("bad", config)


def test_an_empty_file_says_what_it_needs(config: Path) -> None:
    (config / "regions" / "void.yaml").write_text("# nothing\n")
    with pytest.raises(ConfigError, match=r"void.yaml: is empty; it needs grid, classes, imagery"):
        load_region("void", config)


@pytest.mark.parametrize(
    ("load", "folder", "name"),
    [
        (load_study, "studies", "My-Study"),
        (load_region, "regions", "Demo"),
        (load_recipe, "recipes", "osm-v2"),
        (load_classes, "classes", "two classes"),
        (load_study, "studies", "_mine"),
    ],
)
def test_a_file_that_no_rule_could_name_is_to_be_renamed(config: Path, load: Any, folder: str, name: str) -> None:
    shutil.copy(next((config / folder).glob("*.yaml")), config / folder / f"{name}.yaml")
    with pytest.raises(
        ConfigError, match=rf"{name}\.yaml: '{name}' is no name: .*underscores.*; rename the file"
    ) as caught:
        load(name, config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../regions/demo", "nowhere/demo", "Demo", "", "demo\n", "a\0b"])
def test_a_reference_that_is_no_name_is_one_line_with_the_choices(config: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"is no name: .*choices: .*demo, .*zanzibar") as caught:
        load_region(name, config)
    assert repr(name) in str(caught.value) and "\n" not in str(caught.value)


def test_the_rules_take_every_name_that_the_config_takes() -> None:
    """The wildcard constraints of the rules, read from their file, against names of each shape."""
    text = (PROJECT / "rules" / "common.smk").read_text()
    block = text.partition("wildcard_constraints:")[2].partition("def ")[0]
    constraints = dict(re.findall(r'(\w+)=r"(.+)",', block))
    for name in ("demo", "a", "7", "0_", "osm_v2", "a__b"):
        assert is_name(name)
        for wildcard in ("region", "provider", "source", "recipe", "store", "split", "study"):
            assert re.fullmatch(constraints[wildcard], name), (wildcard, name)
        assert re.fullmatch(constraints["store"], f"landcover-{name}")
        assert re.fullmatch(constraints["run"], f"{name}-{name}-{name}-lr1e-05-s4294967295-0123456789")
    for name in ("", "A", "a-b", "a.b", "a b", "../a", "ä", "_a", "a\n", "²"):
        assert not is_name(name)


@pytest.mark.parametrize("name", ["truth", "summer"])
def test_a_recipe_whose_chips_would_lie_on_others_is_refused(config: Path, name: str) -> None:
    shutil.copy(config / "recipes" / "osm.yaml", config / "recipes" / f"{name}.yaml")
    change(config / "regions" / "demo.yaml", splits__blocks__balance=name)
    with pytest.raises(
        ConfigError, match=rf"splits\.blocks\.balance: .*{name}\.yaml: .*data/demo/chips/{name}.*rename"
    ):
        load_region("demo", config)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: x\x07y\n", r"bad\.yaml: line 2: the character '\\x07' is not allowed"),
        ("a: 2024-13-45\n", r"bad\.yaml: .*month must be in 1\.\.12"),
        ("a: " + "9" * 5000, r"bad\.yaml: .*4300 digits"),
        ("a: " + "[" * 5000, r"bad\.yaml: is nested too deeply"),
        ("a: 1\na: 2\n", r"bad\.yaml: line 2: found duplicate key"),
        ("a: !!python/none\n", r"bad\.yaml: line 1: could not determine a constructor"),
        ("a: 1\n---\nb: 2\n", r"bad\.yaml: line 2: "),
    ],
)
def test_text_that_is_no_yaml_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        read_yaml(tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value)


def test_the_main_config_with_a_control_character_is_one_line(config: Path) -> None:
    (config / "config.yaml").write_text("studies: [demo\x1b]\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: line 1: the character '\\x1b'"):
        load_main(config)
