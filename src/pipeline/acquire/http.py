"""The polite HTTP client: bounded rate and concurrency, retries with backoff, and no secret in any line it writes."""

from __future__ import annotations

import asyncio
import email.utils
import importlib.metadata
import logging
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx

from pipeline.acquire.cache import Answer, Entry, Tile, TileCache
from pipeline.acquire.hosts import Gate
from pipeline.acquire.images import BadTile
from pipeline.acquire.keys import TileUrl
from pipeline.command import Log
from pipeline.errors import DownloadError

__all__ = [
    "MISSING",
    "RETRIED",
    "BadTile",
    "Errand",
    "Fetched",
    "Policy",
    "Refused",
    "TileUrl",
    "fetch_all",
    "retry_after_s",
]

MISSING = frozenset({204, 404, 410})  # the server has no such tile: remembered, never asked again
RETRIED = frozenset({408, 425, 429})  # and every 5xx
MAX_TILE_BYTES = 16 << 20
WORDS = 200  # characters of a server's own words in an error

Check = Callable[[Tile, Answer, Mapping[str, str]], Answer]


class Refused(DownloadError):
    """An error message under status 200 in place of a tile; `words` are the server's own."""

    def __init__(self, text: str, words: str) -> None:
        super().__init__(text)
        self.words = words


@dataclass(frozen=True)
class Policy:
    """How hard to ask.

    Attributes:
        connections, rate_per_s: requests at once and per second to one host.
        retries: tries again per tile.
        timeout_s, backoff_s, max_wait_s: seconds for one try, for the first and the longest wait.
        use_proxy: whether HTTP_PROXY and its kin count.
        http2: speak HTTP/2 where the server does.
        max_age_s: ask again for what is older; None for never.
    """

    connections: int = 8
    rate_per_s: float | None = None
    retries: int = 5
    timeout_s: float = 30.0
    backoff_s: float = 0.5
    max_wait_s: float = 120.0
    use_proxy: bool = True
    http2: bool = False
    max_age_s: float | None = None


@dataclass
class Fetched:
    """What `fetch_all` did.

    Attributes:
        requested, cached: tiles wanted, and those of them that needed no request.
        fetched: tiles that the server sent, or said it does not have.
        renewed: old tiles that the server said are unchanged.
        kept: old tiles that could not be asked for again, by reason.
        received_bytes, seconds: of this call.
        retries: tries again, by reason.
    """

    requested: int
    cached: int
    fetched: int = 0
    renewed: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    received_bytes: int = 0
    seconds: float = 0.0
    retries: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Errand:
    """What `fetch_all` asks, and how.

    Attributes:
        label: what the log calls this download.
        url, policy: whom to ask, and how hard.
        check: (tile, answer of status 200, headers) → the answer to store; raises BadTile for a body to be asked for
            again, Refused for an error message, DownloadError for a body that no retry mends.
        refusal: (body, content type) → the server's own words in an error message, or None.
        note: file that keeps the host's Retry-After for the next download from it.
    """

    label: str
    url: TileUrl
    policy: Policy
    check: Check
    refusal: Callable[[bytes, str], str | None] = lambda body, content_type: None
    note: Path | None = None

    def words(self, body: bytes, content_type: str) -> str:
        """The server's own words as the end of a sentence; "" for none."""
        found = self.refusal(body, content_type)
        return f": {self.url.redact(found)[:WORDS]}" if found else ""


def fetch_all(errand: Errand, tiles: Sequence[Tile], cache: TileCache, log: Log) -> Fetched:
    """Bring every tile into `cache` that is not there yet, and ask again for those older than `max_age_s`.

    Connection errors, timeouts, 408, 425, 429, 5xx, cut-off bodies, bodies that `check` finds bad and error messages of
    a server that has sent something before are tried again after a random part of ``backoff_s · 2^attempt`` seconds, or
    after the server's Retry-After, which holds back all connections. 404, 410 and 204 mean that the tile is missing.
    What is in the cache stays unless the server sends another version: an old tile that cannot be had again is kept and
    counted. `cache` keeps what was fetched also when this function fails; `log` takes a line per 10 s.

    Raises:
        DownloadError: any other 4xx at once; tiles that still fail after all retries, with their count and an example.
    """
    known = cache.entries()
    old = _old(known, tiles, errand.policy.max_age_s)
    absent = [tile for tile in tiles if tile not in known]
    todo = [*absent, *old]
    job = _Download(errand, cache, log, old, Fetched(len(tiles), len(tiles) - len(todo)))
    if todo:
        for name in ("httpx", "httpcore", "hpack"):  # they log whole addresses, keys included
            logging.getLogger(name).setLevel(logging.WARNING)
        start = time.monotonic()
        try:
            asyncio.run(job.run(todo))
        except ExceptionGroup as group:
            errors = group.subgroup(DownloadError)
            if errors is None:
                raise
            raise errors.exceptions[0] from None
        job.done.seconds = time.monotonic() - start
    return job.done


