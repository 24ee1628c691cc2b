"""One file of a source, or several whose bands are stacked, open on the region's grid."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rasterio.enums import ColorInterp

from pipeline.acquire.cog import Opened, opened
from pipeline.acquire.fetch import Fetcher
from pipeline.acquire.rows import FileRow
from pipeline.acquire.shards import Pixels, Valid
from pipeline.acquire.views import View, box_of, box_text, checked_crs, overview_level, reaches, views_of
from pipeline.errors import DataError
from pipeline.files import sha256_file
from pipeline.grid import Grid
from pipeline.sources._base import Asked, SourceFile, WindowedSource

HASHED_BYTES = 64 << 20  # local files up to that size get a sha256 in the shard's rows


@dataclass(frozen=True)
class Taken:
    """What is taken of a stack: (file, band), both counted in order, and the dtype that holds all of them."""

    bands: tuple[tuple[int, int], ...]
    dtype: str

    def __str__(self) -> str:
        return f"{len(self.bands)} bands of {self.dtype}"


class Stack:
    """Open files on the grid.

    Attributes:
        names: the places as they may be shown.
        taken: bands and dtype.
        warped: whether any of them is resampled.
    """

    def __init__(
        self,
        source_name: str,
        file: SourceFile,
        source: WindowedSource,
        grid: Grid,
        fetcher: Fetcher | None,
        folder: Path,
    ) -> None:
        """Open them; raises NotThere, DownloadError, DataError."""
        self.names = [fetcher.public(place) if fetcher else place for place in file.places]
        self._grid = grid
        max_age = source.max_age_days if isinstance(source, Asked) else None
        with ExitStack() as stack:
            self._files: list[Opened] = [
                stack.enter_context(opened(place, fetcher, folder, max_age)) for place in file.places
            ]
            self.taken = self._take(source_name, source.bands)
            self._views: list[list[View]] = []
            for name, found in zip(self.names, self._files, strict=True):
                with found.reading():
                    checked_crs(found.raster, name)
                    level = overview_level(found.raster, grid)
                raster = found.raster if level is None else stack.enter_context(found.overview(level))
                with found.reading():
                    self._views.append(stack.enter_context(views_of(raster, name, grid)))
            self._close = stack.pop_all()
        self.warped = any(view.warped for views in self._views for view in views)

    def close(self) -> None:
        """Close all files."""
        self._close.close()

    def _take(self, source_name: str, wanted: list[int] | None) -> Taken:
        """The bands that the config wants, counted through all files, else all but alpha."""
        every = [(number, band) for number, found in enumerate(self._files) for band in found.raster.indexes]
        for band in wanted or ():
            if not 1 <= band <= len(every):
                raise DataError(
                    f"imagery {source_name!r}: bands: {band} does not exist; {', '.join(self.names)} has 1 to "
                    f"{len(every)}"
                )
        kinds = {key: self._files[key[0]].raster.colorinterp[key[1] - 1] for key in every}
        taken = [every[band - 1] for band in wanted or ()] or [key for key in every if kinds[key] != ColorInterp.alpha]
        if not taken:
            raise DataError(f"imagery {source_name!r}: {self.names[0]} has no bands")
        for number, band in taken:
            if kinds[number, band] == ColorInterp.palette:
                raise DataError(
                    f"imagery {source_name!r}: {self.names[number]}: band {band} holds numbers of a colour table, no "
                    f"brightness; make colours of it: gdal_translate -expand rgb {self.names[number]} <new>.tif"
                )
        dtypes = [self._files[number].raster.dtypes[band - 1] for number, band in taken]
        if any(dtype.startswith("complex") for dtype in dtypes):
            raise DataError(f"imagery {source_name!r}: {self.names[0]}: complex numbers are no imagery; choose `bands`")
        return Taken(tuple(taken), str(np.result_type(*dtypes)))

    def reaches(self, grid: Grid) -> bool:
        """Whether all files overlap `grid`."""
        return not self.outside(grid)

    def outside(self, grid: Grid) -> str:
        """The first file that does not overlap `grid`, and what it covers, in degrees; "" when all do."""
        for name, found in zip(self.names, self._files, strict=True):
            if not reaches(found.raster, name, grid):
                box = box_of(found.raster)
                return name if box is None else f"{name}, which covers {box_text(box)} (west, south, east, north),"
        return ""

    def read(self, row_px: int, col_px: int, height: int, width: int) -> tuple[Pixels, Valid]:
        """A window of the grid: pixels [bands, height, width] and valid, where all files are."""
        pixels = np.zeros((len(self.taken.bands), height, width), dtype=self.taken.dtype)
        valid = np.ones((height, width), dtype=bool)
        for number, (views, found) in enumerate(zip(self._views, self._files, strict=True)):
            places = [i for i, (file, _) in enumerate(self.taken.bands) if file == number]
            if not places:
                continue
            bands = [self.taken.bands[i][1] for i in places]
            there = np.zeros((height, width), dtype=bool)
            for view in views:
                with found.reading():
                    part, part_valid = view.read(bands, row_px, col_px, height, width)
                new = part_valid & ~there
                for i, band in zip(places, part, strict=True):
                    np.copyto(pixels[i], band, where=new, casting="unsafe")
                there |= new
            valid &= there
        return pixels, valid

    def rows(self) -> list[FileRow]:
        """What is known of the files at no cost."""
        return [self._row(name, found) for name, found in zip(self.names, self._files, strict=True)]

    @staticmethod
    def _row(name: str, found: Opened) -> FileRow:
        if found.remote is not None:
            head = found.remote.head
            return FileRow(name, 200, "", head.size, "", head.fetched[:10], head.validator)
        path = Path(found.place)
        size = path.stat().st_size
        return FileRow(name, None, "", size, sha256_file(path) if size <= HASHED_BYTES else "")
