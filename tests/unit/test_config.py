"""Config files: what is right is read, what is wrong is one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline import config as module
from pipeline.config import json_schema, load_classes, load_region, read_yaml
from pipeline.errors import ConfigError
from pipeline.files import read_json

PROJECT = Path(__file__).resolve().parents[2]


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
        ({"imagery__summer__urll": "x"}, r"imagery.summer.xyz.urll: unknown key; did you mean 'url'"),
        ({"imagery__summer__kind": "xzy"}, r"imagery.summer: .*'xyz'"),
        ({"imagery__summer__url": "http://a/{z}/{x}.png"}, r"lacks \{y\}"),
        ({"imagery__summer__zoom": 16}, r"zoom 16 differs from the grid's 17"),
        ({"imagery__summer__max_zoom": 15}, r"zoom 17 is above the source's 15"),
        ({"grid": {}}, r"grid: give either `zoom` or `imagery`"),
        ({"grid": {"imagery": "winter"}}, r"grid.imagery: no source 'winter'"),
        ({"grid": {"imagery": "summer"}}, r"'summer' is of kind xyz, only a raster has a grid"),
        ({"landcover__coarse__classes": {10: "woods"}}, r"landcover.coarse.classes.10: no class 'woods'"),
        ({"splits__blocks__fractions": [0.5, 0.2, 0.2]}, r"must be positive and add up to 1"),
        ({"splits__blocks__balance": "nothing"}, r"splits.blocks.balance: .*nothing.yaml does not exist"),
        ({"splits__random__buffer_m": 10}, r"a random split has no buffer"),
        ({"splits__blocks__folds": 3, "splits__blocks__fold": 3}, r"fold 3 does not exist"),
        ({"classes": "frankfrut"}, r"classes: .*frankfrut.yaml does not exist; did you mean 'frankfurt'"),
        ({"chips": {"px": 4}}, r"chips.px: .*greater than or equal to 8, got 4"),
        ({"chips": {"pix": 128}}, r"chips.pix: unknown key; .*px"),
        ({"demo": None, "osm": {"path": "nowhere.osm.pbf"}}, r"the file '.*' does not exist"),
        ({"title": 3}, r"title: .*string, got 3"),
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
        ([(0, "a")], "classes: is empty; it needs at least|at least 2"),
        ([(0, "a"), (255, "b")], "less than or equal to 254"),
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
        ({"layers__water__label": "wasser"}, r"osm.yaml: water: no class 'wasser' in frankfurt; did you mean 'water'"),
        ({"layers__landcover__source": "fine"}, r"layers.landcover.source: region 'demo' has no land cover 'fine'"),
        ({"layers__roads_1__widths_m": {"trunk": -2}}, r"widths_m.trunk: -2.0 is no width"),
        ({"layers__roads_1__width": 3}, r"layers.roads_1.lines.width: unknown key; .*widths_m"),
        ({"background": "sea"}, r"background: no class 'sea'"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line(config: Path, changes: dict[str, Any], words: str) -> None:
    change(config / "recipes" / "osm.yaml", **changes)
    with pytest.raises(ConfigError, match=words) as caught:
        load_region("demo", config)
    assert "\n" not in str(caught.value)


def test_bad_yaml_names_file_and_line(config: Path) -> None:
    (config / "classes" / "bad.yaml").write_text("classes:\n  - {index: 0\n  - b\n")
    with pytest.raises(ConfigError, match=r"bad.yaml: line \d"):
        load_classes("bad", config)


def test_an_empty_file_says_what_it_needs(config: Path) -> None:
    (config / "regions" / "void.yaml").write_text("# nothing\n")
    with pytest.raises(ConfigError, match=r"void.yaml: is empty; it needs grid, classes, imagery"):
        load_region("void", config)
