"""Features of an ArcGIS feature service: asked for page by page; pages are kept, so that no job asks one twice.

A page is what follows an offset, or where the server knows none (before ArcGIS 10.3), what lies between two ids.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from pyproj import CRS
from pyproj.exceptions import CRSError

from pipeline.acquire.answer import Again, Answer
from pipeline.acquire.fetch import Fetcher
from pipeline.acquire.http import Policy
from pipeline.acquire.world import Box, boxes_in
from pipeline.command import Log
from pipeline.errors import DataError, DownloadError, choices
from pipeline.files import atomic_file, canonical_json, read_json, write_json
from pipeline.grid import Grid
from pipeline.schema import LandcoverService

BACKOFF_S = 0.5
ITEMS = "/sharing/rest/content/items/"
DEGREES = CRS.from_epsg(4326)
BUSY = (429, 500, 502, 503, 504)  # error codes under status 200 that another try may mend


class _Changed(Exception):
    """The service has other features than those that were read."""


@dataclass(frozen=True)
class State:
    """What is being read, kept beside the pages: they belong to this version of the layer alone."""

    title: str
    id_field: str
    geojson: bool
    page_size: int
    edited: str
    boxes: list[list[float]]
    reference: str  # of the boxes
    counts: list[int]  # features per box
    ids: list[list[int]]  # of the features of each box, in order, where the server knows no offsets; else none


class FeatureService:
    """One layer of a service over one region."""

    def __init__(self, name: str, config: LandcoverService, grid: Grid, cache: Path, log: Log) -> None:
        """Name the source; pages go to ``<cache>/services/<name>/<hash of url, field and region>``."""
        self._label, self._config, self._grid, self._log = f"landcover {name!r}", config, grid, log
        self._turns = cache.parent
        asked = canonical_json([config.url, config.field, grid.crs, list(grid.bounds)])
        self.folder = cache / "services" / name / hashlib.sha256(asked.encode()).hexdigest()[:10]
        rest, _, self._layer_number = config.url.partition("#")
        self._base, _, self._more = rest.partition("?")
        self._base = self._base.rstrip("/")

    def fetch(self) -> dict[str, Any]:
        """Bring every page into the folder; return what the summary says of them. Nothing is asked once all are there.

        Raises:
            DownloadError: the service does not answer, answers with an error, or changed while it was read.
            DataError: it has no such field, or no areas.
        """
        done = self.folder / "done.json"
        if done.is_file():
            found: dict[str, Any] = read_json(done)
            self._log(f"{self._label}: read on {found['fetched'][:10]}; delete {self.folder} to ask again")
            return found
        config = self._config
        policy = Policy(config.connections, config.rate_per_s, config.retries, config.timeout_s, backoff_s=BACKOFF_S)
        self._fetcher = Fetcher(self._label, policy, self._log, turns=self._turns)
        with self._fetcher, self._fetcher.turn(config.url):
            if ITEMS in self._base:
                self._base = self._service_of_item()
            state = self._resumed()
            try:
                for number, count in enumerate(state.counts):
                    self._fetch_box(state, number, count)
                self._check(state)
            except _Changed as changed:
                shutil.rmtree(self.folder)
                raise DownloadError(
                    f"{self._label}: {self._shown(self._base)}: changed while it was read ({changed}); run again, "
                    "nothing was kept"
                ) from None
        found = {
            "url": self._fetcher.public(self._base),
            "layer": state.title,
            "field": config.field,
            "edited": state.edited,
            "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
            "pages": len(list(self.pages())),
        }
        write_json(done, found)
        return found

    def pages(self) -> Iterator[Path]:
        """The pages that were fetched, in order."""
        yield from sorted(self.folder.glob("page-*.json"))

    @property
    def id_field(self) -> str:
        """Name of the field that numbers the features, once fetched."""
        return str(read_json(self.folder / "state.json")["id_field"])

    def _service_of_item(self) -> str:
        """The address of the layer that the item of a hub stands for."""
        item = self._get(self._base, {})
        url = str(item.get("url") or "")
        if not url.startswith(("http://", "https://")) or "${" in url or not self._layer_number.isdecimal():
            raise DownloadError(
                f"{self._label}: {self._shown(self._base)}: the item names no service, or the url no layer; write "
                "…/items/<id>#<layer>, or the address …/FeatureServer/<layer> itself"
            )
        url = url.rstrip("/")
        return url if url.rpartition("/")[2].isdecimal() else f"{url}/{self._layer_number}"

    def _resumed(self) -> State:
        """What to read; pages of another version of the layer are dropped in one line."""
        state, path = self._state(), self.folder / "state.json"
        if self.folder.is_dir() and not (path.is_file() and read_json(path) == asdict(state)):
            self._log(f"{self._label}: the layer changed since parts of it were read; it is read again")
            shutil.rmtree(self.folder)
        write_json(path, asdict(state))
        return state

    def _state(self) -> State:
        config, layer = self._config, self._get(self._base, {})
        fields = {str(field["name"]): str(field.get("type")) for field in layer.get("fields") or []}
        place = f"{self._label}: {self._shown(self._base)}"
        if config.field not in fields:
            raise DataError(f"{place}: has no field {config.field!r}; {choices(config.field, fields)}")
        if layer.get("geometryType") != "esriGeometryPolygon":
            raise DataError(f"{place}: holds {layer.get('geometryType') or 'no shapes'}, no polygons")
        numbers = [name for name, kind in fields.items() if kind == "esriFieldTypeOID"]
        id_field = layer.get("objectIdField") or (numbers[0] if numbers else None)
        if id_field is None:
            raise DataError(f"{place}: its features have no object id, by which pages are put in order")
        crs, reference = _reference(layer)
        boxes = boxes_in(self._grid, crs)
        offsets = (layer.get("advancedQueryCapabilities") or {}).get("supportsPagination") is True
        ids = [] if offsets else [self._ids(box, reference) for box in boxes]
        edited = (layer.get("editingInfo") or {}).get("lastEditDate")
        return State(
            title=str(layer.get("name", "")),
            id_field=str(id_field),
            geojson="geojson" in str(layer.get("supportedQueryFormats", "")).lower(),
            page_size=min(config.page_size, int(layer.get("maxRecordCount") or config.page_size)),
            edited="" if edited is None else datetime.fromtimestamp(edited / 1000, UTC).isoformat(timespec="seconds"),
            boxes=[list(box) for box in boxes],
            reference=reference,
            counts=[self._count(box, reference) for box in boxes] if offsets else list(map(len, ids)),
            ids=ids,
        )

    def _count(self, box: Box | list[float], reference: str) -> int:
        found = self._query(box, reference, {"returnCountOnly": "true", "f": "json"}).get("count")
        if not isinstance(found, int):
            raise DownloadError(f"{self._label}: {self._shown(self._base)}: does not tell how many features it has")
        return found

    def _ids(self, box: Box, reference: str) -> list[int]:
        """Ids of the features in a box, which servers tell whole however long their pages are."""
        answer = self._query(box, reference, {"returnIdsOnly": "true", "f": "json"})
        found = answer.get("objectIds", ()) or []
        if "objectIds" not in answer or not all(isinstance(number, int) for number in found):
            raise DownloadError(
                f"{self._label}: {self._shown(self._base)}: has neither pages nor ids of its features; download the "
                "layer and take kind: vector"
            )
        return sorted(found)

    def _fetch_box(self, state: State, number: int, count: int) -> None:
        spans = [(start, min(start + state.page_size, count)) for start in range(0, count, state.page_size)]

        def fetch(span: tuple[int, int]) -> None:
            at, end = span
            while at < end:
                at += self._page(state, number, at, end - at)
                self._log.progress(f"{self._label}: {len(list(self.pages()))} pages")

        with ThreadPoolExecutor(self._config.connections) as pool:
            try:
                list(pool.map(fetch, spans))
            finally:
                pool.shutdown(cancel_futures=True)

    def _page(self, state: State, box: int, offset: int, size: int) -> int:
        """Have one page in the folder; how many features it holds (a server may send fewer than asked for)."""
        path = self.folder / f"page-{box}-{offset:09d}.json"
        if path.is_file():
            return len(read_json(path)["features"])
        options = {
            "outFields": f"{state.id_field},{self._config.field}",
            "outSR": "4326",
            "f": "geojson" if state.geojson else "json",
        }
        if state.ids:
            ids = state.ids[box][offset : offset + size]
            options["where"] = f"{state.id_field} >= {ids[0]} AND {state.id_field} <= {ids[-1]}"
        else:
            options |= {
                "orderByFields": state.id_field,
                "resultOffset": str(offset),
                "resultRecordCount": str(size),
            }
        page = self._query(state.boxes[box], state.reference, options)
        features = page.get("features")
        if not isinstance(features, list):
            raise DownloadError(f"{self._label}: {self._shown(self._base)}: the page at {offset} holds no features")
        if not features:
            raise _Changed(f"no features from {offset} on, of {state.counts[box]}")
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps({"features": features}), encoding="utf-8")
        return len(features)

    def _check(self, state: State) -> None:
        """DownloadError unless the pages hold each feature that the service has, now as when it was first asked."""
        for number, (box, count) in enumerate(zip(state.boxes, state.counts, strict=True)):
            now = self._count(box, state.reference)
            ids = {
                feature_id(feature, state.id_field)
                for path in self.folder.glob(f"page-{number}-*.json")
                for feature in read_json(path)["features"]
            }
            if not count == now == len(ids):
                raise _Changed(f"{count} features at first, {now} at the end, {len(ids)} different ones in pages")

    def _query(self, box: Box | list[float], reference: str, options: dict[str, str]) -> dict[str, Any]:
        where = {
            "where": "1=1",
            "geometry": ",".join(map(repr, box)),
            "geometryType": "esriGeometryEnvelope",
            "spatialRel": "esriSpatialRelIntersects",
            "inSR": reference,
        }
        return self._get(f"{self._base}/query", where | options)

    def _get(self, address: str, options: dict[str, str]) -> dict[str, Any]:
        """One answer as JSON; an error under status 200 is an error, in the server's own words."""
        url = "?".join([address, "&".join(filter(None, [urlencode({"f": "json"} | options), self._more]))])
        found: list[dict[str, Any]] = []

        def check(answer: Answer) -> None:
            try:
                parsed = json.loads(answer.body)
            except ValueError:
                raise Again(f"no JSON but {answer.headers.get('content-type', 'no content type')[:40]}") from None
            if not isinstance(parsed, dict):
                raise Again("JSON that is no object")
            if "error" in parsed:
                self._refused(address, parsed["error"])
            found.append(parsed)

        self._fetcher.get(url, check=check)
        return found[-1]

    def _refused(self, address: str, error: Any) -> None:
        error = error if isinstance(error, dict) else {"message": str(error)}
        details = error.get("details") or []
        words = [str(error.get("message", "")), *map(str, details if isinstance(details, list) else [details])]
        text = self._fetcher.redact(" ".join(" ".join(dict.fromkeys(filter(None, words))).split()))[:300]
        if error.get("code") in BUSY:
            raise Again(f"error {error['code']}: {text}")
        raise DownloadError(
            f"{self._label}: {self._shown(address)}: the service answered error {error.get('code', '')}: {text}"
        )

    def _shown(self, address: str) -> str:
        return self._fetcher.public(address)


def feature_id(feature: dict[str, Any], id_field: str) -> int:
    """A feature's number: of GeoJSON or of Esri's JSON."""
    attributes = feature.get("properties") or feature.get("attributes") or {}
    return int(attributes[id_field] if id_field in attributes else feature["id"])


def _reference(layer: dict[str, Any]) -> tuple[CRS, str]:
    """The layer's own coordinate system, and its name for a query; degrees where it is not known here."""
    found = layer.get("sourceSpatialReference") or (layer.get("extent") or {}).get("spatialReference") or {}
    for number in filter(None, (found.get("latestWkid"), found.get("wkid"))):
        for authority in ("EPSG", "ESRI"):
            try:
                return CRS.from_user_input(f"{authority}:{number}"), str(number)
            except CRSError:
                continue
    return DEGREES, "4326"
