"""Single requests and whole files, from a server with faults."""

from __future__ import annotations

import hashlib
import json
import random
import resource
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from pipeline.acquire.answer import Again
from pipeline.acquire.fetch import Fetcher
from pipeline.acquire.http import Policy
from pipeline.errors import DownloadError
from tests.support.ranges import RangeServer

QUICK = Policy(retries=4, timeout_s=2, backoff_s=0.005, use_proxy=False)
BODY = random.Random(1).randbytes(300_000)


def names(folder):
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def files():
    with RangeServer({"/a.bin": BODY}).running() as running:
        yield running


@pytest.fixture
def fetcher(log):
    with Fetcher("the source", QUICK, log) as ready:
        yield ready


def test_a_range_is_those_bytes(files, fetcher):
    answer = fetcher.get(files.url("/a.bin"), byte_range=(1000, 50))
    assert answer.status == 206 and answer.body == BODY[1000:1050]
    assert answer.headers["content-range"] == "bytes 1000-1049/300000"
    assert fetcher.get(files.url("/a.bin")).body == BODY and fetcher.received_bytes == 300_050


@pytest.mark.parametrize("fault", ["429", "500", "reset", "truncated"])
def test_a_fault_is_asked_again(files, fetcher, fault):
    files.fault = lambda asked, number: fault if number < 4 else None
    assert fetcher.get(files.url("/a.bin")).body == BODY and len(files.asked) == 5


def test_what_keeps_failing_is_one_line_without_the_key(files, fetcher, monkeypatch):
    monkeypatch.setenv("MY_KEY", "hush hush/1")
    files.fault = lambda asked, number: "500"
    with pytest.raises(DownloadError) as error:
        fetcher.get(files.url("/a.bin?key=${MY_KEY}&token=typed"))
    assert str(error.value) == (
        f"the source: {files.url('/a.bin')}?key=${{MY_KEY}}&token=***: failed after 5 tries (HTTP 500); run again later"
    )
    assert len(files.asked) == 5


def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_server_that_cannot_be_reached_is_given_up_early(log, tmp_path):
    policy = replace(QUICK, retries=50)
    with Fetcher("the source", policy, log) as fetcher:
        for ask in (fetcher.get, lambda url: fetcher.download(url, tmp_path / "a.bin")):
            with pytest.raises(
                DownloadError, match=r"after 4 tries \(ConnectError.*\); check the url and the network$"
            ):
                ask(f"http://127.0.0.1:{closed_port()}/a.bin")
    assert names(tmp_path) == []


def test_a_server_that_answered_before_is_asked_as_often_as_said(files, log):
    with Fetcher("the source", replace(QUICK, retries=9, max_wait_s=0.02), log) as fetcher:
        fetcher.get(files.url("/a.bin"))
        with pytest.raises(DownloadError, match=r"after 10 tries \(ConnectError.*\); run again later$"):
            fetcher.get(f"http://127.0.0.1:{closed_port()}/a.bin")


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "check the key"), (403, "check the key"), (404, "check the url"), (400, "check the url")]
)
def test_a_refusal_is_asked_once(files, fetcher, status, hint):
    files.respond = lambda asked: (status, {}, b"words")
    with pytest.raises(DownloadError, match=rf"^the source: http\S+: the server answered HTTP {status}; {hint}"):
        fetcher.get(files.url("/a.bin"))
    assert len(files.asked) == 1


def test_keys_reach_the_server_and_nothing_else(files, log, monkeypatch):
    monkeypatch.setenv("MY_KEY", "hush+hush")
    files.respond = lambda asked: (200, {"ETag": f'"{asked.path} {asked.headers["x-key"]}"'}, b"{}")
    with Fetcher("the source", QUICK, log, headers={"X-Key": "${MY_KEY}"}) as fetcher:
        answer = fetcher.get(files.url("/a?k=${MY_KEY}"))
    assert files.asked[0].path == "/a?k=hush+hush" and files.asked[0].headers["x-key"] == "hush+hush"
    assert answer.headers["etag"] == '"/a?k=${MY_KEY} ${MY_KEY}"'
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(DownloadError, match=r"environment variable MY_KEY .* is not set"):
        Fetcher("the source", QUICK, log, headers={"X-Key": "${MY_KEY}"})


def test_headers_stay_on_their_own_server(files, log):
    with RangeServer({"/b": b"there"}).running() as other:
        files.respond = lambda asked: (302, {"Location": other.url("/b")}, b"")
        with Fetcher("the source", QUICK, log, headers={"X-Key": "typed"}) as fetcher:
            assert fetcher.get(files.url("/a")).body == b"there"
            assert files.asked[0].headers["x-key"] == "typed" and "x-key" not in other.asked[0].headers
        with Fetcher("the source", QUICK, log, headers={"X-Key": "typed"}, only_to=files.url("/")) as fetcher:
            fetcher.get(other.url("/b"))
            assert "x-key" not in other.asked[1].headers


