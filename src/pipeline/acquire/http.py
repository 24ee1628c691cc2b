"""The polite HTTP client: bounded concurrency, retries with backoff, and no secret in any line it writes."""

from __future__ import annotations

import asyncio
import email.utils
import importlib.metadata
import logging
import os
import random
import re
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx

from pipeline.acquire.cache import Tile, TileCache
from pipeline.command import Log
from pipeline.errors import DownloadError

MISSING = frozenset({204, 404, 410})  # the server has no such tile: remembered, never asked again
RETRIED = frozenset({408, 425, 429})  # and every 5xx
MAX_TILE_BYTES = 16 << 20
SECRET = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
SECRET_PARAMETER = re.compile(r"([?&][^=&]*(?:key|token|secret|sig|pass|auth)[^=&]*=)(?!\$\{)[^&]+", re.IGNORECASE)

Check = Callable[[Tile, bytes], None]


class BadTile(Exception):
    """A body that is no tile (truncated, a web page): worth another try."""


@dataclass(frozen=True)
class Policy:
    """How hard to ask.

    Connections at once, retries per request, seconds for one try, for the first and longest wait between tries, and
    requests per second at most (None: as fast as the server answers).
    """

    connections: int = 8
    retries: int = 5
    timeout_s: float = 30.0
    backoff_s: float = 0.5
    max_wait_s: float = 120.0
    use_proxy: bool = True
    rate_per_s: float | None = None


@dataclass
class Fetched:
    """What `fetch_all` did: counts of tiles, bytes received, seconds, and retries by reason."""

    requested: int
    cached: int
    fetched: int = 0
    missing: int = 0
    received_bytes: int = 0
    seconds: float = 0.0
    retries: Counter[str] = field(default_factory=Counter)


class TileUrl:
    """A URL template with {z}, {x}, {y}, {host}, and ``${NAME}`` from the environment.

    Attributes:
        public: the template as it may be shown and stored: ``${NAME}`` unexpanded, passwords and keys starred out.
    """

    def __init__(self, template: str, host: str = "") -> None:
        """Expand `template`; DownloadError names an unset variable or an unknown placeholder."""
        starred = re.sub(r"(?<=://)[^/@]+@", "***@", template)
        self.public = SECRET_PARAMETER.sub(r"\1***", starred)
        bare = SECRET.sub("", template)
        unknown = sorted(set(re.findall(r"\{[^{}]*\}", bare)) - {"{z}", "{x}", "{y}", "{host}"})
        if unknown:
            raise DownloadError(
                f"unknown placeholder {unknown[0]} in the url {self.public}; there are {{z}}, {{x}}, {{y}}"
            )
        self._secrets: dict[str, str] = {}
        for name in SECRET.findall(template):
            value = os.environ.get(name, "")
            if not value:
                raise DownloadError(f"the environment variable {name} that the url {self.public} needs is not set")
            self._secrets[name] = value
        self._template = template.replace("{host}", host)

    def of(self, tile: Tile) -> str:
        """The address of one tile, secrets expanded: for the request alone."""
        z, x, y = tile
        text = self._template.replace("{z}", str(z)).replace("{x}", str(x)).replace("{y}", str(y))
        return SECRET.sub(lambda match: self._secrets[match[1]], text)

    def redact(self, text: str) -> str:
        """`text` with every expanded secret turned back into its ``${NAME}``."""
        for name, value in self._secrets.items():
            text = text.replace(value, f"${{{name}}}")
        return text


def fetch_all(
    label: str, tiles: Sequence[Tile], url: TileUrl, cache: TileCache, check: Check, policy: Policy, log: Log
) -> Fetched:
    """Bring every tile into `cache` that is not there yet.

    Connection errors, timeouts, 408, 425, 429, 5xx, cut-off bodies and bodies that `check` finds bad (BadTile) are
    tried again after ``backoff_s · 2^attempt`` seconds with jitter, or after the server's Retry-After, which holds
    back all connections. 404, 410 and 204 mean that the tile is missing.

    Args:
        label: what the log calls this download.
        tiles: what is wanted.
        url, policy: whom to ask, and how hard.
        cache: open cache; it keeps what was fetched even when this function fails.
        check: raises BadTile for a body to be asked for again, DownloadError for one that no retry mends.
        log: one line per 10 s.

    Raises:
        DownloadError: any other 4xx at once; tiles that still fail after all retries, with their count and an example.
    """
    statuses = cache.statuses()
    todo = [tile for tile in tiles if tile not in statuses]
    job = _Download(label, url, cache, check, policy, log, Fetched(len(tiles), len(tiles) - len(todo)))
    if todo:
        for name in ("httpx", "httpcore"):  # they log whole addresses, keys included
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
    known = cache.statuses()
    job.done.missing = sum(known.get(tile, 200) in MISSING for tile in tiles)
    return job.done


