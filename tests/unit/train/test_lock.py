"""The lock of a run's folder, which the one that ends deletes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.train.lock import run_lock


def test_a_folder_that_vanishes_while_its_lock_is_taken_is_made_again(tmp_path, monkeypatch):
    """Between the system's call of mkdir and the look at what is there, and between mkdir and open."""
    work, mkdir, calls = tmp_path / "work", Path.mkdir, []

    def vanishing(path: Path, *args: object, **kwargs: object) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise FileExistsError(path)  # as pathlib does when the folder is gone a moment after
        mkdir(path, *args, **kwargs)
        if len(calls) == 2:
            shutil.rmtree(path)

    monkeypatch.setattr(Path, "mkdir", vanishing)
    with run_lock(work, print) as waited:
        assert waited and (work / "lock").is_file()
    assert len(calls) == 3


def test_a_file_in_the_folders_place_is_an_error(tmp_path):
    (tmp_path / "work").touch()
    with pytest.raises(FileExistsError), run_lock(tmp_path / "work", print):
        pass
