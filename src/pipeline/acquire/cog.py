"""Remote GeoTIFFs read by window: only the bytes that a window needs are fetched, each of them once."""

from __future__ import annotations

import io
import itertools
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import rasterio
from rasterio.abc import MultiByteRangeResourceContainer
from rasterio.errors import RasterioError

from pipeline.acquire.answer import Again, Answer, content_range, validator_of
from pipeline.acquire.blocks import BLOCK_BYTES, BlockCache, Head
from pipeline.acquire.fetch import Fetcher
from pipeline.acquire.shards import open_raster, readable
from pipeline.errors import DataError, DownloadError, PipelineError

RUN_BLOCKS = 16  # neighbouring blocks asked for in one request, at most
KEPT_BLOCKS = 32  # in memory, per file
DRIVERS = {  # first bytes → GDAL's driver; other formats may lead GDAL to other files
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",
    b"MM\0+": "GTiff",
    b"\0\0\0\x0cjP  ": "JP2OpenJPEG",
}
WHOLE_BYTES = 64 << 20  # a file up to that size is fetched whole from a server without ranges

_numbers = itertools.count()


class FileChanged(DownloadError):
    """The server has another version of a file by now than the one that was read so far; its blocks were dropped."""


def is_remote(place: str) -> bool:
    """Whether `place` is a url, not a path."""
    return place.startswith(("http://", "https://"))


@contextmanager
def open_windowed(
    place: str, fetcher: Fetcher | None = None, cache: Path | None = None, max_age_days: float | None = None
) -> Iterator[Any]:
    """Open a raster, local or on a server, as a rasterio dataset to read windows from.

    Whatever is read inside the ``with`` block, also through a `WarpedVRT`, fetches the blocks of 128 KiB that it
    needs and that are not in the cache yet, several at once, retried and paced by `fetcher`. A `WarpedVRT` reads all
    pixels under its own, however coarse it is: see `opened` and `Opened.overview`.

    Args:
        place: a path, or a url, which may hold ``${NAME}`` (see `Fetcher`).
        fetcher, cache: of the source; needed for a url. Blocks lie in ``<cache>/<hash of the url>.sqlite``, so that
            `cache` is the provider's folder (``cache/<region>/files/<provider>``).
        max_age_days: ask the server whether it still has this version if it was last asked longer ago.

    Raises:
        NotThere: the server does not have the file (404): raised before the block begins.
        DownloadError: it could not be fetched; `FileChanged` where reading again from the start helps.
        DataError: no raster, or a damaged one; also where reading inside the block fails.
    """
    with opened(place, fetcher, cache, max_age_days) as found, found.reading():
        yield found.raster


@dataclass(frozen=True)
class Opened:
    """An open raster.

    Attributes:
        place: path or url.
        raster: rasterio dataset.
        remote: the file on a server behind it; None for a local one.
    """

    place: str
    raster: Any
    remote: RemoteFile | None

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what goes wrong while the block reads this raster into one line."""
        if self.remote is None:
            with readable(Path(self.place)):
                yield
        else:
            with self.remote.reading():
                yield

    @contextmanager
    def overview(self, level: int) -> Iterator[Any]:
        """The raster's overview number `level`, from 0, as a dataset to be read in `reading`."""
        with self.reading():
            if self.remote is None:
                raster = rasterio.open(self.place, overview_level=level)
            else:
                raster = self.remote.open_raster(overview_level=level)
        with raster:
            yield raster


@contextmanager
def opened(
    place: str, fetcher: Fetcher | None, cache: Path | None, max_age_days: float | None = None
) -> Iterator[Opened]:
    """As `open_windowed`, for callers that read several rasters: each read goes into a block of `Opened.reading`."""
    if not is_remote(place):
        with open_raster(Path(place)) as raster:
            yield Opened(place, raster, None)
        return
    assert fetcher is not None and cache is not None
    with BlockCache(cache, fetcher.public(place), fetcher.log) as blocks:
        remote = RemoteFile(place, fetcher, blocks, max_age_days)
        with remote.reading():
            raster = remote.open_raster()
        with raster:
            yield Opened(place, raster, remote)


