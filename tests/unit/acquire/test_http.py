"""The HTTP client against a real server on loopback: faults, limits, errors, secrets."""

from __future__ import annotations

import io
import logging
import socket
import sqlite3
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import quote, quote_plus

import httpx
import pytest
from PIL import Image

from pipeline.acquire import http
from pipeline.acquire.cache import TileCache
from pipeline.acquire.http import BadTile, Errand, Policy, TileUrl, fetch_all, retry_after_s
from pipeline.errors import DownloadError

FAST = Policy(connections=8, retries=5, timeout_s=1.0, backoff_s=0.02, use_proxy=False)
GRID = [(3, x, y) for y in range(8) for x in range(8)]


def check(tile, answer, headers):
    try:
        Image.open(io.BytesIO(answer.body)).load()
    except Exception:
        raise BadTile("no image") from None
    return answer


def fetch(server, folder, log, tiles, policy=FAST, url=None):
    url = TileUrl(url or server.url())
    with TileCache(folder / "t.sqlite", url.public, log) as cache:
        return fetch_all(Errand("oam, shard r00c00", url, policy, check), tiles, cache, log)


def test_nothing_is_lost_with_one_request_in_five_failing(server, tmp_path, log, tiles):
    server.fill(3, range(8), range(8), px=32)
    server.fault = tiles["one_in_five"]
    done = fetch(server, tmp_path, log, GRID)
    assert len(server.faults) == 10 and sum(server.faults.values()) >= 10, server.faults
    assert done.fetched == 64
    assert done.retries.total() == sum(server.faults.values()) == len(server.asked) - 64
    with TileCache(tmp_path / "t.sqlite", TileUrl(server.url()).public, log) as cache:
        assert {tile: cache.body(tile) for tile in GRID} == server.tiles


@pytest.mark.parametrize("fault", ["reset", "truncated", "truncated_close", "slow", "drip", "html", "empty", "503"])
def test_each_fault_is_tried_again(server, tmp_path, log, fault):
    server.fill(3, range(2), range(1))
    server.fault = lambda tile, attempt: fault if attempt == 0 else None
    done = fetch(server, tmp_path, log, [(3, 0, 0), (3, 1, 0)])
    reason = {"slow": "timeout", "drip": "timeout", "503": "HTTP 503", "truncated": "answer cut off"}.get(fault)
    assert done.fetched == 2 and done.retries.total() == 2
    assert reason is None or set(done.retries) == {reason}
    assert Counter(server.asked) == {(3, 0, 0): 2, (3, 1, 0): 2}


def test_missing_tiles_are_asked_for_once_and_remembered(server, tmp_path, log):
    server.fill(3, range(8), range(8), px=32)
    server.statuses = {(3, 1, 1): 404, (3, 2, 2): 410, (3, 3, 3): 204}
    assert fetch(server, tmp_path, log, GRID).fetched == 64
    again = fetch(server, tmp_path, log, GRID)
    assert (again.fetched, again.cached, len(server.asked)) == (0, 64, 64)
    with TileCache(tmp_path / "t.sqlite", "", log) as cache:
        known = cache.entries()
    assert {tile: known[tile].status for tile in GRID if known[tile].status != 200} == server.statuses


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path, log):
    server.fill(3, range(8), range(8), px=32)
    fetch(server, tmp_path, log, GRID[:40])
    done = fetch(server, tmp_path, log, GRID)
    assert (done.cached, done.fetched) == (40, 24)
    assert Counter(server.asked) == dict.fromkeys(GRID, 1)


@pytest.mark.parametrize(("status", "hint"), [(401, "key"), (403, "terms"), (400, "check the url")])
def test_a_refusal_is_one_error_at_once(server, tmp_path, log, status, hint):
    server.statuses = dict.fromkeys(GRID, status)
    server.delay_s = 0.02
    with pytest.raises(DownloadError, match=f"HTTP {status} for tile 3/.*{hint}"):
        fetch(server, tmp_path, log, GRID)
    assert len(server.asked) <= FAST.connections


