"""The bytes of one file from a server into its part on the disk, from wherever the last try ended."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httpx

from pipeline.acquire.answer import Again, content_range, validator_of
from pipeline.acquire.partial import PartFile
from pipeline.command import Log

if TYPE_CHECKING:
    from pipeline.acquire.fetch import Fetcher


class Transfer:
    """Tries to bring the rest of one file into its part."""

    def __init__(self, fetcher: Fetcher, url: str, part: PartFile, log: Log) -> None:
        self.fetcher, self.url, self.part, self.log = fetcher, url, part, log
        self.whole: int | None = None  # bytes, as far as known

    def attempt(self) -> bool:
        """One try; True when the part is whole, False when the answer broke off after some bytes."""
        part = self.part
        start = part.size if part.validator else 0
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": part.validator}
        try:
            with self.fetcher.open("GET", self.url, headers, ranged=bool(start)) as response:
                if response.status_code == 416:
                    return self._beyond(response, start)
                self._begin(response, start)
                start = part.size
                for piece in response.iter_raw():
                    part.write(piece)
                    self.fetcher.count(len(piece))
                    self._progress()
        except Again:
            if part.size > start and part.validator:
                return False
            raise
        if self.whole is not None and part.size != self.whole:
            raise Again(f"{part.size} of {self.whole} bytes")
        return True

    def _begin(self, response: httpx.Response, start: int) -> None:
        headers = self.fetcher.shown(self.url, response)
        if response.status_code == 206:
            found = content_range(headers.get("content-range", ""))
            if found is None or found[0] != start or validator_of(headers) not in ("", self.part.validator):
                self.part.restart("")
                raise Again("another part of the file than asked for")
            self.whole = found[1]
            return
        length = headers.get("content-length", "")
        self.whole = int(length) if length.isdecimal() else None
        self.part.restart(validator_of(headers))

    def _beyond(self, response: httpx.Response, start: int) -> bool:
        """The server has nothing after what is there: it is whole, or not what it was."""
        size = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("content-range", "").strip())
        if size is not None and int(size[1]) == start:
            return True
        self.part.restart("")
        raise Again("the file is shorter than its part")

    def _progress(self) -> None:
        of = f" of {self.whole / 1e6:.0f}" if self.whole is not None else ""
        self.log.progress(f"{self.fetcher.label}: {self.part.size / 1e6:.0f}{of} MB of {self.part.out.name}")