def _old(known: Mapping[Tile, Entry], tiles: Sequence[Tile], max_age_s: float | None) -> dict[Tile, Entry]:
    if max_age_s is None:
        return {}
    limit = datetime.fromtimestamp(time.time() - max_age_s, UTC).isoformat(timespec="seconds")
    return {tile: known[tile] for tile in tiles if tile in known and known[tile].fetched <= limit}


class _Retry(Exception):
    """One try that failed; `wait_s` is the server's own wish."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait_s = wait_s


class _Download:
    """The state of one `fetch_all`: workers take tiles from one iterator."""

    def __init__(self, errand: Errand, cache: TileCache, log: Log, old: dict[Tile, Entry], done: Fetched) -> None:
        self.errand, self.url, self.policy = errand, errand.url, errand.policy
        self.cache, self.log, self.old, self.done = cache, log, old, done
        self.gate = Gate(self.policy.rate_per_s, self.policy.connections, errand.note)
        self.failed: dict[Tile, str] = {}
        self.failures_in_a_row = 0

    async def run(self, todo: list[Tile]) -> None:
        self.start, self.todo_count = time.monotonic(), len(todo)
        queue = iter(todo)
        workers = min(self.policy.connections, len(todo))
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            for client in await self._clients(stack, workers):
                group.create_task(self._worker(client, queue))
        left = list(queue)  # of a server that answers no more
        lost = [tile for tile in [*self.failed, *left] if tile not in self.old]
        if lost:
            raise DownloadError(self._failure() + ("; gave up, since nothing was answered any more" if left else ""))
        self.done.kept.update(self.failed.values())
        self.done.kept.update("not asked for any more" for _ in left)

    async def _clients(self, stack: AsyncExitStack, workers: int) -> list[httpx.AsyncClient]:
        """One client per worker: a pool's cost per request would grow with its connections. HTTP/2 shares one."""
        tls = httpx.create_ssl_context(trust_env=self.policy.use_proxy)
        version = importlib.metadata.version("pipeline")
        agent = {"User-Agent": f"pipeline/{version} (aerial imagery for research)", "Accept": "image/*"}
        clients = [
            httpx.AsyncClient(
                limits=httpx.Limits(max_connections=workers if self.policy.http2 else 1),
                verify=tls,
                timeout=self.policy.timeout_s,
                follow_redirects=True,
                max_redirects=5,
                trust_env=self.policy.use_proxy,
                http2=self.policy.http2,
                headers={**agent, **self.url.headers},
                event_hooks={"request": [self._only_to_its_host]},
            )
            for _ in range(1 if self.policy.http2 else workers)
        ]
        for client in clients:
            await stack.enter_async_context(client)
        return clients * workers if self.policy.http2 else clients

    async def _only_to_its_host(self, request: httpx.Request) -> None:
        """Take our headers off a request that a redirect sends to another host, or off TLS: they may hold a key."""
        scheme, netloc = request.extensions["asked"]
        if netloc != request.url.netloc or (scheme, request.url.scheme) == ("https", "http"):
            for name in self.url.headers:
                request.headers.pop(name, None)

    async def _worker(self, client: httpx.AsyncClient, queue: Iterator[Tile]) -> None:
        while self.failures_in_a_row < 2 * self.policy.connections:
            tile = next(queue, None)
            if tile is None:
                return
            reason = await self._fetch(client, tile)
            if reason is None:
                self.failures_in_a_row = 0
                self._progress()
            else:
                self.failed[tile] = reason
                self.failures_in_a_row += 1

    async def _fetch(self, client: httpx.AsyncClient, tile: Tile) -> str | None:
        """Fetch one tile with retries; the last reason when it failed."""
        attempt = 0
        while True:
            await self.gate.wait()
            try:
                await self._try(client, tile)
                return None
            except DownloadError as error:
                if tile not in self.old:
                    raise
                return str(error)
            except _Retry as retry:
                if retry.wait_s is not None:
                    self.gate.hold_back(min(retry.wait_s, self.policy.max_wait_s))
                if attempt == self.policy.retries:
                    return retry.reason
                self.done.retries[retry.reason] += 1
                most_s = min(self.policy.backoff_s * 2**attempt, self.policy.max_wait_s)
                await asyncio.sleep(random.uniform(0, most_s))
                attempt += 1

    async def _try(self, client: httpx.AsyncClient, tile: Tile) -> None:
        response, body = await self._ask(client, tile)
        status, headers = response.status_code, response.headers
        content_type = self.url.redact(headers.get("content-type", ""))
        if status in RETRIED or status >= 500:
            words = self.errand.words(body, content_type)
            raise _Retry(f"HTTP {status}{words}", retry_after_s(headers.get("retry-after")))
        if status == 304 and tile in self.old:
            self.cache.renew(tile)
            self.done.renewed += 1
            return
        if status != 200 and (status not in MISSING or self._had_imagery(tile)):
            raise DownloadError(self._refused(tile, status, self.errand.words(body, content_type)))
        etag, modified = (self.url.redact(headers.get(name, "")) for name in ("etag", "last-modified"))
        answer = Answer(status, body if status == 200 else b"", content_type, etag, modified)
        if status == 200:
            answer = await self._checked(tile, answer, headers)
            self.done.received_bytes += len(body)
        self.cache.put(tile, answer)
        self.done.fetched += 1

    async def _checked(self, tile: Tile, answer: Answer, headers: Mapping[str, str]) -> Answer:
        try:
            checked = await asyncio.to_thread(self.errand.check, tile, answer, headers)
        except BadTile as error:
            raise _Retry(f"{error} ({answer.content_type[:40] or 'no content type'})") from None
        except Refused as refused:
            if not self.done.fetched:  # what the server refuses from the start, it goes on refusing
                raise
            raise _Retry(refused.words) from None
        if checked.reason and self._had_imagery(tile):
            raise DownloadError(checked.reason)
        return checked

    async def _ask(self, client: httpx.AsyncClient, tile: Tile) -> tuple[httpx.Response, bytes]:
        headers = {}
        if old := self.old.get(tile):
            validators = {"If-None-Match": old.etag, "If-Modified-Since": old.modified}
            headers = {name: self.url.expand(value) for name, value in validators.items() if value}
        try:
            async with asyncio.timeout(self.policy.timeout_s):
                return await _get(client, self.url.of(tile), headers)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.TooManyRedirects) as error:
            kind = type(error).__name__
            raise DownloadError(
                f"{self.errand.label}: the url {self.url.public} cannot be asked for ({kind})"
            ) from None
        except (TimeoutError, httpx.TimeoutException):
            raise _Retry("timeout") from None
        except httpx.RemoteProtocolError:
            raise _Retry("answer cut off") from None
        except httpx.HTTPError as error:
            text = self.url.redact(str(error))[:80]
            raise _Retry(f"{type(error).__name__}{': ' if text else ''}{text}") from None

    def _had_imagery(self, tile: Tile) -> bool:
        """Whether the cache has the tile with imagery: nothing but another image takes its place."""
        old = self.old.get(tile)
        return old is not None and old.status == 200 and not old.reason

    def _refused(self, tile: Tile, status: int, words: str) -> str:
        if self._had_imagery(tile):
            return f"HTTP {status}"
        hint = "check the url"
        if status in (401, 403):
            hint = "check the key in the url, and whether the source's terms allow these tiles"
        where = "/".join(map(str, tile))
        label = self.errand.label
        return f"{label}: the server answered HTTP {status} for tile {where} of {self.url.public}{words}; {hint}"

    def _failure(self) -> str:
        tile, reason = next(iter(self.failed.items()))
        reasons = ", ".join(f"{count} × {text}" for text, count in Counter(self.failed.values()).most_common(5))
        return (
            f"{self.errand.label}: {len(self.failed)} of {self.todo_count} tiles failed after "
            f"{self.policy.retries + 1} tries each ({reasons}), e.g. tile {'/'.join(map(str, tile))} of "
            f"{self.url.public}: {reason}; run again to ask only for what is not yet in {self.cache.path}"
        )

    def _progress(self) -> None:
        done = self.done.fetched + self.done.renewed
        rate = done / max(time.monotonic() - self.start, 1e-6)
        left_s = (self.todo_count - done) / max(rate, 1e-6)
        self.log.progress(
            f"{self.errand.label}: {done} of {self.todo_count} tiles, {rate:.0f} tiles/s, {left_s:.0f} s left"
        )


async def _get(client: httpx.AsyncClient, address: str, headers: dict[str, str]) -> tuple[httpx.Response, bytes]:
    """One answer with its body; a body above `MAX_TILE_BYTES` is not read to its end."""
    request = client.build_request("GET", address, headers=headers)
    request.extensions["asked"] = (request.url.scheme, request.url.netloc)
    response = await client.send(request, stream=True)
    try:
        body = bytearray()
        async for part in response.aiter_bytes():
            body += part
            if len(body) > MAX_TILE_BYTES:
                raise _Retry(f"more than {MAX_TILE_BYTES >> 20} MiB")
        return response, bytes(body)
    finally:
        await response.aclose()


def retry_after_s(value: str | None) -> float | None:
    """Seconds to wait by a Retry-After header: a number of seconds or an HTTP date; None when absent or unreadable."""
    if value is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}\s*", value):
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
