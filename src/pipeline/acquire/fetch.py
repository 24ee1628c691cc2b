"""Single requests, asked as politely as tiles are: JSON, ranges of files, and whole files onto the disk."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx

from pipeline.acquire.answer import Again, Answer, Check, Downloaded, NotThere, Unreached, origin
from pipeline.acquire.hosts import turn
from pipeline.acquire.http import RETRIED, Policy, retry_after_s
from pipeline.acquire.keys import Keys, public
from pipeline.acquire.partial import Checksum, PartFile
from pipeline.acquire.transfer import Transfer
from pipeline.command import Log
from pipeline.errors import DownloadError

MAX_BODY_BYTES = 256 << 20  # of an answer that is kept in memory
MAX_REDIRECTS = 5
UNREACHED_RETRIES = 3  # at most, of a server that never answered anything
NOT_ASKABLE = (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError)


class Fetcher:
    """Asks one source, with retries; a context manager that any number of threads may share.

    Timeouts, connections that break, cut-off bodies, 408, 425, 429 and 5xx are tried again after
    ``backoff_s · 2^attempt`` seconds with jitter, or after the server's Retry-After, which holds back every request. A
    server that cannot be connected to and never answered is given up after `UNREACHED_RETRIES`.
    A url and the values of `headers` may hold ``${NAME}``, taken from the environment for the request alone: no line,
    error or returned value shows it. Never pass on a url that a server gave if it holds ``${``.

    Attributes:
        received_bytes: bytes of all bodies so far.
    """

    def __init__(
        self,
        label: str,
        policy: Policy,
        log: Log,
        headers: Mapping[str, str] | None = None,
        host: str = "",
        only_to: str = "",
        turns: Path | None = None,
    ) -> None:
        """Name the source.

        Args:
            label: opens every line and error.
            policy: how hard to ask.
            log: takes a line of progress per 10 s.
            headers: sent with every request, but to no other server that an answer redirects to.
            host: what ``{host}`` in a url stands for.
            only_to: a url; `headers` go to its server alone. Empty: to whichever is asked.
            turns: the project's cache folder, for `turn`.

        Raises:
            DownloadError: a variable that `headers` name is not set.
        """
        self.label, self.policy, self.log, self._host = label, policy, log, host
        self.received_bytes = 0
        sent = dict(headers or {})
        self._keys = Keys(sent.values(), f"the headers of {label}")
        self._own = {name: self._keys.expand(value) for name, value in sent.items()}
        self._every_s = 0.0 if policy.rate_per_s is None else 1.0 / policy.rate_per_s
        self._only_to = origin(only_to) if only_to else None
        self._lock = threading.Lock()
        self._next_at = 0.0  # monotonic seconds before which no request leaves
        self._turns = turns
        self._reached = False  # whether the server has ever answered

    def __enter__(self) -> Fetcher:
        for name in ("httpx", "httpcore"):  # they log whole addresses, keys included
            logging.getLogger(name).setLevel(logging.WARNING)
        version = importlib.metadata.version("pipeline")
        self._client = httpx.Client(
            limits=httpx.Limits(max_connections=self.policy.connections),
            verify=httpx.create_ssl_context(trust_env=self.policy.use_proxy),
            timeout=self.policy.timeout_s,
            http2=self.policy.http2,
            trust_env=self.policy.use_proxy,
            headers={"User-Agent": f"pipeline/{version} (aerial imagery for research)", "Accept": "*/*"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(
        self,
        url: str,
        *,
        byte_range: tuple[int, int] | None = None,
        headers: Mapping[str, str] | None = None,
        check: Check | None = None,
    ) -> Answer:
        """The answer to one GET, kept in memory.

        Args:
            url: http(s); may hold ``${NAME}``.
            byte_range: (first byte, count). A server that knows ranges answers 206; the body of a 200, which would be
                the whole file, is not read.
            headers: more of them, without secrets (If-Range).
            check: raises `Again` for an answer to be asked for again, DownloadError for one that no retry mends.

        Raises:
            NotThere: 404 or 410.
            DownloadError: 401, 403 and every other status but 200, 206 and 416 (of a range); all retries failed.
        """
        more = dict(headers or {})
        if byte_range is not None:
            more |= {"Range": f"bytes={byte_range[0]}-{sum(byte_range) - 1}", "Accept-Encoding": "identity"}
        return self._asked("GET", url, more, None, check, ranged=byte_range is not None)

    def get_json(self, url: str, body: Any = None) -> Any:
        """The parsed JSON answer to a GET, or to a POST of `body` as JSON where there is one. Raises as `get`."""
        found: list[Any] = []

        def parse(answer: Answer) -> None:
            try:
                found.append(json.loads(answer.body))
            except ValueError:
                kind = answer.headers.get("content-type", "no content type")[:40]
                raise Again(f"no JSON but {kind}") from None

        if body is None:
            self._asked("GET", url, {"Accept": "application/json, */*"}, None, parse)
        else:
            more = {"Accept": "application/json, */*", "Content-Type": "application/json"}
            self._asked("POST", url, more, json.dumps(body).encode(), parse)
        return found[-1]

    def download(
        self,
        url: str,
        out: Path,
        *,
        sha256: str | None = None,
        md5: str | None = None,
        checksum_url: str | None = None,
    ) -> Downloaded:
        """Bring a whole file onto the disk: below ``<out>.part`` until it is whole and its checksum right.

        A part that an earlier, killed call left is gone on with where the server knows ranges and still has the same
        version of the file (strong ETag or date).

        Args:
            url: http(s); may hold ``${NAME}``.
            out: final path; replaced at the end alone.
            sha256, md5, checksum_url: at most one: what the file must hash to, or a file that opens with that.

        Raises:
            DownloadError: as `get`; a wrong checksum; a disk that is full.
        """
        checksum = Checksum("sha256", sha256) if sha256 else Checksum("md5", md5) if md5 else None
        if checksum_url is not None:
            checksum = self._published_checksum(checksum_url)
        with PartFile(out, self.public(url), self.log) as part:
            transfer = Transfer(self, url, part, self.log)
            self.retrying(url, transfer.attempt)
            size_bytes = part.size
            return Downloaded(size_bytes, part.publish(checksum), part.validator)

    def _published_checksum(self, url: str) -> Checksum:
        text = self.get(url).body[:65536].decode("utf-8", "replace")
        match = re.match(r"\s*([0-9a-fA-F]{64}|[0-9a-fA-F]{32})\b", text)
        if match is None:
            raise self.error(url, "does not open with an md5 or a sha256; give the extract's own")
        return Checksum("sha256" if len(match[1]) == 64 else "md5", match[1].lower())

    @contextmanager
    def turn(self, url: str) -> Iterator[None]:
        """Ask the server of `url` alone among all processes that share the cache, for the requests of the block.

        Not to be nested, and for one thread at a time; the block's own threads may ask at once. The rate and the
        server's Retry-After hold for whoever comes next.
        """
        if self._turns is None:
            yield
            return
        with turn(self._turns, url, self.label, _Seldom(self.log)):
            yield
            time.sleep(max(0.0, self._next_at - time.monotonic()))

    def public(self, url: str) -> str:
        """`url` as it may be shown: ``${NAME}`` unexpanded, keys and passwords starred out."""
        return public(url)

    def retrying(self, url: str, attempt: Callable[[], bool]) -> None:
        """Call `attempt` until it raises no `Again`; after each one wait. Errors name `url`.

        `attempt` returns whether it is done; False (it came further, but not to the end) asks at once and starts the
        count of retries anew.
        """
        tries = 0
        while True:
            try:
                self._wait()
                if attempt():
                    return
                tries = 0
            except Again as again:
                never = isinstance(again, Unreached) and not self._reached
                if tries >= (min(self.policy.retries, UNREACHED_RETRIES) if never else self.policy.retries):
                    count = f"{tries + 1} tries" if tries else "one try"
                    advice = "check the url and the network" if never else "run again later"
                    raise self.error(url, f"failed after {count} ({again.reason}); {advice}") from None
                self._hold(again, tries)
                tries += 1

    def error(self, url: str, text: str) -> DownloadError:
        """An error of one line about `url`."""
        return DownloadError(f"{self.label}: {self.public(url)}: {self.redact(text)}")

    def redact(self, text: str) -> str:
        """`text` in one line, without what the headers' ``${NAME}`` stand for."""
        return " ".join(self._keys.redact(text).split())

    def _asked(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | None,
        check: Check | None,
        ranged: bool = False,
    ) -> Answer:
        found: list[Answer] = []

        def attempt() -> bool:
            with self.open(method, url, headers, body, ranged=ranged) as response:
                body_read = b"" if ranged and response.status_code == 200 else self._read(url, response)
                answer = Answer(response.status_code, body_read, self.shown(url, response))
            if check is not None:
                check(answer)
            found.append(answer)
            return True

        self.retrying(url, attempt)
        return found[-1]

    def _read(self, url: str, response: httpx.Response) -> bytes:
        """The body; `Again` when it takes longer than one try may, DownloadError when it is too big."""
        deadline = time.monotonic() + self.policy.timeout_s
        body = bytearray()
        for part in response.iter_bytes():
            body += part
            if time.monotonic() > deadline:
                raise Again("timeout")
            if len(body) > MAX_BODY_BYTES:
                raise self.error(url, f"answers more than {MAX_BODY_BYTES >> 20} MiB")
        self.count(len(body))
        return bytes(body)

    def count(self, received: int) -> None:
        """Add to `received_bytes`."""
        with self._lock:
            self.received_bytes += received

    @contextmanager
    def open(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None, *, ranged: bool = False
    ) -> Iterator[httpx.Response]:
        """One try: the streamed answer, its status 200 (or 206, 416 where `ranged`). Raises `Again`, DownloadError."""
        keys = Keys([url], public(url))
        try:
            with self._redirected(method, keys.expand(url.replace("{host}", self._host)), headers, body) as response:
                self._reached = True
                self._judge(url, response, ranged)
                yield response
        except NOT_ASKABLE as error:
            raise self.error(url, f"cannot be asked for ({type(error).__name__}); check the url") from None
        except httpx.ConnectTimeout:
            raise Unreached("timeout") from None
        except httpx.TimeoutException:
            raise Again("timeout") from None
        except httpx.RemoteProtocolError:
            raise Again("answer cut off") from None
        except httpx.HTTPError as error:
            text = self.redact(keys.redact(str(error)))[:80]
            kind = Unreached if isinstance(error, httpx.ConnectError) else Again
            raise kind(f"{type(error).__name__}{': ' if text else ''}{text}") from None

    @contextmanager
    def _redirected(
        self, method: str, address: str, headers: Mapping[str, str], body: bytes | None
    ) -> Iterator[httpx.Response]:
        """The answer at the end of redirects, which get the source's own headers on its own server alone."""
        home = self._only_to or origin(address)
        for _ in range(MAX_REDIRECTS + 1):
            own = self._own if origin(address) == home else {}
            with self._client.stream(method, address, headers={**headers, **own}, content=body) as response:
                location = response.headers.get("location", "")
                if not (response.is_redirect and location):
                    yield response
                    return
            address = urljoin(address, location)
            if response.status_code == 303:
                method, body = "GET", None
        raise httpx.UnsupportedProtocol("too many redirects")

    def _judge(self, url: str, response: httpx.Response, ranged: bool) -> None:
        status = response.status_code
        if status == 200 or (ranged and status in (206, 416)):
            return
        if status in RETRIED or status >= 500:
            raise Again(f"HTTP {status}", retry_after_s(response.headers.get("retry-after")))
        if status in (404, 410):
            raise NotThere(str(self.error(url, f"the server answered HTTP {status}; check the url")))
        hint = "check the url"
        if status in (401, 403):
            hint = "check the key or token, and whether the source's terms allow this"
        raise self.error(url, f"the server answered HTTP {status}; {hint}")

    def shown(self, url: str, response: httpx.Response) -> dict[str, str]:
        """The headers of an answer, free of secrets."""
        keys = Keys([url], public(url))
        return {name: self.redact(keys.redact(value)) for name, value in response.headers.items()}

    def _wait(self) -> None:
        """Wait until the server may be asked again."""
        while True:
            with self._lock:
                pause = self._next_at - time.monotonic()
                if pause <= 0:
                    self._next_at = time.monotonic() + self._every_s
                    return
            time.sleep(pause)

    def _hold(self, again: Again, tries: int) -> None:
        """Wait before the next try; the server's own wish holds for every thread."""
        if again.wait_s is not None:
            wait = min(again.wait_s, self.policy.max_wait_s) * random.uniform(1.0, 1.1)
            with self._lock:
                self._next_at = max(self._next_at, time.monotonic() + wait)
        self.log.progress(f"{self.label}: {again.reason}; trying again")
        time.sleep(min(self.policy.backoff_s * 2**tries * random.uniform(0.5, 1.0), self.policy.max_wait_s))


class _Seldom(Log):
    """Passes a line on as progress."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def __call__(self, text: str) -> None:
        self._log.progress(text)