def test_tiles_that_keep_failing_are_counted_and_the_rest_is_kept(server, tmp_path, log):
    server.fill(3, range(8), range(8), px=32)
    bad = {(3, 0, 0), (3, 5, 5), (3, 7, 7)}
    server.fault = lambda tile, attempt: "500" if tile in bad else None
    policy = Policy(connections=4, retries=2, backoff_s=0.01, use_proxy=False)
    with pytest.raises(
        DownloadError, match=r"3 of 64 tiles failed after 3 tries each \(3 × HTTP 500\), e\.g\. tile 3/"
    ):
        fetch(server, tmp_path, log, GRID, policy)
    assert {server.asked.count(tile) for tile in bad} == {3}
    server.fault = lambda tile, attempt: None
    assert fetch(server, tmp_path, log, GRID, policy).cached == 61


def test_a_dead_server_is_given_up_early(tmp_path, log):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/{{z}}/{{x}}/{{y}}"
    tiles = [(10, x, y) for x in range(40) for y in range(40)]
    policy = Policy(connections=4, retries=1, backoff_s=0.01, use_proxy=False)
    with pytest.raises(DownloadError, match=r"([4-9]|1\d) of 1600 tiles failed.*ConnectError.*gave up"):
        fetch(None, tmp_path, log, tiles, policy, url)


@pytest.mark.parametrize("connections", [1, 4])
def test_connections_are_bounded(server, tmp_path, log, connections):
    server.fill(3, range(8), range(8), px=32)
    server.delay_s = 0.02
    fetch(server, tmp_path, log, GRID, Policy(connections=connections, use_proxy=False))
    assert server.most_at_once == connections


def test_retry_after_holds_back_every_connection(server, tmp_path, log):
    server.fill(3, range(8), range(8), px=32)
    server.delay_s = 0.01
    server.misbehave = lambda handler, fault, body: server.send(handler, 429, b"", {"Retry-After": "1"})
    server.fault = lambda tile, attempt: "429" if len(server.asked) > 20 and not server.faults else None
    fetch(server, tmp_path, log, GRID)
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert sum(server.faults.values()) == 1 and 0.9 < max(gaps) < 5
    assert len(server.asked) == 65


def test_a_long_retry_after_is_capped(server, tmp_path, log):
    server.fill(3, range(1), range(1))
    server.misbehave = lambda handler, fault, body: server.send(handler, 503, b"", {"Retry-After": "86400"})
    server.fault = lambda tile, attempt: "503" if attempt == 0 else None
    start = time.monotonic()
    fetch(server, tmp_path, log, [(3, 0, 0)], Policy(backoff_s=0.01, max_wait_s=0.3, use_proxy=False))
    assert 0.3 <= time.monotonic() - start < 3


def test_retry_after_in_seconds_and_as_a_date():
    later = datetime.now(UTC) + timedelta(seconds=30)
    assert retry_after_s("7") == 7
    assert 28 < retry_after_s(format_datetime(later, usegmt=True)) <= 30
    assert retry_after_s(format_datetime(later - timedelta(hours=1), usegmt=True)) == 0
    assert retry_after_s("soon") is None and retry_after_s(None) is None


def test_an_endless_body_is_not_read(server, tmp_path, log, monkeypatch):
    monkeypatch.setattr(http, "MAX_TILE_BYTES", 1 << 20)
    server.tiles = {(3, 0, 0): bytes(5 << 20)}
    with pytest.raises(DownloadError, match="more than 1 MiB"):
        fetch(server, tmp_path, log, [(3, 0, 0)], Policy(retries=0, use_proxy=False))