class _Retry(Exception):
    """One try that failed; `wait_s` is the server's own wish."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait_s = wait_s


class _Download:
    """The state of one `fetch_all`: workers take tiles from one iterator."""

    def __init__(
        self, label: str, url: TileUrl, cache: TileCache, check: Check, policy: Policy, log: Log, done: Fetched
    ) -> None:
        self.label, self.url, self.cache, self.check = label, url, cache, check
        self.policy, self.log, self.done = policy, log, done
        self.failed: dict[Tile, str] = {}
        self.failures_in_a_row = 0
        self.resume_at = 0.0  # monotonic seconds until which the server wants to be left alone

    async def run(self, todo: list[Tile]) -> None:
        self.start, self.todo_count = time.monotonic(), len(todo)
        tls = httpx.create_ssl_context(trust_env=self.policy.use_proxy)
        queue = iter(todo)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.policy.connections, len(todo))):
                group.create_task(self._worker(tls, queue))
        if self.failed:
            raise DownloadError(self._failure())

    async def _worker(self, tls: ssl.SSLContext, queue: Iterator[Tile]) -> None:
        """Fetch tiles of the queue over one connection; a pool's cost per request would grow with its connections."""
        version = importlib.metadata.version("pipeline")
        async with httpx.AsyncClient(
            limits=httpx.Limits(max_connections=1),
            verify=tls,
            timeout=self.policy.timeout_s,
            follow_redirects=True,
            max_redirects=5,
            trust_env=self.policy.use_proxy,
            headers={"User-Agent": f"pipeline/{version} (aerial imagery for research)", "Accept": "image/*"},
        ) as client:
            for tile in queue:
                await self._take(client, tile)

    async def _take(self, client: httpx.AsyncClient, tile: Tile) -> None:
        reason = await self._fetch(client, tile)
        if reason is None:
            self.failures_in_a_row = 0
            self._progress()
            return
        self.failed[tile] = reason
        self.failures_in_a_row += 1
        if self.failures_in_a_row >= 2 * self.policy.connections:
            raise DownloadError(f"{self._failure()}; gave up, since nothing was answered any more")

    async def _fetch(self, client: httpx.AsyncClient, tile: Tile) -> str | None:
        """Fetch one tile with retries; the last reason when it failed."""
        attempt = 0
        while True:
            while (pause := self.resume_at - time.monotonic()) > 0:
                await asyncio.sleep(pause * random.uniform(1.0, 1.1))
            try:
                await self._try(client, tile)
                return None
            except _Retry as retry:
                if attempt == self.policy.retries:
                    return retry.reason
                self.done.retries[retry.reason] += 1
                backoff = self.policy.backoff_s * 2**attempt * random.uniform(0.5, 1.0)
                if retry.wait_s is not None:
                    self.resume_at = max(self.resume_at, time.monotonic() + min(retry.wait_s, self.policy.max_wait_s))
                await asyncio.sleep(min(backoff, self.policy.max_wait_s))
                attempt += 1

    async def _try(self, client: httpx.AsyncClient, tile: Tile) -> None:
        try:
            async with asyncio.timeout(self.policy.timeout_s):
                response, body = await _get(client, self.url.of(tile))
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.TooManyRedirects) as error:
            kind = type(error).__name__
            raise DownloadError(f"{self.label}: the url {self.url.public} cannot be asked for ({kind})") from None
        except (TimeoutError, httpx.TimeoutException):
            raise _Retry("timeout") from None
        except httpx.RemoteProtocolError:
            raise _Retry("answer cut off") from None
        except httpx.HTTPError as error:
            text = self.url.redact(str(error)).strip()[:80]
            raise _Retry(f"{type(error).__name__}{': ' if text else ''}{text}") from None
        status = response.status_code
        content_type = self.url.redact(response.headers.get("content-type", ""))
        if status in RETRIED or status >= 500:
            raise _Retry(f"HTTP {status}", retry_after_s(response.headers.get("retry-after")))
        if status == 200:
            try:
                await asyncio.to_thread(self.check, tile, body)
            except BadTile as error:
                raise _Retry(f"{error} ({content_type[:40] or 'no content type'})") from None
            self.done.received_bytes += len(body)
        elif status not in MISSING:
            raise DownloadError(self._refused(tile, status))
        self.done.fetched += 1
        etag = self.url.redact(response.headers.get("etag", ""))
        self.cache.put(tile, status, body if status == 200 else b"", content_type, etag)

    def _refused(self, tile: Tile, status: int) -> str:
        hint = "check the url"
        if status in (401, 403):
            hint = "check the key in the url, and whether the source's terms allow these tiles"
        where = "/".join(map(str, tile))
        return f"{self.label}: the server answered HTTP {status} for tile {where} of {self.url.public}; {hint}"

    def _failure(self) -> str:
        tile, reason = next(iter(self.failed.items()))
        reasons = ", ".join(f"{count} × {text}" for text, count in Counter(self.failed.values()).most_common(5))
        return (
            f"{self.label}: {len(self.failed)} of {self.todo_count} tiles failed after {self.policy.retries + 1} tries "
            f"each ({reasons}), e.g. tile {'/'.join(map(str, tile))} of {self.url.public}: {reason}; "
            f"run again to ask only for what is not yet in {self.cache.path}"
        )

    def _progress(self) -> None:
        rate = self.done.fetched / max(time.monotonic() - self.start, 1e-6)
        left_s = (self.todo_count - self.done.fetched) / max(rate, 1e-6)
        self.log.progress(
            f"{self.label}: {self.done.fetched} of {self.todo_count} tiles, {rate:.0f} tiles/s, {left_s:.0f} s left"
        )


async def _get(client: httpx.AsyncClient, address: str) -> tuple[httpx.Response, bytes]:
    """One answer with its body; a body above `MAX_TILE_BYTES` is not read to its end."""
    async with client.stream("GET", address) as response:
        body = bytearray()
        async for part in response.aiter_bytes():
            body += part
            if len(body) > MAX_TILE_BYTES:
                raise _Retry(f"more than {MAX_TILE_BYTES >> 20} MiB")
        return response, bytes(body)


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
