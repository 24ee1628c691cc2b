"""The entries of config/providers/landcover: each one's block for a region file is valid as it is printed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.config import load_region

CONFIG = Path(__file__).parents[3] / "config"
ENTRIES = sorted(path.stem for path in (CONFIG / "providers" / "landcover").glob("*.yaml"))


def block(name: str) -> str:
    """The part of the comment that is meant for a region file."""
    lines = (CONFIG / "providers" / "landcover" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    start = lines.index("#   landcover:")
    body = lines[start : next(place for place in range(start, len(lines)) if not lines[place].startswith("#   "))]
    return "\n".join(line.removeprefix("#   ") for line in body) + "\n"


@pytest.mark.parametrize("name", ENTRIES)
def test_the_printed_block_is_a_land_cover_of_a_region(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CONFIG, tmp_path / "config")
    text = "bbox: [8.4, 49.9, 8.5, 50.0]\ngrid: {zoom: 14}\nclasses: frankfurt\nimagery:\n"
    text += "  aerial: {kind: xyz, url: 'https://tiles.example/{z}/{x}/{y}.png'}\n" + block(name)
    for entry in YAML(typ="safe", pure=True).load(block(name))["landcover"].values():
        if "path" in entry:
            Path(entry["path"]).parent.mkdir(parents=True)
            Path(entry["path"]).touch()
    (tmp_path / "config" / "regions" / "here.yaml").write_text(text, encoding="utf-8")
    (source,) = load_region("here", tmp_path / "config").landcover.values()
    assert set(source.classes.values()) == {"forest", "fields", "urban", "water"}
    if name == "corine_2018":
        assert sorted([*source.classes, *source.ignore]) == [*range(1, 45), 48]
    if name != "frankfurt_new":  # whose terms nobody here knows
        assert source.attribution and source.terms.startswith("https://")
