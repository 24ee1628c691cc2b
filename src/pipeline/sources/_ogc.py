"""What services of the Open Geospatial Consortium (WMS, WMTS) have in common."""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Mapping
from typing import ClassVar, Literal
from urllib.parse import parse_qsl, quote

from pydantic import model_validator

from pipeline.errors import DataError
from pipeline.sources._base import SECRET, Tile, TiledSource
from pipeline.sources._template import fill, shown

STANDARD_PIXEL_M = 0.00028  # OGC's pixel: a scale denominator times this is metres per pixel
DEGREE_M = 111319.49079327358  # one degree of the equator of WGS84, as WMTS has it for scales in degrees

_EXCEPTION = re.compile(
    r"<(?:\w+:)?(?:ServiceException|Exception)\b([^>]*)>(.*?)(?:</(?:\w+:)?(?:ServiceException|Exception)>|$)",
    re.IGNORECASE | re.DOTALL,
)
_CODE = re.compile(r"""(?:code|exceptionCode)\s*=\s*["']([^"']*)["']""")


class ServiceSource(TiledSource):
    """A service asked with parameters behind a question mark. A kind says which ones it writes itself."""

    reserved: ClassVar[tuple[str, ...]] = ("service", "request", "version")

    @model_validator(mode="after")
    def _check_service(self) -> ServiceSource:
        if self.serve is not None:
            raise ValueError(f"`serve` is for folders of x/y/z tiles, not for kind {self.kind}")
        own = [key for key, _ in parse_qsl(self.url.partition("?")[2], keep_blank_values=True)]
        twice = [key for key in own if key.lower() in self.reserved]
        if twice:
            raise ValueError(
                f"the url {shown(self.url)!r} has the parameter {twice[0]}, which is written for each tile; give the "
                "service's address without it"
            )
        return self

    def refusal(self, body: bytes, content_type: str) -> str | None:
        """The text of a service exception."""
        return exception_text(body)

    def query(self, parameters: Mapping[str, object], tile: Tile) -> str:
        """The url with `parameters` behind it; ``${NAME}`` is left as it is."""
        base = fill(self.url, self.parts(tile))
        join = "" if base.endswith(("?", "&")) else "&" if "?" in base else "?"
        return base + join + "&".join(f"{key}={_quoted(str(value))}" for key, value in parameters.items())


def _quoted(value: str) -> str:
    """`value` for a query; commas, colons and slashes, which services write plainly, and ``${NAME}`` stay."""
    parts = SECRET.split(value)  # text, name, text, …, text
    return "".join(f"${{{part}}}" if index % 2 else quote(part, safe=",:/") for index, part in enumerate(parts))


def exception_text(body: bytes) -> str | None:
    """What a WMS ServiceException or an OWS ExceptionReport says, in one line; None for anything else."""
    if not body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return None
    text = body[:65536].decode("utf-8", errors="replace")
    if "ServiceException" not in text and "ExceptionReport" not in text:
        return None
    words = []
    for attributes, inner in _EXCEPTION.findall(text):
        code = _CODE.search(attributes)
        plain = re.sub(r"<!\[CDATA\[(.*?)\]\]>", lambda match: html.escape(match[1]), inner, flags=re.DOTALL)
        said = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", plain)).split())
        words += [part for part in (code[1] if code else "", said) if part]
    return ": ".join(dict.fromkeys(words))[:300] or "a service exception without a text"


@functools.cache
def axis_order(crs: str) -> Literal["xy", "yx"]:
    """Whether `crs`'s authority writes x (east) or y (north) first.

    Only its database knows: EPSG:4326, 31468 and 2180 write the north first, EPSG:3857, 25832 and 2056 the east, and
    nothing in a code tells. pyproj has the database and is imported when first asked.

    Raises:
        DataError: an unknown system, or one whose axes are neither east nor north (polar, southern African ones).
    """
    directions = tuple(axis.direction for axis in _system(crs).axis_info[:2])
    if directions == ("east", "north"):
        return "xy"
    if directions == ("north", "east"):
        return "yx"
    raise DataError(f"the axes of {crs} point {' and '.join(directions) or 'nowhere'}; give axis_order: xy or yx")


def metres_per_unit(crs: str) -> float:
    """Metres of one unit of `crs` as scale denominators of WMTS count them; DataError for an unknown system."""
    system = _system(crs)
    return DEGREE_M if system.is_geographic else float(system.axis_info[0].unit_conversion_factor)


@functools.cache
def same_system(name: str, crs: str) -> bool:
    """Whether `name` is another name of `crs`, the order of axes apart."""
    mercator = {"EPSG:3857", "EPSG:900913", "EPSG:102100", "EPSG:102113", "EPSG:3785"}
    if name.upper() == crs.upper() or {name.upper(), crs.upper()} <= mercator:
        return True
    if name.upper() in mercator:
        return False
    return bool(_system(name).equals(_system(crs), ignore_axis_order=True))


@functools.cache
def _system(crs: str):  # type: ignore[no-untyped-def] # pyproj is imported when first asked
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        return CRS.from_user_input("OGC:CRS84" if crs.upper() == "CRS:84" else crs)
    except CRSError:
        raise DataError(f"{crs[:40]!r} is no coordinate system that pyproj knows") from None