def test_the_key_reaches_the_server_and_nothing_else(
    server, tmp_path, log, tiles, everything_below, monkeypatch, caplog
):
    key = "s3cr3t-Ke7-value"
    monkeypatch.setenv("TILE_KEY", key)
    caplog.set_level(logging.DEBUG)
    url = server.url(".png?key=${TILE_KEY}")
    server.fill(3, range(8), range(8), px=32)
    server.fault = tiles["one_in_five"]
    log.every_s = 0.0
    fetch(server, tmp_path, log, GRID, url=url)
    server.statuses = {(3, 9, 9): 403}
    server.tiles[3, 9, 9] = b""
    with pytest.raises(DownloadError) as refused:
        fetch(server, tmp_path, log, [(3, 9, 9)], url=url)
    server.fault = lambda tile, attempt: "500"
    with pytest.raises(DownloadError) as failed:
        fetch(server, tmp_path, log, [(3, 8, 8)], Policy(retries=1, backoff_s=0.01, use_proxy=False), url)
    assert all(path.endswith(f"?key={key}") for path in server.paths)
    written = [*log.lines, caplog.text, str(refused.value), str(failed.value), repr(failed.value.__context__)]
    assert len(log.lines) > 3 and not any(key in text for text in written)
    stored = everything_below(tmp_path)
    assert b"${TILE_KEY}" in stored and key.encode() not in stored


def test_a_key_written_out_in_the_url_is_starred():
    url = TileUrl("https://me:pass@host/{z}/{x}/{y}.png?style=a&access_token=abc&v=1")
    assert url.public == "https://***@host/{z}/{x}/{y}.png?style=a&access_token=***&v=1"
    assert url.of((1, 2, 3)) == "https://me:pass@host/1/2/3.png?style=a&access_token=abc&v=1"


def test_an_unset_variable_is_named(monkeypatch):
    monkeypatch.delenv("TILE_KEY", raising=False)
    with pytest.raises(DownloadError, match=r"environment variable TILE_KEY .* is not set"):
        TileUrl("https://host/{z}/{x}/{y}?k=${TILE_KEY}")


def test_an_unknown_placeholder_is_named():
    with pytest.raises(DownloadError, match=r"unknown placeholder \{s\}"):
        TileUrl("https://{s}.host/{z}/{x}/{y}")


HOUR = 3600.0


def age(folder, days, tiles=None):
    """Make the cache's tiles (all, or those given) that many days older."""
    then = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
    with sqlite3.connect(folder / "t.sqlite") as db:
        for tile in tiles or GRID:
            db.execute("UPDATE tiles SET fetched = ? WHERE z = ? AND x = ? AND y = ?", (then, *tile))
    db.close()


def stored(folder, log):
    with TileCache(folder / "t.sqlite", "", log) as cache:
        return {tile: (entry.fetched[:10], cache.body(tile)) for tile, entry in cache.entries().items()}


AGING = replace(FAST, max_age_s=24 * HOUR, retries=1)


def test_old_tiles_are_asked_for_by_their_etag(server, tmp_path, log):
    server.fill(3, range(8), range(8), px=32)
    fetch(server, tmp_path, log, GRID)
    before, today = stored(tmp_path, log), datetime.now(UTC).date().isoformat()
    age(tmp_path, 2, GRID[:20])
    server.tiles[GRID[3]] = server.tiles[GRID[4]]
    server.asked.clear()
    server.seen.clear()
    done = fetch(server, tmp_path, log, GRID, AGING)
    assert (done.renewed, done.fetched, done.cached, done.kept.total()) == (19, 1, 44, 0)
    assert set(server.asked) == set(GRID[:20]) and all("if-none-match" in headers for headers in server.seen)
    after = stored(tmp_path, log)
    assert after == {**before, GRID[3]: (today, before[GRID[4]][1])} and {day for day, _ in after.values()} == {today}
    assert fetch(server, tmp_path, log, GRID, AGING).cached == 64


def test_old_tiles_without_etag_are_asked_for_by_their_date(server, tmp_path, log):
    server.fill(3, range(1), range(1))
    day = "Mon, 01 Jan 2024 00:00:00 GMT"
    server.headers[3, 0, 0] = {"ETag": "", "Last-Modified": day}
    fetch(server, tmp_path, log, GRID[:1])
    age(tmp_path, 2)
    fetch(server, tmp_path, log, GRID[:1], AGING)
    assert "if-none-match" not in server.seen[1] and server.seen[1]["if-modified-since"] == day