class RemoteFile(MultiByteRangeResourceContainer):  # type: ignore[misc]
    """A file on a server by blocks; also what GDAL reads it through.

    An error inside GDAL's calls is kept in `failure`, since GDAL only knows that a read failed.

    Attributes:
        head: the version that is read.
    """

    def __init__(self, place: str, fetcher: Fetcher, blocks: BlockCache, max_age_days: float | None) -> None:
        """Ask for the head unless it is known; raises NotThere, DownloadError."""
        self.place = place
        self.failure: PipelineError | None = None
        self._fetcher, self._blocks = fetcher, blocks
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        known = blocks.head()
        if known is None or _older(known, max_age_days):
            with fetcher.turn(place):
                self._first(known)
            blocks.date_today()
        self.head = cast(Head, blocks.head())

    def open_raster(self, **options: Any) -> Any:
        """The file as a rasterio dataset; call it in `reading`. DataError for anything but GeoTIFF and JPEG 2000."""
        head = self.ranges([(0, 12)])[0]
        driver = next((name for magic, name in DRIVERS.items() if head.startswith(magic)), None)
        if driver is None:
            place = self._fetcher.public(self.place)
            raise DataError(f"{place}: is no GeoTIFF, it begins with {head!r}; check the url")
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
            return rasterio.open(f"{next(_numbers)}/{self.name}", driver=driver, opener=self, **options)

    @property
    def name(self) -> str:
        """The file's name without folders."""
        return urlsplit(self.place).path.rpartition("/")[2] or "file"

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what goes wrong while GDAL reads the file into one line."""
        try:
            yield
        except RasterioError as error:
            if self.failure is None:
                text = re.sub(r"/vsi\w+/\d+/", "", " ".join(str(error.__cause__ or error).split()))
                place = self._fetcher.public(self.place)
                raise DataError(f"{place}: is not readable as a raster ({text}); it may be damaged") from None
        if self.failure is not None:
            raise self.failure

    def ranges(self, wanted: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each (offset, count); what is missing of all of them is fetched at once."""
        spans = [(offset, min(offset + count, self.head.size)) for offset, count in wanted]
        numbers = [range(first // BLOCK_BYTES, -(-end // BLOCK_BYTES)) for first, end in spans]
        needed = sorted({number for part in numbers for number in part})
        self._fetch(self._blocks.missing(self.head, [number for number in needed if number not in self._kept]))
        found = []
        for (first, end), part in zip(spans, numbers, strict=True):
            data = b"".join(self._block(number) for number in part)
            start = first - part.start * BLOCK_BYTES
            found.append(data[start : start + max(0, end - first)])
        return found

    def _block(self, number: int) -> bytes:
        body = self._kept.get(number)
        if body is None:
            body = self._blocks.get(self.head, number)
            if body is None:  # found damaged just now, or dropped by another job that saw another version
                self._fetch([number])
                body = self._blocks.get(self.head, number)
            if body is None:
                raise self._changed()
            self._kept[number] = body
            if len(self._kept) > KEPT_BLOCKS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return body

    def _fetch(self, missing: list[int]) -> None:
        if not missing:
            return
        with self._fetcher.turn(self.place):
            runs = _runs(self._blocks.missing(self.head, missing))  # another job may have fetched some while we waited
            with ThreadPoolExecutor(self._fetcher.policy.connections) as pool:
                for run, answer in zip(runs, pool.map(self._ask, runs), strict=True):
                    self._store(run, answer)

    def _ask(self, run: range) -> Answer:
        """One request for neighbouring blocks of the version that is read."""
        first, end = run.start * BLOCK_BYTES, min(run.stop * BLOCK_BYTES, self.head.size)

        def check(answer: Answer) -> None:
            if answer.status == 206 and len(answer.body) != end - first and self._same(answer):
                raise Again("answer cut off")

        guard = {"If-Range": self.head.validator} if self.head.validator else {}
        return self._fetcher.get(self.place, byte_range=(first, end - first), headers=guard, check=check)

    def _same(self, answer: Answer) -> bool:
        found = content_range(answer.headers.get("content-range", ""))
        size = None if found is None else found[1]
        return (size, validator_of(answer.headers)) == (self.head.size, self.head.validator)

    def _store(self, run: range, answer: Answer) -> None:
        if answer.status != 206 or not self._same(answer):
            raise self._changed()
        self._blocks.put(self.head.size, self.head.validator, _cut(run.start, answer.body))

    def guarded(self, wanted: Sequence[tuple[int, int]]) -> list[bytes]:
        """As `ranges`, for GDAL: an error is kept, and nothing is read after it."""
        if self.failure is None:
            try:
                return self.ranges(wanted)
            except PipelineError as error:
                self.failure = error
        return [b"" for _ in wanted]

    def _changed(self) -> FileChanged:
        self._blocks.drop(self.head)
        self._kept.clear()
        return FileChanged(
            str(self._fetcher.error(self.place, "changed on the server since parts of it were fetched; run again"))
        )

    def _first(self, known: Head | None) -> None:
        """Ask for the first block, which tells size and version."""
        answer = self._fetcher.get(self.place, byte_range=(0, BLOCK_BYTES), check=_whole_range)
        if answer.status == 200:
            self._whole(answer)
            return
        size = (content_range(answer.headers.get("content-range", "")) or (0, None))[1]
        if answer.status == 416 or not size:
            raise self._fetcher.error(self.place, "is empty, or the server does not tell its size")
        if known is not None and (size, validator_of(answer.headers)) != (known.size, known.validator):
            self._fetcher.log(f"{self._fetcher.public(self.place)}: changed on the server; it is fetched again")
        self._blocks.put(size, validator_of(answer.headers), {0: answer.body})

    def _whole(self, answer: Answer) -> None:
        """Take a small file at once from a server that knows no ranges."""
        length = answer.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > WHOLE_BYTES:
            size = f"{int(length) / 1e6:.0f} MB" if length.isdecimal() else "unknown size"
            raise self._fetcher.error(
                self.place,
                f"the server sends no parts of files (HTTP ranges), and the whole of {size} is more than "
                f"{WHOLE_BYTES >> 20} MiB; download it and give its path as kind: raster",
            )
        answer = self._fetcher.get(self.place)
        self._blocks.put(len(answer.body), validator_of(answer.headers), _cut(0, answer.body))

    # What GDAL asks, by way of rasterio.

    def open(self, path: str, mode: str = "r", **_: Any) -> _Stream:
        """A stream over the file."""
        return _Stream(self)

    def size(self, path: str) -> int:
        """Bytes of the file."""
        return self.head.size

    def isfile(self, path: str) -> bool:
        """There is one file, and nothing beside it."""
        return path.rpartition("/")[2] == self.name

    def isdir(self, path: str) -> bool:
        """No folders."""
        return False

    def ls(self, path: str) -> list[str]:
        """No neighbours."""
        return []

    def mtime(self, path: str) -> int:
        """Unknown."""
        return 0

    def rm(self, path: str) -> None:
        """Never."""
        raise io.UnsupportedOperation("rm")


class _Stream(io.RawIOBase):
    """A place in a remote file."""

    mode = "r"

    def __init__(self, remote: RemoteFile) -> None:
        super().__init__()
        self._remote, self._at = remote, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._remote.head.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._remote.head.size - self._at)
        data = self._remote.guarded([(self._at, left if count < 0 else min(count, left))])[0]
        self._at += len(data)
        return data

    def get_byte_ranges(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Several parts at once; rasterio looks for this method here."""
        return self._remote.guarded(list(zip(offsets, sizes, strict=True)))


def _older(head: Head, max_age_days: float | None) -> bool:
    if max_age_days is None:
        return False
    return datetime.now(UTC) - datetime.fromisoformat(head.fetched) > timedelta(days=max_age_days)


def _runs(numbers: Sequence[int]) -> list[range]:
    """Neighbours together, at most `RUN_BLOCKS` of them."""
    runs: list[range] = []
    for number in numbers:
        if runs and runs[-1].stop == number and len(runs[-1]) < RUN_BLOCKS:
            runs[-1] = range(runs[-1].start, number + 1)
        else:
            runs.append(range(number, number + 1))
    return runs


def _cut(first: int, body: bytes) -> dict[int, bytes]:
    """Number → block of a body that begins with block `first`."""
    starts = range(0, len(body), BLOCK_BYTES)
    return {first + start // BLOCK_BYTES: body[start : start + BLOCK_BYTES] for start in starts}


def _whole_range(answer: Answer) -> None:
    """`Again` unless a 206 holds all of the first block."""
    found = content_range(answer.headers.get("content-range", ""))
    if answer.status == 206 and found and found[1] and len(answer.body) != min(found[1], BLOCK_BYTES):
        raise Again("answer cut off")
