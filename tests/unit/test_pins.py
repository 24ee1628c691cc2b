"""The three places that name package versions agree: ranges, the lock, and the conda environment."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
CONDA_NAMES = {"torch": "pytorch", "osmium": "pyosmium"}  # what conda-forge calls them, where it differs
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK_LINES = [
    line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")
]


def direct() -> list[Requirement]:
    """Every requirement that pyproject.toml states, extras included."""
    extras = [text for group in PROJECT["optional-dependencies"].values() for text in group]
    return [Requirement(text) for text in [*PROJECT["dependencies"], *extras]]


def locked() -> dict[str, str]:
    """Version by normalised name."""
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in LOCK_LINES)}


def conda() -> dict[str, str]:
    """Version by conda name; python is a range and left out."""
    content = YAML(typ="safe", pure=True).load((ROOT / "envs" / "pipeline.yaml").read_text())
    entries = [entry for entry in content["dependencies"] if not entry.startswith("python>")]
    pairs = [entry.split("=") for entry in entries]
    assert all(len(pair) == 2 for pair in pairs), entries
    return dict(pairs)


@pytest.mark.parametrize("line", LOCK_LINES)
def test_each_line_of_the_lock_is_one_exact_version_and_no_url(line: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9][0-9a-z.]*", line)


def test_the_lock_is_sorted_without_doubles() -> None:
    names = [line.split("==")[0] for line in LOCK_LINES]
    assert names == sorted(set(names))


@pytest.mark.parametrize("requirement", direct(), ids=lambda requirement: requirement.name)
def test_the_lock_satisfies_every_range(requirement: Requirement) -> None:
    assert len(requirement.specifier) > 0
    version = locked().get(canonicalize_name(requirement.name))
    assert version is not None, "not locked: run make lock"
    assert requirement.specifier.contains(version)


def test_the_conda_environment_has_the_locks_versions_of_what_jobs_import() -> None:
    names = [canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]]
    spelled = {"ruamel-yaml": "ruamel.yaml"} | CONDA_NAMES
    assert conda() == {spelled.get(name, name): locked()[name] for name in names}


def test_the_conda_environment_allows_the_pythons_of_the_project() -> None:
    content = YAML(typ="safe", pure=True).load((ROOT / "envs" / "pipeline.yaml").read_text())
    assert f"python{PROJECT['requires-python']}" in content["dependencies"]
    assert "never solved here" in (ROOT / "envs" / "pipeline.yaml").read_text()


def test_the_linters_read_the_oldest_python_of_the_project() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert tool["mypy"]["python_version"] == oldest
    assert tool["ruff"]["target-version"] == "py" + oldest.replace(".", "")
