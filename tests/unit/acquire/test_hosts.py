"""Turns per host and the rate of requests, in a time of the test's own."""

from __future__ import annotations

import asyncio
import time

import pytest

from pipeline.acquire import hosts
from pipeline.acquire.hosts import Gate, holding, host_of, turn
from pipeline.errors import DownloadError


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://tiles.example.org/{z}/{x}/{y}.png", "tiles.example.org"),
        ("https://Tiles.Example.org:8443/wms?url=https://other.org/", "tiles.example.org_8443"),
        ("https://{s}.tiles.example.org/{z}", "_s_.tiles.example.org"),
        ("https://me:pass@example.org/x", "example.org"),
        ("https://${USER}:${KEY}@example.org/x", "example.org"),
        ("https://example.org?layer=a@b", "example.org"),
        ("http://[::1]:80/x", "___1__80"),
        ("https://../../x", "_"),
    ],
)
def test_a_host_is_a_file_name_without_secrets(url, host):
    assert host_of(url) == host


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(hosts.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(hosts.asyncio, "sleep", self.sleep)

    async def sleep(self, seconds):
        self.now += seconds


def leave(gate, clock, count):
    """When `count` requests leave that are all ready at once."""

    async def run():
        times = []
        for _ in range(count):
            await gate.wait()
            times.append(clock.now)
        return times

    return asyncio.run(run())


@pytest.mark.parametrize(("rate", "connections", "burst"), [(10.0, 4, 4), (2.0, 8, 2), (0.5, 8, 1), (7.3, 100, 7)])
def test_no_window_holds_more_than_the_burst_and_the_rate(monkeypatch, rate, connections, burst):
    clock = Clock(monkeypatch)
    times = []
    for _ in range(3):  # downloads that take turns, with a rest in between
        times += leave(Gate(rate, connections), clock, 40)
        gate = Gate(rate, connections)
        clock.now += 100
        times += leave(gate, clock, 20)
    for first in range(len(times)):
        for last in range(first, len(times)):
            assert last - first + 1 <= burst + rate * (times[last] - times[first]) + 1e-6
    assert times[39] - times[0] == pytest.approx(39 / rate)
    assert times[40 + burst - 1] - times[40] == pytest.approx(0, abs=1e-6)  # the bucket had filled


def test_without_a_rate_nobody_waits(monkeypatch):
    clock = Clock(monkeypatch)
    assert set(leave(Gate(), clock, 50)) == {1000.0}


def test_a_retry_after_holds_for_the_next_download_too(monkeypatch, tmp_path):
    note = tmp_path / "host.until"
    Gate(note=note).hold_back(30)
    clock = Clock(monkeypatch)
    assert 29 < leave(Gate(note=note), clock, 1)[0] - 1000 < 34
    assert leave(Gate(note=tmp_path / "other.until"), clock, 1) == [clock.now]


@pytest.mark.parametrize("text", ["", "soon", "nan", "12.5", "99999999999"])
def test_a_note_that_is_past_or_nonsense_is_ignored(monkeypatch, tmp_path, text):
    note = tmp_path / "host.until"
    note.write_text(text)
    clock = Clock(monkeypatch)
    assert leave(Gate(note=note), clock, 1) == [1000.0]


def test_turns_are_by_host(tmp_path, log):
    start = time.monotonic()
    with turn(tmp_path, "https://a.org/{z}", "one", log) as note, turn(tmp_path, "https://b.org/{z}", "two", log):
        assert note == tmp_path / "hosts" / "a.org.until"
        assert {path.name for path in note.parent.iterdir()} == {"a.org.lock", "b.org.lock"}
    assert log.lines == [] and time.monotonic() - start < 5


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, log):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DownloadError, match=r"cache/x\.lock: the cache cannot be written \(.*\); make"):  # noqa: SIM117
        with holding(tmp_path / "cache" / "x.lock", "", log):
            pass
