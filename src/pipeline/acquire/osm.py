"""An OpenStreetMap extract (.osm.pbf) split into GeoPackage layers: roads, waterways, water, buildings, landuse.

Closed ways and multipolygon relations become areas, with the assembler of libosmium: outer rings split over several
ways, and islands as holes. What could not be assembled is counted and named, never dropped in silence.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import osmium
import pyogrio
import shapely
from osmium import filter as osmium_filter
from osmium.osm import AREA, RELATION, WAY
from rasterio.crs import CRS
from rasterio.warp import transform_bounds

from pipeline import command
from pipeline.errors import DataError
from pipeline.files import atomic_file, write_json
from pipeline.grid import Grid

BBox = tuple[float, float, float, float]
LINE_COLUMNS = ("width", "lanes", "tracktype", "tunnel", "bridge", "area", "layer", "name")
LAYER_COLUMNS: dict[str, tuple[str, ...]] = {
    "roads": ("highway", *LINE_COLUMNS),
    "waterways": ("waterway", *LINE_COLUMNS),
    "water": ("natural", "water", "waterway", "landuse", "layer", "name"),
    "buildings": ("building", "layer", "name"),
    "landuse": ("landuse", "natural", "leisure", "layer", "name"),
}
LINE_LAYERS = {"roads": "highway", "waterways": "waterway"}
AREA_KEYS = ("natural", "water", "waterway", "landuse", "leisure", "building")
WATER_LANDUSE = ("reservoir", "basin")
# Closed lines that surround no area of the feature's kind: the inside of a coastline is an island.
LINEAR_NATURAL = ("coastline", "cliff", "ridge", "arete", "valley", "tree_row", "earth_bank", "gully")
MARGIN_M = 250.0  # half the widest line a recipe may ask for
BIG_FILE_BYTES = 256 << 20  # above this size node locations go to a file instead of to memory
BATCH = 20_000
NODES = ".nodes."  # name of the scratch folder of node locations
DISK_ERRORS = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)]

Log = Callable[[str], None]


def expand_bbox(bbox: BBox, margin_m: float) -> BBox:
    """Return `bbox` (west, south, east, north; degrees) widened by at least `margin_m` metres on every side."""
    west, south, east, north = bbox
    lat_deg = margin_m / 110_500.0
    widest = min(89.0, max(abs(south - lat_deg), abs(north + lat_deg)))
    lon_deg = margin_m / (110_500.0 * math.cos(math.radians(widest)))
    return west - lon_deg, south - lat_deg, east + lon_deg, north + lat_deg


def grid_box(grid: Grid) -> BBox:
    """The box (west, south, east, north; degrees) around all of the grid, whose edges are bent in degrees.

    A grid across the antimeridian or over a pole gets all longitudes.
    """
    west, south, east, north = transform_bounds(
        CRS.from_user_input(grid.crs), CRS.from_epsg(4326), *grid.bounds, densify_pts=101
    )
    if west >= east:
        west, east = -180.0, 180.0
    return round(west, 7), round(south, 7), round(east, 7), round(north, 7)


def extract_osm(pbf: Path, bbox: BBox | None, out: Path, summary: Path, *, log: Log) -> dict[str, Any]:
    """Split an .osm.pbf into the layers of `LAYER_COLUMNS`, EPSG:4326, one GeoPackage.

    Args:
        pbf: the extract.
        bbox: west, south, east, north in degrees (see `grid_box`); features that touch it, widened by 250 m, are
            kept whole. None keeps all.
        out: GeoPackage to write; all layers exist, also empty ones. `roads` and `waterways` hold LineStrings (a way
            with missing nodes gives one row per stretch that is left), the others MultiPolygons. Columns: osm_id
            (int64), osm_type (way or relation), the raw tag texts of `LAYER_COLUMNS`, and `tags` (all tags as JSON).
            Rows are sorted by type and id; equal input gives equal bytes.
        summary: JSON to write: the returned dict.
        log: takes lines for the user.

    Returns:
        ``features`` per layer; ``relations_missing_members``, ``relations_not_assembled``, ``relations_without_tags``
        (old-style multipolygons, whose tags sit on the outer way), ``ways_missing_nodes`` and
        ``areas_not_assembled``, each a sorted list of ids; ``highway_areas``, the count of highways mapped as areas.

    Raises:
        DataError: the file is absent, damaged or no PBF, or the disk takes no more; nothing is written then.
    """
    pbf = Path(pbf)
    with _readable(pbf, Path(out).parent):
        relations = _Relations.read(pbf)
        collector = _Collector(None if bbox is None else expand_bbox(bbox, MARGIN_M))
        _collect(pbf, collector, Path(out).parent, log)
    with atomic_file(out) as temporary:
        features = {name: collector.write(name, temporary) for name in LAYER_COLUMNS}
    missing = relations.missing_members()
    found = {
        "source": pbf.name,
        "bbox": None if bbox is None else list(bbox),
        "features": features,
        "relations_missing_members": missing,
        "relations_not_assembled": sorted(set(relations.members) - set(missing) - collector.assembled),
        "relations_without_tags": sorted(relations.without_tags),
        "ways_missing_nodes": sorted(collector.ways_missing_nodes),
        "areas_not_assembled": sorted(collector.pending_areas),
        "highway_areas": collector.highway_areas,
    }
    write_json(summary, found)
    _report(found, log)
    return found


@contextmanager
def _readable(pbf: Path, scratch: Path) -> Iterator[None]:
    """Turn whatever libosmium says about a broken file, or about writing below `scratch`, into one DataError."""
    if not pbf.is_file():
        raise DataError(
            f"the OSM extract {str(pbf)!r} does not exist; download one, for example from a regional mirror"
        )
    try:
        yield
    except RuntimeError as error:
        if any(part in str(error) for part in (*DISK_ERRORS, "resize file", "Write ", "write ", NODES)):
            raise DataError(f"{scratch}: cannot be written to ({error}); free space there and run again") from None
        raise DataError(f"{pbf}: is damaged or no .osm.pbf ({error}); download the extract again") from None


def _source(pbf: Path) -> Any:
    return osmium.io.File(str(pbf), "pbf")


class _Relations:
    """Area relations of the file: their member ways, and which of these the file holds."""

    def __init__(self) -> None:
        self.members: dict[int, set[int]] = {}
        self.without_tags: set[int] = set()
        self.present: set[int] = set()

    @classmethod
    def read(cls, pbf: Path) -> _Relations:
        found = cls()
        kinds = osmium_filter.TagFilter(("type", "multipolygon"), ("type", "boundary"))
        relations: Any = osmium.FileProcessor(_source(pbf), RELATION).with_filter(kinds)
        for relation in relations:
            tags = relation.tags
            if _area_layers(tags):
                found.members[relation.id] = {member.ref for member in relation.members if member.type == "w"}
            elif all(tag.k in ("type", "source", "created_by") for tag in tags):
                found.without_tags.add(relation.id)
        wanted = set().union(*found.members.values()) if found.members else set()
        if wanted:
            ways = osmium.FileProcessor(_source(pbf), WAY).with_filter(osmium_filter.IdFilter(wanted))
            found.present = {way.id for way in ways}
        return found

    def missing_members(self) -> list[int]:
        return sorted(relation for relation, ways in self.members.items() if not ways <= self.present)


def _area_layers(tags: Any) -> list[str]:
    """Area layers that a closed way or relation with these tags belongs to."""
    layers = []
    if tags.get("building", "no") != "no":
        layers.append("buildings")
    natural, landuse = tags.get("natural"), tags.get("landuse")
    water = natural == "water" or "water" in tags or tags.get("waterway") == "riverbank" or landuse in WATER_LANDUSE
    if water:
        layers.append("water")
    elif landuse is not None or "leisure" in tags or (natural is not None and natural not in LINEAR_NATURAL):
        layers.append("landuse")
    return layers


class _Collector:
    """Gathers features per layer; batches are clipped to the box as they come, so that memory holds the box alone."""

    def __init__(self, box: BBox | None) -> None:
        self.box = box
        self.kept: dict[str, list[tuple[str, int, int, Any, str]]] = {name: [] for name in LAYER_COLUMNS}
        self.batch: dict[str, list[tuple[str, int, int, str, str]]] = {name: [] for name in LAYER_COLUMNS}
        self.factory = osmium.geom.WKBFactory()
        self.assembled: set[int] = set()
        self.pending_areas: set[int] = set()
        self.ways_missing_nodes: set[int] = set()
        self.highway_areas = 0

    def add_way(self, way: Any) -> None:
        tags = way.tags
        if way.is_closed() and tags.get("area") != "no" and _area_layers(tags):
            self.pending_areas.add(way.id)
        for layer, key in LINE_LAYERS.items():
            value = tags.get(key)
            if value is None or (layer == "waterways" and value == "riverbank"):
                continue
            if tags.get("area") == "yes":
                self.highway_areas += layer == "roads"
                continue
            for part, wkb in enumerate(self._line_parts(way)):
                self._add(layer, "way", way.id, part, wkb, tags)

    def add_area(self, area: Any) -> None:
        if area.num_rings()[0] == 0:  # libosmium's way of saying that rings are open or cross
            return
        kind, number = ("way" if area.from_way() else "relation"), area.orig_id()
        (self.pending_areas.discard if kind == "way" else self.assembled.add)(number)
        layers = _area_layers(area.tags)
        wkb = self.factory.create_multipolygon(area) if layers else ""
        for layer in layers:
            self._add(layer, kind, number, 0, wkb, area.tags)

    def _line_parts(self, way: Any) -> list[str]:
        try:
            return [self.factory.create_linestring(way)]
        except osmium.InvalidLocationError:
            self.ways_missing_nodes.add(way.id)
        except RuntimeError:  # a single point
            return []
        parts: list[list[tuple[float, float]]] = [[]]
        for node in way.nodes:
            if node.location.valid():
                parts[-1].append((node.location.lon, node.location.lat))
            elif parts[-1]:
                parts.append([])
        lines = [shapely.LineString(part) for part in parts if len(set(part)) > 1]
        return [shapely.to_wkb(line, hex=True) for line in lines]

    def _add(self, layer: str, kind: str, number: int, part: int, wkb: str, tags: Any) -> None:
        text = json.dumps({tag.k: tag.v for tag in tags}, ensure_ascii=False, sort_keys=True)
        self.batch[layer].append((kind, number, part, wkb, text))
        if len(self.batch[layer]) >= BATCH:
            self._clip(layer)

    def _clip(self, layer: str) -> None:
        batch = self.batch[layer]
        self.batch[layer] = []
        if not batch:
            return
        shapes = shapely.from_wkb(np.array([row[3] for row in batch], dtype=object))
        keep = np.ones(len(batch), dtype=bool)
        if self.box is not None:
            keep = shapely.intersects(shapes, shapely.box(*self.box))
        self.kept[layer] += [
            (row[0], row[1], row[2], shape, row[4])
            for row, shape, inside in zip(batch, shapes, keep, strict=True)
            if inside
        ]

    def write(self, layer: str, path: Path) -> int:
        """Write one layer and forget it; return its number of features."""
        self._clip(layer)
        rows = sorted(self.kept.pop(layer), key=lambda row: row[:3])
        tags = [json.loads(row[4]) for row in rows]
        columns: dict[str, Any] = {
            "osm_id": np.array([row[1] for row in rows], dtype=np.int64),
            "osm_type": np.array([row[0] for row in rows], dtype=object),
        }
        for key in LAYER_COLUMNS[layer]:
            columns[key] = np.array([entry.get(key) for entry in tags], dtype=object)
        columns["tags"] = np.array([row[4] for row in rows], dtype=object)
        frame = geopandas.GeoDataFrame(columns, geometry=[row[3] for row in rows], crs="EPSG:4326")
        lines = layer in LINE_LAYERS
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "1970-01-01T00:00:00.000Z"})
        try:
            pyogrio.write_dataframe(
                frame,
                path,
                layer=layer,
                driver="GPKG",
                geometry_type="LineString" if lines else "MultiPolygon",
                promote_to_multi=not lines,
                append=False,
            )
        finally:
            pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
        return len(rows)


def _collect(pbf: Path, collector: _Collector, scratch: Path, log: Log) -> None:
    """One pass over the file; for a big one, node locations lie in a file under `scratch` that is removed after."""
    processor: Any = osmium.FileProcessor(_source(pbf))
    folder = None
    if pbf.stat().st_size > BIG_FILE_BYTES:
        scratch.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=NODES, suffix=".part", dir=scratch)
    try:
        if folder is not None:
            processor = processor.with_locations(f"sparse_file_array,{folder}/locations")
        processor = (
            processor.with_areas(osmium_filter.KeyFilter(*AREA_KEYS))
            .with_filter(osmium_filter.EntityFilter(WAY | AREA))
            .with_filter(osmium_filter.KeyFilter("highway", *AREA_KEYS))
        )
        for number, entity in enumerate(processor, start=1):
            if number % BATCH == 0 and isinstance(log, command.Log):
                log.progress(f"{pbf.name}: {number} ways and areas read")
            if entity.is_way():
                collector.add_way(entity)
            else:
                collector.add_area(entity)
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _report(found: dict[str, Any], log: Log) -> None:
    features: dict[str, int] = found["features"]
    log(f"{found['source']}: " + ", ".join(f"{count} {name}" for name, count in features.items()))
    if not any(features.values()):
        log(f"warning: {found['source']} has no feature in the box {found['bbox']}; is it the extract of this region?")
    for key, text in (
        ("relations_missing_members", "relations left out, members missing in the file"),
        ("relations_not_assembled", "relations left out, rings not closed or crossing"),
        ("relations_without_tags", "multipolygons left out, tags on the outer way (old style)"),
        ("areas_not_assembled", "closed ways left out as areas, nodes missing or rings crossing"),
        ("ways_missing_nodes", "lines shortened, nodes missing in the file"),
    ):
        ids = found[key]
        if ids:
            log(f"{len(ids)} {text}: {', '.join(map(str, ids[:5]))}{', …' if len(ids) > 5 else ''}")
