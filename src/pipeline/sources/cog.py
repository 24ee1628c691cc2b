"""GeoTIFFs on a server, best cloud-optimised ones, read by window: only the bytes that a region needs are fetched."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipeline.sources._base import Asked, Bbox, GetJson, SourceFile, WindowedSource
from pipeline.sources._template import shown


class Source(WindowedSource, Asked):
    """One or several GeoTIFFs on a server that knows HTTP ranges.

    `max_missing` is the largest share of the files that cover a shard and may be absent from the server.
    """

    kind: Literal["cog"]
    url: str | Annotated[list[str], Field(min_length=1)] = Field(
        description="a GeoTIFF on a server, or several, those on top first; ${NAME} is taken from the environment"
    )

    @field_validator("url")
    @classmethod
    def _http(cls, url: str | list[str]) -> str | list[str]:
        for one in [url] if isinstance(url, str) else url:
            if not one.startswith(("http://", "https://")):
                raise ValueError(
                    f"the url {shown(one)!r} must start with http:// or https://; local files: kind raster"
                )
        return url

    @property
    def urls(self) -> list[str]:
        """The urls, those on top first."""
        return [self.url] if isinstance(self.url, str) else self.url

    def files(self, bbox: Bbox, get_json: GetJson) -> list[SourceFile]:
        """All of them: which ones reach the region is in their headers."""
        return [SourceFile((url,)) for url in self.urls]
