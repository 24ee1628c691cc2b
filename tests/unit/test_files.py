"""Atomic writes and hashes: what is under a final name is whole, and nothing else stays."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.files import atomic_file, atomic_folder, canonical_json, read_json, sha256_file, sha256_folder, write_json

KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.files import atomic_file, atomic_folder
with atomic_folder(Path(sys.argv[1]) / "chips") as folder, atomic_file(Path(sys.argv[1]) / "table.csv") as table:
    (folder / "half").write_text("half")
    table.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    for value in ({"b": 1}, {"b": 2}):
        write_json(path, value)
        assert read_json(path) == value
    assert names(path.parent) == ["a.json"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == path.parent and temporary.suffix == ".txt" and path.read_text() == "old"
        1 / 0  # noqa: B018
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "chips"
    for name in ("one", "two"):
        with atomic_folder(path) as folder:
            (folder / name).write_text(name)
    assert names(path) == ["two"]
    with pytest.raises(ZeroDivisionError), atomic_folder(path) as folder:
        (folder / "three").write_text("three")
        1 / 0  # noqa: B018
    assert names(path) == ["two"] and names(tmp_path) == ["chips"]


def test_what_a_killed_process_left_is_removed_by_the_next_that_writes_the_path(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert len(names(tmp_path)) == 2 and all(name.endswith((".part", ".part.csv")) for name in names(tmp_path))
    (tmp_path / ".table.notes.part.csv").write_text("somebody's own file")
    (tmp_path / ".tables.1.part.csv").write_text("of another path")
    with atomic_file(tmp_path / "table.csv") as table, atomic_folder(tmp_path / "chips") as folder:
        table.write_text("whole")
        (folder / "whole").write_text("whole")
    assert names(tmp_path) == [".table.notes.part.csv", ".tables.1.part.csv", "chips", "table.csv"]
    assert names(tmp_path / "chips") == ["whole"]


def test_the_hash_of_a_folder_tells_names_and_contents(tmp_path: Path) -> None:
    hashes = set()
    for name, text in (("a/b", "x"), ("a/b", "y"), ("a/c", "x"), ("ab", "x")):
        folder = tmp_path / f"{len(hashes)}"
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
        hashes.add(sha256_folder(folder))
    assert len(hashes) == 4


def test_the_hash_of_a_file_is_sha_256(tmp_path: Path) -> None:
    content = os.urandom((1 << 20) + 7)
    (tmp_path / "f").write_bytes(content)
    assert sha256_file(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_canonical_json_is_one_text_per_value() -> None:
    assert canonical_json({"b": 2.0, "a": [1e-3, True]}) == canonical_json({"a": (0.001, True), "b": 2})
    assert canonical_json({"a": 1}) != canonical_json({"a": True}) != canonical_json({"a": "1"})
