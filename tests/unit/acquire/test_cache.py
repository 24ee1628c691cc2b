"""The tile cache: kills, damage, changed files, two downloads at once."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from pipeline.acquire.cache import BATCH, Answer, TileCache
from pipeline.errors import DownloadError

TEMPLATE = "https://host/{z}/{x}/{y}.png?k=${KEY}"

PUT_AND_DIE = """
import os, signal, sys
from pathlib import Path
from pipeline.acquire.cache import Answer, TileCache
from pipeline.command import Log
with TileCache(Path(sys.argv[1]), sys.argv[2], Log()) as cache:
    for i in range(200):
        cache.put((9, i, i), Answer(200, b"%d" % i * 500))
    os.kill(os.getpid(), signal.SIGKILL)
"""

HOLD = """
import sys
from pathlib import Path
from pipeline.acquire.cache import Answer, TileCache
from pipeline.command import Log
with TileCache(Path(sys.argv[1]), sys.argv[2], Log()) as cache:
    cache.put((1, 0, 0), Answer(404))
    print("held", flush=True)
    sys.stdin.readline()
"""


def fill(path, log, count=300):
    with TileCache(path, TEMPLATE, log) as cache:
        for i in range(count):
            cache.put((9, i, 7), Answer(200, os.urandom(3000), "image/png", f'"{i}"'))


def test_answers_are_kept(tmp_path, log):
    path = tmp_path / "p" / "r00c00.sqlite"
    with TileCache(path, TEMPLATE, log) as cache:
        cache.put((5, 1, 2), Answer(200, b"body", "image/jpeg", '"tag"', "Mon, 01 Jan 2024 00:00:00 GMT", "", "0a0b0c"))
        cache.put((5, 1, 3), Answer(404))
        cache.put((5, 1, 4), Answer(200, b"camera", reason="blank: header"))
    with TileCache(path, TEMPLATE, log) as cache:
        found = cache.entries()
        assert {tile: (entry.status, entry.bytes, entry.reason) for tile, entry in found.items()} == {
            (5, 1, 2): (200, 4, ""),
            (5, 1, 3): (404, 0, ""),
            (5, 1, 4): (200, 6, "blank: header"),
        }
        first = found[5, 1, 2]
        assert (first.etag, first.modified, first.colour) == ('"tag"', "Mon, 01 Jan 2024 00:00:00 GMT", "0a0b0c")
        assert first.sha256 == "230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5"
        assert (cache.body((5, 1, 2)), cache.body((5, 1, 3))) == (b"body", b"")
    assert log.lines == []


def test_committed_batches_survive_a_kill(tmp_path, log):
    path = tmp_path / "r00c00.sqlite"
    process = subprocess.run([sys.executable, "-c", PUT_AND_DIE, str(path), TEMPLATE])
    assert process.returncode == -signal.SIGKILL
    with TileCache(path, TEMPLATE, log) as cache:
        kept = cache.entries()
        assert 200 - BATCH < len(kept) <= 200
        assert all(cache.body(tile) == b"%d" % tile[1] * 500 for tile in kept)
    assert log.lines == []


@pytest.mark.parametrize("damage", ["no database", "middle", "cut off"])
def test_a_damaged_file_is_moved_aside_in_one_line(tmp_path, log, damage):
    path = tmp_path / "r00c00.sqlite"
    fill(path, log)
    raw = path.read_bytes()
    if damage == "no database":
        raw = b"<html>" * 1000
    elif damage == "middle":
        raw = raw[: len(raw) // 3] + os.urandom(len(raw) // 3) + raw[2 * len(raw) // 3 :]
    else:
        raw = raw[: len(raw) // 2]
    path.write_bytes(raw)
    with TileCache(path, TEMPLATE, log) as cache:
        assert cache.entries() == {}
        cache.put((9, 0, 7), Answer(200, b"again"))
    assert len(log.lines) == 1 and "damaged" in log.lines[0] and str(path) in log.lines[0]
    assert path.with_suffix(".damaged").read_bytes() == raw
    with TileCache(path, TEMPLATE, log) as cache:
        assert cache.body((9, 0, 7)) == b"again"


def test_a_tile_that_differs_from_its_hash_is_an_error(tmp_path, log):
    path = tmp_path / "r00c00.sqlite"
    fill(path, log, 3)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE tiles SET body = ? WHERE x = 1", (b"other",))
    db.close()
    with TileCache(path, TEMPLATE, log) as cache, pytest.raises(DownloadError, match="tile 9/1/7 is damaged; delete"):
        cache.body((9, 1, 7))


def test_a_template_is_only_noted(tmp_path, log):
    """Which file belongs to which url is the caller's; nothing that was fetched is thrown away for its sake."""
    path = tmp_path / "r00c00.sqlite"
    fill(path, log, 5)
    with TileCache(path, TEMPLATE.replace("host", "elsewhere"), log) as cache:
        assert len(cache.entries()) == 5
    assert log.lines == []


def test_local_files_that_changed_are_read_again_in_one_line(tmp_path, log):
    path = tmp_path / "r00c00.sqlite"
    for files, kept in (("5 files", 0), ("5 files", 1), ("6 files", 0), ("6 files", 1)):
        with TileCache(path, TEMPLATE, log, files=files) as cache:
            assert len(cache.entries()) == kept
            cache.put((9, 0, 7), Answer(200, b"body"))
    assert len(log.lines) == 1 and str(path) in log.lines[0] and "changed" in log.lines[0]


def test_a_file_of_another_program_is_left_alone(tmp_path, log):
    path = tmp_path / "r00c00.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE tiles (zoom INTEGER, tile BLOB)")
    db.close()
    with pytest.raises(DownloadError, match="cannot be opened"), TileCache(path, TEMPLATE, log):
        pass
    assert path.exists()


def test_two_downloads_take_turns(tmp_path, log):
    path = tmp_path / "r00c00.sqlite"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), TEMPLATE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"

        class Release(type(log)):
            def __call__(self, text):
                super().__call__(text)
                other.stdin.write("\n")
                other.stdin.flush()

        waiting = Release()
        with TileCache(path, TEMPLATE, waiting) as cache:
            assert cache.entries()[1, 0, 0].status == 404
        assert len(waiting.lines) == 1 and "waiting" in waiting.lines[0]
    finally:
        other.communicate("\n", timeout=10)
