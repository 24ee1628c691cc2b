"""What kinds of imagery sources have in common: the sections that they extend, and how tiles lie on a grid."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, StrictBool, model_validator

from pipeline.grid import Grid, Shard
from pipeline.section import Section
from pipeline.sources._template import placeholders, shown

Bbox = tuple[float, float, float, float]  # west, south, east, north, degrees; across 180 degrees: west > east
Tile = tuple[int, int, int]  # zoom (0 where there is none), x, y
PLACEHOLDER = re.compile(r"\{[^{}]*\}")
SECRET = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
GetJson = Callable[[str, dict[str, Any] | None], Any]


@dataclass(frozen=True)
class Layout:
    """How square tiles lie on a region's grid, pixel on pixel.

    Tile (`zoom`, x, y) covers the grid's rows ``y · tile_px − row`` to ``(y + 1) · tile_px − row`` and the columns
    ``x · tile_px − col`` to ``(x + 1) · tile_px − col``.

    Attributes:
        zoom: first part of the tiles' keys.
        tile_px: edge of a tile in pixels.
        row, col: where the grid's top-left pixel lies on the lattice of tiles, pixels.
        columns: tiles around the world, where x starts anew (x/y/z pyramids); None for none.
        key: what tells apart, in the cache, tiles of one url: their lattice and what is asked for beside the url; ""
            for the world's x/y/z pyramid where the url says it all.
    """

    zoom: int
    tile_px: int
    row: int
    col: int
    columns: int | None = None
    key: str = ""

    def tiles(self, shard: Shard) -> dict[Tile, tuple[int, int]]:
        """Tiles that touch `shard` → (row, column) of their corner in the shard's pixels, row by row."""
        top, left, px = self.row + shard.row_px, self.col + shard.col_px, self.tile_px
        return {
            (self.zoom, x % self.columns if self.columns else x, y): (y * px - top, x * px - left)
            for y in range(top // px, (top + shard.height - 1) // px + 1)
            for x in range(left // px, (left + shard.width - 1) // px + 1)
        }


class BlankTiles(Section):
    """How a provider says "no imagery here" in an answer that looks like a tile; such tiles count as missing."""

    headers: dict[str, str] = Field(default_factory=dict, description="response header → value of a blank tile")
    sha256: list[str] = Field(default_factory=list, description="hashes of the provider's placeholder images")
    colours: list[tuple[int, int, int]] = Field(
        default_factory=list, description="a tile of nothing but one of these colours is blank"
    )


class ImagerySource(Section):
    """What every kind takes."""

    kind: str
    attribution: str = ""
    terms: str = Field("", description="link to the terms of use")
    requires_terms: StrictBool = Field(False, description="off until accept_terms is set in the region")
    accept_terms: StrictBool = Field(False, description="whoever runs this has read the terms and keeps to them")

    def off(self, name: str) -> str | None:
        """Why source `name` must not be asked, in one line; None when it may be."""
        if self.requires_terms and not self.accept_terms:
            return (
                f"imagery {name!r} is off: its terms ({self.terms or 'see the provider'}) restrict downloads; if they "
                f"allow what you do, set accept_terms: true under imagery.{name} of the region"
            )
        return None


class Asked(ImagerySource):
    """What every kind takes that asks a server: how hard, and with which headers."""

    headers: dict[str, str] = Field(
        default_factory=dict, description="sent with every request; ${NAME} is taken from the environment"
    )
    connections: int = Field(8, ge=1, le=64, description="requests at once to one host")
    rate_per_s: float | None = Field(None, gt=0, description="requests per second to one host, at most")
    retries: int = Field(5, ge=0, le=20)
    timeout_s: float = Field(30.0, gt=0)
    http2: StrictBool = Field(False, description="speak HTTP/2 where the server does (many small tiles, far away)")
    max_age_days: float | None = Field(
        None, ge=0, description="ask again for what was fetched earlier, by ETag or date; default: never"
    )
    max_missing: float = Field(
        0.0, ge=0, le=1, description="largest share of missing tiles (or files) per shard that is no error"
    )


class TiledSource(Asked):
    """Images asked for by address. A kind defines `layout` and `address`, and the placeholders of its urls."""

    required: ClassVar[tuple[str, ...]] = ()  # placeholders that a url must have
    optional: ClassVar[tuple[str, ...]] = ()  # and those that it may have beside {s}

    url: str = Field(description="template; a literal ${NAME} is taken from the environment")
    values: dict[str, str] = Field(
        default_factory=dict, description="values of the url's own placeholders, such as {image: …} for {image}"
    )
    serve: Path | None = Field(None, description="folder z/x/y.* served on loopback as {host} while downloading")
    subdomains: list[str] = Field(default_factory=list, description="values of {s}, in turn")
    min_zoom: int = Field(0, ge=0, le=23)
    max_zoom: int = Field(23, ge=0, le=23)
    blank: BlankTiles | None = None
    tile_kb: float = Field(15.0, gt=0, description="usual size of a tile, for the plan of a download")

    @model_validator(mode="after")
    def _check_url(self) -> TiledSource:
        url, found = shown(self.url), placeholders(self.url)
        missing = self.lacking(found)
        if missing:
            raise ValueError(f"the url {url!r} lacks {', '.join(missing)}")
        if ("host" in found) != (self.serve is not None):
            raise ValueError("{host} in the url and `serve` go together")
        if self.serve is None and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"the url {url!r} must start with http:// or https://")
        if ("s" in found) != bool(self.subdomains):
            raise ValueError("{s} in the url and `subdomains` go together")
        known = [*self.required, *self.optional, "{s}"]
        unknown = [name for name in found if f"{{{name}}}" not in known and name not in self.own_names() | {"host"}]
        if unknown:
            raise ValueError(
                f"unknown placeholder {{{unknown[0]}}} in the url {url!r}; there are {', '.join(known)}, and those "
                f"that `values` gives, such as values: {{{unknown[0] or 'name'}: …}}"
            )
        unused = sorted({name.lower() for name in self.values} - set(found))
        if unused:
            raise ValueError(f"values.{unused[0]}: the url {url!r} has no {{{unused[0]}}}")
        if self.min_zoom > self.max_zoom:
            raise ValueError(f"min_zoom {self.min_zoom} is above max_zoom {self.max_zoom}")
        return self

    def lacking(self, found: list[str]) -> list[str]:
        """Placeholders that a url with those in `found` ought to have too."""
        return [part for part in self.required if part[1:-1] not in found]

    def own_names(self) -> set[str]:
        """Placeholders that the config gives values to, lower case."""
        return {name.lower() for name in self.values}

    def parts(self, tile: Tile) -> dict[str, object]:
        """What every kind fills into its urls: ``{s}`` of a tile, and `values`."""
        return {"s": self.subdomain(tile), **{name.lower(): value for name, value in self.values.items()}}

    def layout(self, name: str, grid: Grid, zoom: int | None) -> Layout:
        """How the tiles of source `name` lie on `grid`, whose x/y/z zoom is `zoom` (None for another grid).

        Raises:
            DataError: they do not lie pixel on pixel, or the zoom is one that the source does not have.
        """
        raise NotImplementedError

    def address(self, tile: Tile, layout: Layout, grid: Grid) -> str:
        """The url of one tile; ``{host}`` and ``${NAME}`` are left as they are."""
        raise NotImplementedError

    def refusal(self, body: bytes, content_type: str) -> str | None:
        """The server's own words where `body` is an error message under status 200 (a WMS exception); else None."""
        return None

    def subdomain(self, tile: Tile) -> str:
        """The value of ``{s}`` for one tile: always the same, so that caches on the way hold."""
        return self.subdomains[(tile[1] + tile[2]) % len(self.subdomains)] if self.subdomains else ""


@dataclass(frozen=True)
class SourceFile:
    """A raster that a windowed source reads.

    Attributes:
        places: a path or a url, or several whose bands are stacked in order.
        bbox: what it covers at most, where that is known without opening it.
    """

    places: tuple[str, ...]
    bbox: Bbox | None = None


class WindowedSource(ImagerySource):
    """Files read by window. A kind defines `files`."""

    bands: Annotated[list[int] | None, Field(min_length=1, description="1-based bands; default: all but alpha")] = None

    def files(self, bbox: Bbox, get_json: GetJson) -> list[SourceFile]:
        """The files that cover `bbox`, those on top first.

        `get_json` (url, body or None → parsed JSON) asks a server, politely.
        """
        raise NotImplementedError
