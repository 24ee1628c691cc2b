"""A local raster file, or several whose bands are stacked (an orthophoto and its height model)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.sources._base import Bbox, GetJson, SourceFile, WindowedSource


class Source(WindowedSource):
    """A local raster file, in any coordinate system and of any dtype; or several, one above the other."""

    kind: Literal["raster"]
    path: Path | Annotated[list[Path], Field(min_length=1)] = Field(
        description="a raster, or several whose bands are stacked in order; each may have a grid of its own"
    )

    @property
    def paths(self) -> list[Path]:
        """The files; the grid that a region may take is the first one's."""
        return self.path if isinstance(self.path, list) else [self.path]

    def files(self, bbox: Bbox, get_json: GetJson) -> list[SourceFile]:
        """The one stack."""
        return [SourceFile(tuple(str(path) for path in self.paths))]
