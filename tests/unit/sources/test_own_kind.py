"""docs/data-sources.md's example of a kind, built as the page says: one file, then a region may name it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.support.project import FILE_BLOCK, ROOT

PAGE = ROOT / "docs/data-sources.md"
SHOW = """
import json
from pipeline.config import RegionConfig, json_schema
from pipeline.sources._kinds import kinds
entry = {"kind": "arcgis_image", "url": "https://h/ImageServer", "tile_px": 512}
region = {"bbox": [8.0, 50.0, 8.001, 50.001], "grid": {"crs": "EPSG:25832", "resolution": 0.5}, "classes": "c"}
region = RegionConfig(**region, imagery={"a": entry})
source, grid = region.imagery["a"], region.static_grid()
layout = source.layout("a", grid, None)
places = layout.tiles(grid.shards()[0])
print(json.dumps({
    "kinds": sorted(kinds()), "schema": "arcgis_image" in json.dumps(json_schema()), "left": grid.left, "top": grid.top,
    "first": source.address(next(iter(places)), layout, grid), "place": next(iter(places.values())),
}))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package with the page's file in it."""
    folder = tmp_path_factory.mktemp("own_kind")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    blocks = dict(FILE_BLOCK.findall(PAGE.read_text(encoding="utf-8")))
    assert list(blocks) == ["src/pipeline/sources/arcgis_image.py"]
    for name, text in blocks.items():
        assert not (ROOT / name).exists()
        (folder / name).write_text(text)
    return folder


def test_the_kind_of_the_page_is_there_once_its_file_is(copy):
    environment = {**os.environ, "PYTHONPATH": str(copy / "src")}
    command = [sys.executable, "-c", SHOW]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=copy)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "arcgis_image" in found["kinds"] and found["schema"]
    row, col = found["place"]
    left, top = found["left"] + col * 0.5, found["top"] - row * 0.5
    box = ",".join(f"{value:g}" if value % 1 else str(int(value)) for value in (left, top - 256, left + 256, top))
    assert found["first"] == (
        f"https://h/ImageServer/exportImage?bbox={box}&bboxSR=25832&imageSR=25832&size=512,512&format=jpgpng&f=image"
    )
    assert left % 256 == 0 and top % 256 == 0, "squares are counted from the system's origin"


def test_the_page_keeps_the_linters(copy):
    path = copy / "src/pipeline/sources/arcgis_image.py"
    config = ["--config", str(ROOT / "pyproject.toml")]
    for action in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *action, *config, str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_table_of_entries_is_that_of_the_files():
    rows = [line.split("|") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    listed = {row[1].strip(" `"): row for row in rows if len(row) == 7}
    folder = ROOT / "config/providers/imagery"
    assert sorted(listed) == sorted(path.stem for path in folder.glob("*.yaml"))
    for name, row in listed.items():
        text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
        keys = dict(line.split(": ", 1) for line in text.splitlines() if line[:1].islower() and ": " in line)
        kind, zooms, terms = row[3].strip().lower().replace("/", ""), row[4].strip(), row[5]
        assert keys["kind"] == kind and keys["terms"] in terms
        if kind in ("stac", "cog"):  # warped to any grid
            assert zooms == "any" and "max_zoom" not in keys
        else:
            assert zooms == f"{keys.get('min_zoom', 0)}–{keys['max_zoom']}"
        assert ("**off**" in terms) == (keys.get("requires_terms") == "true")
