"""A shard of imagery from rasters read by window: stacked bands, mosaics of files, local ones and remote ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.acquire.answer import NotThere
from pipeline.acquire.cog import FileChanged, is_remote
from pipeline.acquire.fetch import Fetcher
from pipeline.acquire.found import files_of
from pipeline.acquire.http import Policy
from pipeline.acquire.osm_box import grid_box
from pipeline.acquire.rows import FileRow
from pipeline.acquire.shards import BLOCK_PX, Pixels, Valid, write_shard
from pipeline.acquire.stack import Stack, Taken
from pipeline.acquire.views import box_text, boxes_overlap
from pipeline.command import Log
from pipeline.errors import DataError, DownloadError
from pipeline.grid import Grid, Shard
from pipeline.sources._base import Asked, SourceFile, WindowedSource

MOSTLY = 0.5  # share of a shard without imagery that a line warns of
OPEN_STACKS = 16  # files of a mosaic that are open at once


def download_windowed(
    name: str, source: WindowedSource, grid: Grid, shard: Shard, cache: Path, out: Path, log: Log
) -> tuple[dict[str, Any], list[FileRow]]:
    """Read one shard from the files of a source and write it to `out`.

    A file on the region's own grid is copied, any other one is warped to it (bilinear). Where files overlap, the first
    one with a valid pixel wins; a stack of files is valid where all of them are. Memory stays at one strip of 256 rows
    and `OPEN_STACKS` open files. Blocks of remote files lie below ``<cache>/files/<name>``.

    Returns:
        The manifest (see `download_imagery`) and one row per file that the shard was made of or that is missing.

    Raises:
        DataError: an unreadable raster, no coordinate system, a band it does not have, no overlap with the grid, files
            of a mosaic that differ in bands or dtype.
        DownloadError: a file that could not be fetched, or too many absent from the server.
    """
    label = f"{name}, shard {shard.name}"
    with ExitStack() as stack:
        fetcher = None
        if isinstance(source, Asked):
            policy = Policy(
                connections=source.connections,
                rate_per_s=source.rate_per_s,
                retries=source.retries,
                timeout_s=source.timeout_s,
                http2=source.http2,
            )
            only_to = source.url if source.kind == "stac" else ""  # type: ignore[attr-defined]
            fetcher = stack.enter_context(
                Fetcher(label, policy, log, headers=source.headers, only_to=only_to, turns=cache.parent)
            )
        job = _Job(name, label, source, grid, shard, fetcher, cache / "files" / name, out, log)
        try:
            return job.run()
        except FileChanged as error:
            log(f"{error}: read again from the start")
            return job.run()


@dataclass
class _Job:
    """One shard."""

    name: str
    label: str
    source: WindowedSource
    grid: Grid
    shard: Shard
    fetcher: Fetcher | None
    folder: Path
    out: Path
    log: Log

    def run(self) -> tuple[dict[str, Any], list[FileRow]]:
        part = replace(
            self.grid,
            left=self.grid.left + self.shard.col_px * self.grid.res_x,
            top=self.grid.top - self.shard.row_px * self.grid.res_y,
            height=self.shard.height,
            width=self.shard.width,
        )
        files = files_of(self.source, self.grid, self.fetcher, self.folder)
        received = self.fetcher.received_bytes if self.fetcher else 0
        with _Mosaic(self, part) as mosaic:
            mosaic.select(files)
            written = write_shard(
                self.out, self.grid, self.shard, len(mosaic.taken.bands), mosaic.taken.dtype, mosaic.strips()
            )
        share_missing = 1 - written.valid_px / (self.shard.height * self.shard.width)
        count = len(mosaic.rows) - len(mosaic.missing)
        how = "warped onto the grid (bilinear)" if mosaic.warped else "copied from its own grid"
        fetched = ""
        if self.fetcher is not None:
            fetched = f", {(self.fetcher.received_bytes - received) / 1e6:.1f} MB fetched"
        files_text = f"{count} of {len(files)} files, " if len(files) > 1 else ""
        self.log(f"{self.label}: {files_text}{how}{fetched}, {share_missing:.1%} of the pixels without imagery")
        if share_missing > MOSTLY:
            self.log(
                f"warning: {self.label}: {share_missing:.1%} of the shard is without imagery; check that the files of "
                f"imagery.{self.name} cover the region's bbox"
            )
        manifest = {
            "source": self.name,
            "kind": self.source.kind,
            "attribution": self.source.attribution,
            "terms": self.source.terms,
            "shard": self.shard.name,
            "files": {"requested": len(mosaic.rows), "missing": len(mosaic.missing)},
            "resampled": mosaic.warped,
            "bands": len(mosaic.taken.bands),
            "dtype": mosaic.taken.dtype,
            "height": self.shard.height,
            "width": self.shard.width,
            "share_missing": round(share_missing, 6),
            "sha256": written.sha256,
        }
        return manifest, mosaic.rows


class _Mosaic:
    """The files of one shard, those on top first.

    Attributes:
        taken: bands and dtype that all files have.
        missing: files that the server does not have.
        warped: whether any pixels read were resampled.
    """

    taken: Taken

    def __init__(self, job: _Job, part: Grid) -> None:
        """`part` is the grid of the shard alone."""
        self.job, self._part = job, part
        self.missing: list[SourceFile] = []
        self.warped = False
        self._rows: dict[SourceFile, list[FileRow]] = {}
        self._chosen: list[SourceFile] = []
        self._open: OrderedDict[SourceFile, Stack] = OrderedDict()

    def __enter__(self) -> _Mosaic:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._open.popitem()[1].close()

    @property
    def rows(self) -> list[FileRow]:
        """A row per file of the shard."""
        return [row for rows in self._rows.values() for row in rows]

    def select(self, files: list[SourceFile]) -> None:
        """Choose the files that reach the shard; errors for what no shard can be made of."""
        box = grid_box(self._part)
        near = [file for file in files if file.bbox is None or boxes_overlap(file.bbox, box)]
        first = None
        for file in [*near, *(file for file in files if file not in near)]:
            if file not in near and first is not None:
                break
            stack = self._stack(file)
            if stack is None:
                continue
            if first is None:
                first, self.taken = file, stack.taken
            if file in near and stack.reaches(self._part):
                self._check(file, stack)
                self._chosen.append(file)
                self._rows[file] = stack.rows()
        if self.missing:
            self._check_missing()
        if first is None:
            raise DownloadError(f"{self.job.label}: none of its {len(files)} files is on the server")
        if not self._chosen and all(file.bbox is None for file in files):
            self._check_region(files)

    def _check(self, file: SourceFile, stack: Stack) -> None:
        if stack.taken != self.taken:
            raise DataError(
                f"imagery {self.job.name!r}: {stack.names[0]} has {stack.taken}, other files have {self.taken}; "
                "make them sources of their own, or choose `bands`"
            )

    def _check_missing(self) -> None:
        count, source = len(self._chosen) + len(self.missing), self.job.source
        most = source.max_missing if isinstance(source, Asked) else 0.0
        for file in self.missing:
            assert self.job.fetcher is not None
            names = [self.job.fetcher.public(place) for place in file.places]
            self._rows[file] = [FileRow(place, 404, "not on the server") for place in names]
        if len(self.missing) > most * count:
            example = self._rows[self.missing[0]][0].file
            raise DownloadError(
                f"{self.job.label}: {len(self.missing)} of {count} files are not on the server, e.g. {example}, above "
                f"max_missing: {most:g} of a shard; correct the url or the bbox, or raise imagery.{self.job.name}."
                "max_missing"
            )

    def _check_region(self, files: list[SourceFile]) -> None:
        """DataError when no file reaches any of the region."""
        outside = ""
        for file in files:
            stack = self._stack(file)
            found = "" if stack is None else stack.outside(self.job.grid)
            if stack is not None and not found:
                return
            outside = outside or found
        others = f" (and {len(files) - 1} more files)" if len(files) > 1 else ""
        raise DataError(
            f"imagery {self.job.name!r}: {outside}{others} lies outside the region "
            f"{box_text(grid_box(self.job.grid))}; check the region's bbox"
        )

    def _stack(self, file: SourceFile) -> Stack | None:
        """The file, open; None when the server does not have it."""
        if file in self._open:
            self._open.move_to_end(file)
            return self._open[file]
        if file in self.missing:
            return None
        job = self.job
        try:
            stack = Stack(job.name, file, job.source, job.grid, job.fetcher, job.folder)
        except NotThere:
            if not is_remote(file.places[0]):
                raise
            self.missing.append(file)
            return None
        self._open[file] = stack
        if len(self._open) > OPEN_STACKS:
            self._open.popitem(last=False)[1].close()
        return stack

    def strips(self) -> Iterator[tuple[Pixels, Valid]]:
        """Strips of `BLOCK_PX` rows of the shard. A file is read only where those above it have nothing."""
        shard, bands = self.job.shard, len(self.taken.bands)
        for top in range(0, shard.height, BLOCK_PX):
            height = min(BLOCK_PX, shard.height - top)
            pixels = np.zeros((bands, height, shard.width), dtype=self.taken.dtype)
            valid = np.zeros((height, shard.width), dtype=bool)
            for file in self._chosen:
                stack = self._stack(file)
                empty = np.flatnonzero(~valid.all(axis=0))
                if stack is None or not len(empty):
                    continue
                c0, c1 = int(empty[0]), int(empty[-1]) + 1
                found, there = stack.read(shard.row_px + top, shard.col_px + c0, height, c1 - c0)
                new = there & ~valid[:, c0:c1]
                np.copyto(pixels[:, :, c0:c1], found, where=new)
                valid[:, c0:c1] |= new
                self.warped |= stack.warped
            self.job.log.progress(f"{self.job.label}: {top + height} of {shard.height} rows")
            yield pixels, valid