@pytest.mark.parametrize(
    ("trouble", "said"), [(404, "HTTP 404"), (403, "HTTP 403"), (500, "HTTP 500"), ("html", "no image")]
)
def test_what_cannot_be_had_again_is_kept(server, tmp_path, log, trouble, said):
    server.fill(3, range(8), range(8), px=32)
    fetch(server, tmp_path, log, GRID)
    age(tmp_path, 2)
    before, bad = stored(tmp_path, log), {GRID[5], GRID[50]}
    if isinstance(trouble, int):
        server.statuses = dict.fromkeys(bad, trouble)
    else:
        server.fault = lambda tile, attempt: trouble if tile in bad else None
    done = fetch(server, tmp_path, log, GRID, AGING)
    assert (done.renewed, done.kept.total()) == (62, 2) and all(said in reason for reason in done.kept)
    after = stored(tmp_path, log)
    assert {tile for tile in GRID if after[tile] == before[tile]} == bad
    assert {tile: body for tile, (_, body) in after.items()} == {tile: body for tile, (_, body) in before.items()}


def test_a_dead_server_leaves_old_tiles_as_they_are(server, tmp_path, log):
    server.fill(3, range(8), range(8), px=32)
    url = server.url()
    fetch(server, tmp_path, log, GRID)
    age(tmp_path, 2)
    before = stored(tmp_path, log)
    server.fault = lambda tile, attempt: "reset"
    done = fetch(server, tmp_path, log, GRID, replace(AGING, connections=4, retries=0, backoff_s=0.01), url)
    assert done.renewed == 0 and done.kept.total() == 64 and done.kept["not asked for any more"] >= 50
    assert stored(tmp_path, log) == before
    with pytest.raises(DownloadError, match="gave up"):
        fetch(server, tmp_path, log, [*GRID, *((3, 9, y) for y in range(20))], replace(AGING, retries=0), url)


def test_missing_tiles_that_are_old_are_asked_for_again(server, tmp_path, log):
    fetch(server, tmp_path, log, GRID[:2])
    age(tmp_path, 2, GRID[:2])
    server.fill(3, range(1), range(1), px=32)
    assert fetch(server, tmp_path, log, GRID[:2], AGING).fetched == 2
    with TileCache(tmp_path / "t.sqlite", "", log) as cache:
        known = cache.entries()
    assert [known[tile].status for tile in GRID[:2]] == [200, 404]
    assert {known[tile].fetched[:10] for tile in GRID[:2]} == {datetime.now(UTC).date().isoformat()}


def test_waits_between_tries_are_a_random_part_of_a_doubling_time(server, tmp_path, log, monkeypatch):
    server.fill(3, range(1), range(1))
    server.fault = lambda tile, attempt: "500" if attempt < 4 else None
    asked = []
    monkeypatch.setattr(http.random, "uniform", lambda low, high: asked.append((low, high)) or 0.0)
    done = fetch(server, tmp_path, log, GRID[:1], replace(FAST, backoff_s=8.0, max_wait_s=30.0, timeout_s=30.0))
    assert server.faults["500"] == 4 and done.retries.total() >= 4  # a busy machine may lose a connection besides
    assert asked == [(0, 8.0), (0, 16.0), *[(0, 30.0)] * (done.retries.total() - 2)]


def test_the_rate_is_kept(server, tmp_path, log):
    server.fill(3, range(8), range(8), px=32)
    server.fault = lambda tile, attempt: "500" if attempt == 0 and tile[1] == 0 else None
    fetch(server, tmp_path, log, GRID[:24], replace(FAST, rate_per_s=40.0, connections=4))
    times = sorted(server.times)
    assert len(times) == 27 and times[-1] - times[0] >= (27 - 4) / 40 - 0.1


