"""Assets of STAC items, found by a search or listed in a file, read by window; the first valid pixel wins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal
from urllib.parse import urljoin

from pydantic import Field, model_validator

from pipeline.errors import DataError
from pipeline.sources._base import Asked, Bbox, GetJson, SourceFile, WindowedSource
from pipeline.sources._template import shown

PAGE = 100  # items asked for at once
MAX_PAGES = 1000


class Source(WindowedSource, Asked):
    """Items of a SpatioTemporal Asset Catalog.

    `headers` go to the catalogue's own server alone. `max_missing` is the largest share of the files that cover a
    shard and may be absent from the server.
    """

    kind: Literal["stac"]
    url: str = Field(
        description="an item, a page of items (FeatureCollection), or the API's …/search together with `collections`"
    )
    collections: Annotated[list[str], Field(min_length=1)] | None = Field(None, description="search these")
    datetime: str | None = Field(None, description="search: a day, or a span such as 2023-05-01/2023-09-30")
    query: dict[str, Any] = Field(
        default_factory=dict, description="search: the API's query extension, such as {platform: {eq: sentinel-2a}}"
    )
    max_cloud: float | None = Field(None, ge=0, le=100, description="largest eo:cloud_cover of an item, percent")
    assets: Annotated[list[str], Field(min_length=1)] = Field(
        description="names of assets; the bands of several are stacked in order; * stands for any letters"
    )
    asset_query: str = Field(
        "", description="added to the address of every asset: a token such as ${NAME} from the environment"
    )
    order: Literal["newest", "oldest", "least_cloud"] = Field("newest", description="which items lie on top")
    max_items: int = Field(500, ge=1, le=10_000, description="more items than that in the region are an error")

    @model_validator(mode="after")
    def _search(self) -> Source:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"the url {shown(self.url)!r} must start with http:// or https://")
        given = [key for key in ("datetime", "query") if getattr(self, key)]
        if self.collections is None and given:
            raise ValueError(f"{given[0]} belongs to a search: give `collections`")
        return self

    def files(self, bbox: Bbox, get_json: GetJson) -> list[SourceFile]:
        """The items that touch `bbox` and have all `assets`, in `order`.

        Raises:
            DataError: no STAC answer, no item, too many, or an asset that is nowhere or cannot be asked for.
        """
        items: dict[tuple[str, str], dict[str, Any]] = {}
        for item in self._items(bbox, get_json):
            if self._wanted(item, bbox):
                items.setdefault((str(item.get("collection", "")), str(item.get("id", ""))), item)
            if len(items) > self.max_items:
                raise self._error(f"more than {self.max_items} items touch the region; narrow `datetime` or `query`, "
                                  "or raise max_items")  # fmt: skip
        if not items:
            raise self._error(f"no item touches the region {[round(side, 4) for side in bbox]}; check the bbox, "
                              "`collections`, `datetime` and max_cloud")  # fmt: skip
        found = [file for item in self._sorted(list(items.values())) if (file := self._file(item)) is not None]
        if not found:
            names = sorted({name for item in items.values() for name in item.get("assets") or {}})
            raise self._error(f"none of {len(items)} items has the assets {', '.join(self.assets)}; they have "
                              f"{', '.join(names[:20]) or 'none'}")  # fmt: skip
        return found

    def _items(self, bbox: Bbox, get_json: GetJson) -> Iterator[dict[str, Any]]:
        if self.collections is None:
            yield from self._pages(self.url, None, get_json)
            return
        for box in _halves(bbox):
            body: dict[str, Any] = {"collections": self.collections, "bbox": list(box), "limit": PAGE}
            if self.datetime is not None:
                body["datetime"] = _span(self.datetime)
            query = dict(self.query)
            if self.max_cloud is not None:
                query.setdefault("eo:cloud_cover", {"lte": self.max_cloud})
            if query:
                body["query"] = query
            yield from self._pages(self.url, body, get_json)

    def _pages(self, url: str, body: dict[str, Any] | None, get_json: GetJson) -> Iterator[dict[str, Any]]:
        """The items of a page and of those that follow it."""
        seen: set[str] = set()
        while len(seen) < MAX_PAGES:
            place = f"{url} {json.dumps(body, sort_keys=True)}"
            if place in seen:
                raise self._error("its pages go round in a circle: a `next` link leads back")
            seen.add(place)
            page = get_json(url, body)
            kind = page.get("type") if isinstance(page, dict) else None
            if kind == "Feature":
                yield {**page, "_from": url}
                return
            if kind != "FeatureCollection" or not isinstance(page.get("features"), list):
                raise self._error(f"is no item and no page of items but {kind or 'no STAC at all'}; for a catalogue "
                                  "give its …/search and `collections`")  # fmt: skip
            yield from ({**item, "_from": url} for item in page["features"] if isinstance(item, dict))
            following = _next(page, url, body)
            if following is None or not page["features"]:
                return
            url, body = self._checked(following[0]), following[1]
        raise self._error(f"has more than {MAX_PAGES} pages; narrow `datetime` or `query`")

    def _wanted(self, item: dict[str, Any], bbox: Bbox) -> bool:
        box = item.get("bbox")
        if isinstance(box, list) and len(box) in (4, 6):
            west, south, east, north = (float(value) for value in (box if len(box) == 4 else box[:2] + box[3:5]))
            if south > bbox[3] or north < bbox[1] or not _lon_overlap((west, east), (bbox[0], bbox[2])):
                return False
        cloud = _properties(item).get("eo:cloud_cover")
        return self.max_cloud is None or not isinstance(cloud, int | float) or cloud <= self.max_cloud

    def _sorted(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        def key(item: dict[str, Any]) -> tuple[float, float, str, str]:
            at = _seconds(_properties(item))
            cloud = _properties(item).get("eo:cloud_cover")
            first = float(cloud) if isinstance(cloud, int | float) else 101.0
            age = at if self.order == "oldest" else -at
            names = str(item.get("collection", "")), str(item.get("id", ""))
            return (first if self.order == "least_cloud" else 0.0, age, *names)

        return sorted(items, key=key)

    def _file(self, item: dict[str, Any]) -> SourceFile | None:
        """The item's assets, or None where one is absent."""
        assets = item.get("assets") or {}
        places = []
        for wanted in self.assets:
            names = sorted(name for name in assets if fnmatchcase(name, wanted))
            if not names:
                return None
            if len(names) > 1:
                raise self._error(f"item {item.get('id')!r}: {wanted!r} stands for {', '.join(names[:4])}; make it one")
            places.append(self._href(item, names[0], assets[names[0]]))
        box = item.get("bbox")
        flat = box if isinstance(box, list) and len(box) == 4 else None
        return SourceFile(tuple(places), None if flat is None else (flat[0], flat[1], flat[2], flat[3]))

    def _href(self, item: dict[str, Any], name: str, asset: dict[str, Any]) -> str:
        links = [link.get("href") for link in item.get("links") or [] if link.get("rel") == "self"]
        base = urljoin(str(item["_from"]), str(links[0])) if links else str(item["_from"])
        others = [other.get("href") for other in (asset.get("alternate") or {}).values()]
        hrefs = [urljoin(base, str(href)) for href in (asset.get("href"), *others) if href]
        href = next((href for href in hrefs if href.startswith(("http://", "https://"))), "")
        if not href:
            raise self._error(f"asset {name!r} of item {item.get('id')!r} lies at {(hrefs or ['nowhere'])[0][:60]}, "
                              "which is not http(s)")  # fmt: skip
        joint = "" if not self.asset_query else "&" if "?" in href else "?"
        return self._checked(href) + joint + self.asset_query.lstrip("?&")

    def _checked(self, href: str) -> str:
        """An address that the server gave: it must not ask for anything of the environment."""
        if "${" in href:
            raise self._error("the server's answer holds an address with ${, which is not followed")
        return href

    def _error(self, text: str) -> DataError:
        return DataError(f"STAC {shown(self.url)}: {text}")


