"""What the documents say about the keys of config files, and the lines of Python that they offer for them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from pipeline import variants
from pipeline.grid import tile_of_grid, web_mercator_grid
from pipeline.runs import expand_runs
from pipeline.schema import LandcoverConfig, LandcoverService, LandcoverVector
from pipeline.study_schema import MainConfig, StudyConfig
from tests.support.project import FILE_BLOCK, ROOT


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def yaml(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def test_the_schema_that_the_page_names_knows_every_file_of_the_page() -> None:
    """Editors take a part of config/schema.json by the folder of the file."""
    page, whole = read("docs/your-region.md"), json.loads(read("config/schema.json"))
    assert "$schema=../schema.json#/regions" in page
    files = [(Path(name).parts[1], yaml(text)) for name, text in FILE_BLOCK.findall(page)]
    assert {folder for folder, _ in files} == {"regions", "studies", "recipes", "classes"}
    for folder, content in files:
        assert f"#/{folder}`" in page
        assert list(Draft202012Validator({**whole, "$ref": f"#/{folder}"}).iter_errors(content)) == []


def test_the_box_and_the_gaps_of_a_folder_of_tiles(tmp_path: Path) -> None:
    """A folder with 3 of 2 by 3 tiles; the page's lines give the box of just these."""
    block = next(block for block in re.findall(r"^```python\n(.*?)^```$", read("docs/data-sources.md"), re.M | re.S))
    left, top = 619_000, 523_000
    for x, y in ((0, 0), (1, 0), (1, 2)):
        path = tmp_path / f"data/kampala/source/tiles/20/{left + x}/{top + y}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=True)
    said = yaml(done.stdout)
    grid = web_mercator_grid(tuple(said["bbox"]), 20, 8192)
    assert (grid.width, grid.height) == (2 * 256, 3 * 256)
    assert tile_of_grid(grid, 20) == (left * 256, top * 256)
    assert said["max_missing"] == 0.5


def test_the_keys_of_land_covers_are_those_of_the_models() -> None:
    table = read("docs/data-sources.md").partition("The keys of a land cover:")[2].partition("\nA file of")[0]
    listed = {
        (kind, key)
        for keys, kinds in re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", table, re.M)
        for key in re.findall(r"`(\w+)`", keys)
        for kind in (("raster", "vector", "arcgis") if kinds == "all" else re.findall(r"`(\w+)`", kinds))
    }
    models = {"raster": LandcoverConfig, "vector": LandcoverVector, "arcgis": LandcoverService}
    assert listed == {(kind, key) for kind, model in models.items() for key in model.model_fields if key != "kind"}


PAGES = {
    "models": ("docs/variants.md", "Models"),
    "losses": ("docs/variants.md", "Losses"),
    "metrics": ("docs/variants.md", "Metrics"),
    "schedules": ("docs/training.md", "Schedules"),
    "samplers": ("docs/training.md", "Samplers"),
    "augment": ("docs/training.md", "Augmentations"),
}


def rows_of(family: str) -> list[str]:
    """Rows of the table in which a page lists a family's variants."""
    page, title = PAGES[family]
    part = read(page).partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| (`.*)$", part, re.M)


@pytest.mark.parametrize("family", PAGES)
def test_every_variant_stands_in_its_page(family: str) -> None:
    listed = [name for row in rows_of(family) for name in re.findall(r"`(\w+)`", row.split(" | ")[0])]
    assert sorted(listed) == sorted(variants.names(family))


@pytest.mark.parametrize("family", PAGES)
def test_parameters_that_the_pages_name_exist(family: str) -> None:
    others = {name for other in PAGES for name in variants.names(other)}
    for row in rows_of(family):
        first, _, rest = row.partition(" | ")
        known = {key for name in re.findall(r"`(\w+)`", first) for key in variants.parameters(family, name)}
        named = {text.partition(":")[0] for text in re.findall(r"`([a-z_0-9]+(?:: [^`]*)?)`", rest)}
        assert named - known <= others, first


@pytest.mark.workflow
def test_the_settings_of_the_page_of_training_are_valid(tmp_path: Path) -> None:
    """Each snippet of a study, as part of the demo study, to its runs."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    base = yaml(read("config/studies/demo.yaml"))
    snippets = re.findall(r"^```yaml\n(.*?)^```$", read("docs/training.md"), re.M | re.S)
    for number, text in enumerate(snippets):
        part = yaml(text)
        if "engine" in part:
            assert MainConfig.model_validate({"studies": ["demo"], **part}).engine
            continue
        content = {**base, **part, "data": {**base["data"], **part.get("data", {})}, "baselines": []}
        (tmp_path / f"config/studies/snippet_{number}.yaml").write_text(json.dumps(content))
        assert expand_runs(f"snippet_{number}", tmp_path / "config").runs
    assert len(snippets) >= 6


def test_the_papers_settings_are_valid() -> None:
    """Each snippet of the page of variants, as part of the demo study."""
    base = yaml(read("config/studies/demo.yaml"))
    snippets = re.findall(r"^```yaml\n(.*?)^```$", read("docs/variants.md"), re.M | re.S)
    for text in snippets:
        content = {**base, "baselines": [], **yaml(text)}
        content["metrics"] = [entry for entry in content.get("metrics", []) if "background" not in str(entry)]
        config = StudyConfig.model_validate(content)
        for family in ("models", "losses", "metrics"):
            for entry in getattr(config, family):
                name, params = variants.entry_of(entry, "docs/variants.md")
                params.pop("train", None)
                assert variants.check(family, name, params, "docs/variants.md") is not None
    assert len(snippets) >= 6