REFUSAL = b"<ServiceExceptionReport>Layer dop20 needs\n a token; s3cr3t is none</ServiceExceptionReport>"


@pytest.mark.parametrize("status", [400, 500])
def test_a_refusal_is_told_in_the_servers_words(server, tmp_path, log, monkeypatch, status):
    monkeypatch.setenv("TILE_KEY", "s3cr3t")
    server.misbehave = lambda handler, fault, body: server.send(handler, status, REFUSAL, {})
    server.fault = lambda tile, attempt: "refused"
    url = TileUrl(server.url("?k=${TILE_KEY}"))
    errand = Errand("wms", url, replace(FAST, retries=0), check, lambda body, kind: body.decode()[24:-25])
    with TileCache(tmp_path / "t.sqlite", url.public, log) as cache, pytest.raises(DownloadError) as caught:
        fetch_all(errand, GRID[:1], cache, log)
    assert f"HTTP {status}" in str(caught.value) and "s3cr3t" not in str(caught.value)
    assert ": Layer dop20 needs a token; ${TILE_KEY} is none" in str(caught.value)


def test_headers_are_sent_with_their_keys_but_to_no_other_server(server, tmp_path, log, monkeypatch):
    monkeypatch.setenv("TILE_KEY", "s3cr3t")
    server.fill(3, range(2), range(1))
    with type(server)().running() as other:
        other.tiles = dict(server.tiles)
        server.statuses[3, 1, 0] = 302
        server.headers[3, 1, 0] = {"Location": f"http://127.0.0.1:{other.port}/3/1/0.png"}
        url = TileUrl(server.url(), headers={"X-Api-Key": "id ${TILE_KEY}", "Referer": "https://us"})
        with TileCache(tmp_path / "t.sqlite", url.public, log) as cache:
            fetch_all(Errand("oam", url, FAST, check), [(3, 0, 0), (3, 1, 0)], cache, log)
    assert [headers["x-api-key"] for headers in server.seen] == ["id s3cr3t"] * 2
    assert [other.asked, "x-api-key" in other.seen[0], "referer" in other.seen[0]] == [[(3, 1, 0)], False, False]


def test_headers_do_not_leave_tls(tmp_path, log, monkeypatch):
    seen = []

    async def answer(self, request):
        seen.append((request.url.scheme, request.headers.get("x-api-key")))
        where = {"https": "http://maps.example/plain", "http": "https://maps.example/safe"}[request.url.scheme]
        if request.url.path in ("/plain", "/safe"):
            return httpx.Response(200, content=b"tile", request=request)
        return httpx.Response(302, headers={"Location": where}, request=request)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", answer)
    for scheme in ("https", "http"):
        url = TileUrl(f"{scheme}://maps.example/{{z}}/{{x}}/{{y}}", headers={"X-Api-Key": "typed"})
        errand = Errand("it", url, FAST, lambda tile, answer, headers: answer)
        with TileCache(tmp_path / f"{scheme}.sqlite", url.public, log) as cache:
            fetch_all(errand, [(3, 0, 0)], cache, log)
    assert seen == [("https", "typed"), ("http", None), ("http", "typed"), ("https", "typed")]


def test_an_unset_variable_of_a_header_is_named(monkeypatch):
    monkeypatch.delenv("TILE_KEY", raising=False)
    with pytest.raises(DownloadError, match=r"environment variable TILE_KEY .* is not set"):
        TileUrl("https://host/{z}/{x}/{y}", headers={"X-Key": "${TILE_KEY}"})


def test_a_key_is_hidden_as_the_address_spells_it(monkeypatch):
    monkeypatch.setenv("TILE_KEY", "a+b/c d=é")
    url = TileUrl("https://host/{z}/{x}/{y}?k=${TILE_KEY}")
    said = f"no host for {url.of((1, 2, 3))} or {quote('a+b/c d=é')} or {quote_plus('a+b/c d=é')}"
    shown = url.redact(said)
    assert "a+b" not in shown and "%2B" not in shown and shown.count("${TILE_KEY}") == 3
