"""An ArcGIS feature service on loopback: one layer of squares, with the manners and the faults of real ones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import shapely
from pyproj import Transformer

from tests.support.ranges import Asked, RangeServer

LAYER = "/arcgis/rest/services/cover/FeatureServer/4"
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class FakeService:
    """Features are (id, value, WGS84 shape). `spoil` (options of a query, answer) → the answer that is sent instead."""

    features: list[tuple[int, Any, shapely.Geometry | None]]
    layer: dict[str, Any] = field(default_factory=dict)
    spoil: Callable[[dict[str, str], Any], Any] = lambda options, answer: answer
    server: RangeServer = field(default_factory=RangeServer)

    @contextmanager
    def running(self) -> Iterator[FakeService]:
        self.server.respond = self.respond
        with self.server.running():
            yield self

    @property
    def url(self) -> str:
        return self.server.url(LAYER)

    @property
    def pages(self) -> list[dict[str, str]]:
        """Options of every query for features, in order."""
        asked = [options_of(asked) for asked in self.server.asked if "/query" in asked.path]
        return [options for options in asked if "outFields" in options]

    @property
    def paged(self) -> bool:
        """Whether it knows offsets; one that does not ignores them, as real ones do."""
        return bool((self.metadata().get("advancedQueryCapabilities") or {}).get("supportsPagination"))

    def respond(self, asked: Asked) -> Answer | None:
        path, options = asked.path.partition("?")[0], options_of(asked)
        if path == "/sharing/rest/content/items/abc":
            return answer({"id": "abc", "url": self.url.removesuffix("/4")})
        if path == LAYER:
            return answer(self.spoil(options, self.metadata()))
        if path == f"{LAYER}/query":
            return answer(self.spoil(options, self.query(options)))
        return None

    def metadata(self) -> dict[str, Any]:
        return {
            "name": "cover",
            "geometryType": "esriGeometryPolygon",
            "objectIdField": "OBJECTID",
            "maxRecordCount": 1000,
            "supportedQueryFormats": "JSON, geoJSON, PBF",
            "advancedQueryCapabilities": {"supportsPagination": True},
            "fields": [
                {"name": "OBJECTID", "type": "esriFieldTypeOID"},
                {"name": "code", "type": "esriFieldTypeString"},
            ],
            "extent": {"spatialReference": {"wkid": 102100, "latestWkid": 3857}},
            "editingInfo": {"lastEditDate": 1_600_000_000_000},
        } | self.layer

    def query(self, options: dict[str, str]) -> Any:
        to_degrees = Transformer.from_crs(f"EPSG:{options['inSR']}", "EPSG:4326", always_xy=True)
        west, south, east, north = map(float, options["geometry"].split(","))
        box = shapely.box(*to_degrees.transform(west, south), *to_degrees.transform(east, north))
        found = [entry for entry in self.features if entry[2] is None or entry[2].intersects(box)]
        if options.get("returnCountOnly"):
            return {"count": len(found)}
        if options.get("returnIdsOnly"):
            return {"objectIdFieldName": "OBJECTID", "objectIds": [entry[0] for entry in found] or None}
        assert options["outSR"] == "4326"
        start, size = 0, self.metadata()["maxRecordCount"]
        if self.paged:
            assert options["orderByFields"] == "OBJECTID" and options["where"] == "1=1"
            found.sort(key=lambda entry: entry[0])
            start, size = int(options["resultOffset"]), min(int(options["resultRecordCount"]), size)
        elif options["where"] != "1=1":
            first, last = map(int, re.fullmatch(r"OBJECTID >= (\d+) AND OBJECTID <= (\d+)", options["where"]).groups())
            found = [entry for entry in found if first <= entry[0] <= last]
        page = [feature(entry, options["f"]) for entry in found[start : start + size]]
        return {"features": page, "exceededTransferLimit": start + size < len(found)}


def feature(entry: tuple[int, Any, shapely.Geometry | None], form: str) -> dict[str, Any]:
    number, value, shape = entry
    attributes = {"OBJECTID": number, "code": value}
    if form == "geojson":
        geometry = None if shape is None else json.loads(shapely.to_geojson(shape))
        return {"type": "Feature", "id": number, "properties": attributes, "geometry": geometry}
    polygons = [] if shape is None else list(shapely.get_parts(shape))
    rings = [shapely.get_coordinates(ring).tolist() for p in polygons for ring in (p.exterior, *p.interiors)]
    return {"attributes": attributes, "geometry": {"rings": rings} if rings else None}


def options_of(asked: Asked) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(asked.path.partition("?")[2]).items()}


def answer(content: Any) -> Answer:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return 200, {"Content-Type": "application/json"}, body
