"""A local raster file, or several of one grid whose bands are stacked (an orthophoto and its height model)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pipeline.sources._base import GetJson, SourceFile, WindowedSource


class Source(WindowedSource):
    """A local raster file, in any coordinate system and of any dtype."""

    kind: Literal["raster"]
    path: Path

    def files(self, bbox: tuple[float, float, float, float], get_json: GetJson) -> list[SourceFile]:
        """The one file."""
        return [SourceFile((str(self.path),))]