def _next(page: dict[str, Any], url: str, body: dict[str, Any] | None) -> tuple[str, dict[str, Any] | None] | None:
    """Address and body of the page that follows."""
    link = next((link for link in page.get("links") or [] if link.get("rel") == "next" and link.get("href")), None)
    if link is None:
        return None
    href = urljoin(url, str(link["href"]))
    if str(link.get("method", "GET")).upper() != "POST":
        return href, None
    more = link.get("body") or {}
    return href, {**(body or {}), **more} if link.get("merge") or not more else more


def _halves(bbox: Bbox) -> list[Bbox]:
    """The box, or the two sides of 180 degrees of one that crosses them (east above 180, or west > east)."""
    west, south, east, north = bbox
    if east - west >= 360:
        return [(-180.0, south, 180.0, north)]
    if west <= east <= 180:
        return [bbox]
    return [(west, south, 180.0, north), (-180.0, south, east - 360 if east > 180 else east, north)]


def _lon_overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two spans of longitude touch; either may cross 180 degrees."""
    (a0, a1), (b0, b1) = ((west, east if east >= west else east + 360) for west, east in (one, other))
    return any(a0 + turn <= b1 and b0 <= a1 + turn for turn in (-360, 0, 360))


def _properties(item: dict[str, Any]) -> dict[str, Any]:
    found = item.get("properties")
    return found if isinstance(found, dict) else {}


def _seconds(properties: dict[str, Any]) -> float:
    """When the item was taken, seconds since 1970; 0 where it does not say."""
    text = properties.get("datetime") or properties.get("start_datetime") or ""
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        return 0.0
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _span(text: str) -> str:
    """Days as the API wants them: whole ones, with times."""
    first, _, last = text.partition("/")
    ends = (first, last or first) if "/" in text or "T" not in text else (text,)
    times = ("T00:00:00Z", "T23:59:59Z")
    return "/".join(
        end if "T" in end or end in ("", "..") else end + time for end, time in zip(ends, times, strict=False)
    )