def test_a_circle_of_redirects_ends(files, fetcher):
    files.respond = lambda asked: (302, {"Location": "/a"}, b"")
    with pytest.raises(DownloadError, match="cannot be asked for"):
        fetcher.get(files.url("/a"))
    assert len(files.asked) == 6


def test_json_is_parsed_and_posted(files, fetcher):
    pages = iter([b"<html>busy</html>", b'{"n": 1}', b'{"n": 2}'])
    files.respond = lambda asked: (200, {"Content-Type": "text/html"}, next(pages))
    assert fetcher.get_json(files.url("/j")) == {"n": 1}
    assert fetcher.get_json(files.url("/j"), {"bbox": [1, 2]}) == {"n": 2}
    assert [asked.method for asked in files.asked] == ["GET", "GET", "POST"]
    assert json.loads(files.asked[2].body) == {"bbox": [1, 2]}
    files.respond = lambda asked: (200, {"Content-Type": "text/html"}, b"<html>")
    with pytest.raises(DownloadError, match="no JSON but text/html"):
        fetcher.get_json(files.url("/j"))


def test_a_check_may_ask_again(files, fetcher):
    seen = []

    def check(answer):
        seen.append(answer)
        if len(seen) < 3:
            raise Again("not good")

    fetcher.get(files.url("/a.bin"), check=check)
    assert len(files.asked) == 3


def test_a_rate_holds_over_threads(files, log):
    policy = Policy(retries=0, timeout_s=2, use_proxy=False, rate_per_s=50)
    with Fetcher("the source", policy, log) as fetcher:
        start = time.monotonic()
        threads = [threading.Thread(target=fetcher.get, args=(files.url("/a.bin"),)) for _ in range(11)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(files.asked) == 11 and time.monotonic() - start >= 0.2


def test_a_slow_drip_is_a_timeout(files, log):
    files.respond = lambda asked: time.sleep(0.6) or (200, {}, b"late")
    policy = Policy(retries=1, timeout_s=0.2, backoff_s=0.01, use_proxy=False)
    with (
        Fetcher("the source", policy, log) as fetcher,
        pytest.raises(DownloadError, match=r"failed after 2 tries \(timeout\)"),
    ):
        fetcher.get(files.url("/a.bin"))


# --- whole files -------------------------------------------------------------------------------------------------


def test_a_file_is_downloaded_and_checked(files, fetcher, tmp_path):
    out = tmp_path / "deep" / "a.bin"
    digest = hashlib.sha256(BODY).hexdigest()
    done = fetcher.download(files.url("/a.bin"), out, sha256=digest)
    assert out.read_bytes() == BODY and done.size_bytes == len(BODY) and done.sha256 == digest
    assert done.validator == '"300000"' and names(out.parent) == ["a.bin"]
    files.files["/a.bin.md5"] = f"{hashlib.md5(BODY).hexdigest()}  a.bin\n".encode()
    fetcher.download(files.url("/a.bin"), out, checksum_url=files.url("/a.bin.md5"))
    files.files["/a.bin.md5"] = b"<html>"
    with pytest.raises(DownloadError, match="does not open with an md5 or a sha256"):
        fetcher.download(files.url("/a.bin"), out, checksum_url=files.url("/a.bin.md5"))


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_checksum_leaves_what_was_there(files, fetcher, tmp_path, kind):
    out = tmp_path / "a.bin"
    out.write_bytes(b"older")
    with pytest.raises(DownloadError, match=rf"a\.bin: its {kind} is \w+, not the expected 0+; it was deleted"):
        fetcher.download(files.url("/a.bin"), out, **{kind: "0" * (64 if kind == "sha256" else 32)})
    assert out.read_bytes() == b"older" and names(tmp_path) == ["a.bin"]


def test_a_download_that_breaks_off_goes_on(files, fetcher, tmp_path):
    files.fault = lambda asked, number: ("truncated", "reset", "500", "truncated", "truncated", None)[min(number, 5)]
    fetcher.download(files.url("/a.bin"), tmp_path / "a.bin", sha256=hashlib.sha256(BODY).hexdigest())
    assert files.sent < len(BODY) * 1.01
    assert [asked.status for asked in files.asked if asked.sent] == [200, 500, 206, 206, 206]


def killed_part(files, fetcher, out):
    """What a killed download leaves: all retries broke off."""
    files.fault = lambda asked, number: "truncated" if number == 0 else "reset"
    with pytest.raises(DownloadError, match="failed after 5 tries"):
        fetcher.download(files.url("/a.bin"), out)
    files.fault = lambda asked, number: None
    assert not out.exists() and out.with_name("a.bin.part").stat().st_size == len(BODY) // 2
    files.asked.clear()


def test_a_part_left_behind_is_gone_on_with(files, fetcher, tmp_path):
    out = tmp_path / "a.bin"
    killed_part(files, fetcher, out)
    fetcher.download(files.url("/a.bin"), out)
    assert out.read_bytes() == BODY and files.sent == len(BODY) // 2


def test_a_file_that_changed_is_begun_anew(files, fetcher, tmp_path):
    out = tmp_path / "a.bin"
    killed_part(files, fetcher, out)
    files.files["/a.bin"], files.etags["/a.bin"] = BODY[::-1], '"new"'
    fetcher.download(files.url("/a.bin"), out)
    assert out.read_bytes() == BODY[::-1] and files.sent == len(BODY)


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_strong_validator_nothing_is_pieced_together(files, fetcher, tmp_path, etag):
    files.etags["/a.bin"] = etag
    files.fault = lambda asked, number: "truncated" if number == 0 else None
    fetcher.download(files.url("/a.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == BODY and files.sent == len(BODY) * 1.5


def test_another_url_does_not_go_on_with_the_part(files, fetcher, tmp_path):
    out = tmp_path / "a.bin"
    killed_part(files, fetcher, out)
    files.files["/other.bin"], files.etags["/other.bin"] = BODY[::-1], files.etags.get("/a.bin", f'"{len(BODY)}"')
    fetcher.download(files.url("/other.bin"), out)
    assert out.read_bytes() == BODY[::-1]


def test_a_part_that_is_whole_is_published(files, fetcher, tmp_path):
    out = tmp_path / "a.bin"
    killed_part(files, fetcher, out)
    out.with_name("a.bin.part").write_bytes(BODY)
    fetcher.download(files.url("/a.bin"), out)
    assert out.read_bytes() == BODY and [asked.status for asked in files.asked] == [416]


def test_a_server_without_ranges_is_begun_anew(files, fetcher, tmp_path):
    files.ranges = False
    files.fault = lambda asked, number: "truncated" if number == 0 else None
    fetcher.download(files.url("/a.bin"), tmp_path / "a.bin", sha256=hashlib.sha256(BODY).hexdigest())
    assert (tmp_path / "a.bin").read_bytes() == BODY and len(files.asked) == 2


@pytest.fixture
def full_disk():
    """No file of this process may grow beyond 100 kB while the test runs."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line(files, fetcher, tmp_path, full_disk):
    with pytest.raises(DownloadError, match=r"a\.bin\.part: cannot be written \(File too large\); what is there"):
        fetcher.download(files.url("/a.bin"), tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists() and (tmp_path / "a.bin.part").stat().st_size == 100_000


CHILD = """
import sys
from pathlib import Path
from pipeline.acquire.fetch import Fetcher
from pipeline.acquire.http import Policy
from pipeline.command import Log
with Fetcher("child", Policy(use_proxy=False), Log()) as fetcher:
    fetcher.download(sys.argv[1], Path(sys.argv[2]))
"""


def test_a_kill_loses_nothing_that_arrived(files, fetcher, tmp_path):
    out, part = tmp_path / "a.bin", tmp_path / "a.bin.part"
    stop = threading.Event()
    files.fault = lambda asked, number: "truncated" if number == 0 else stop.wait(20) and None
    child = subprocess.Popen([sys.executable, "-c", CHILD, files.url("/a.bin"), str(out)])
    while not (part.exists() and part.stat().st_size == len(BODY) // 2):
        time.sleep(0.02)
        assert child.poll() is None
    child.kill()
    child.wait()
    stop.set()
    fetcher.download(files.url("/a.bin"), out)
    assert out.read_bytes() == BODY and files.asked[-1].sent == len(BODY) - len(BODY) // 2


def test_two_downloads_of_one_file_take_turns(files, log, tmp_path):
    out = tmp_path / "a.bin"
    files.respond = lambda asked: time.sleep(0.3) or None
    with Fetcher("the source", QUICK, log) as fetcher:
        fetcher.download(files.url("/a.bin"), out)
        child = subprocess.Popen([sys.executable, "-c", CHILD, files.url("/a.bin"), str(out)])
        while not (tmp_path / "a.bin.part").exists():
            time.sleep(0.01)
        fetcher.download(files.url("/a.bin"), out)
        assert child.wait(10) == 0
    assert out.read_bytes() == BODY and names(tmp_path) == ["a.bin"]
    assert log.lines == [f"waiting for another download of {out}"]
