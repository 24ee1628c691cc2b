"""OpenStreetMap extracts (.osm.pbf) split into GeoPackage layers: roads, railways, water, buildings, land use.

Closed ways and multipolygon relations become areas, with the assembler of libosmium: outer rings split over several
ways, and islands as holes. What could not be assembled is counted and named, never dropped in silence.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import shapely

from pipeline import command
from pipeline.acquire.osm_box import MARGIN_M as MARGIN_M
from pipeline.acquire.osm_box import BBox, cutting_boxes
from pipeline.acquire.osm_box import expand_bbox as expand_bbox
from pipeline.acquire.osm_box import grid_box as grid_box
from pipeline.acquire.osm_layers import Layers
from pipeline.acquire.osm_merge import Account, merge_extract
from pipeline.acquire.osm_read import Boxes, Extract, header_box, read_extract
from pipeline.acquire.osm_tags import LAYER_COLUMNS as LAYER_COLUMNS
from pipeline.errors import DataError
from pipeline.files import atomic_file, write_json

DISK_ERRORS = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)]
SCRATCH = ".scratch.part"
LEAST_OUTSIDE = 0.001  # of the region
LOSSES = {  # key → thing, what became of it
    "relations_missing_members": ("relation", "left out, members missing in the file"),
    "relations_not_assembled": ("relation", "left out, rings not closed or crossing, or nodes missing"),
    "relations_without_tags": ("multipolygon", "left out, tags on the outer way (old style), taken with its islands"),
    "areas_not_assembled": ("way", "left out of the areas, open, nodes missing or rings crossing"),
    "ways_missing_nodes": ("line", "shortened, nodes missing in the file"),
}

Log = Callable[[str], None]


def extract_osm(
    pbfs: Path | str | Sequence[Path | str], bbox: BBox | None, out: Path, summary: Path, *, log: Log
) -> dict[str, Any]:
    """Split .osm.pbf extracts into the layers of `LAYER_COLUMNS`, EPSG:4326, one GeoPackage.

    Args:
        pbfs: one extract or several, of about the same date; what lies in more than one of them is taken once, from
            the first that holds it whole.
        bbox: west, south, east, north in degrees; east may be above 180 (see `grid_box`). Features that touch it,
            widened by 250 m, are kept whole, with longitudes between -180 and 180. None keeps all.
        out: GeoPackage to write; all layers exist, also empty ones. `roads`, `waterways` and `railways` hold
            LineStrings (a way with missing nodes gives one row per stretch that is left), the others MultiPolygons.
            Columns: osm_id (int64), osm_type (way or relation), the raw tag texts of `LAYER_COLUMNS`, and `tags` (all
            tags as JSON). Rows are sorted by type and id; equal input gives equal bytes. A highway that is an area
            is in `road_areas` and not in `roads`.
        summary: JSON to write: the returned dict.
        log: takes lines for the user.

    Returns:
        ``sources``, ``bbox``, ``features`` per layer; ``coastline``: ways, their ids, and km inside of the widened box;
        and sorted ids of what the extracts, box or not, do not hold whole: ``relations_missing_members``,
        ``relations_not_assembled``, ``relations_without_tags`` (old-style multipolygons, whose tags sit on the outer
        way), ``ways_missing_nodes`` and ``areas_not_assembled`` (open ways with the tags of an area too).

    Raises:
        DataError: a file is absent, damaged or no PBF, there is nothing in the box and the files are of other regions
            by their headers, or the disk takes no more; nothing is written then.
    """
    paths = [Path(pbfs)] if isinstance(pbfs, str | Path) else [Path(pbf) for pbf in pbfs]
    out, boxes = Path(out), None if bbox is None else cutting_boxes(expand_bbox(bbox, MARGIN_M))
    reach, outside = ("", 0.0) if bbox is None else _outside(paths, bbox)
    if outside >= LEAST_OUTSIDE:
        log(f"warning: {reach}: {outside:.1%} of it lies outside and gets nothing; name its extract under `osm` too")
    account = Account()
    with _scratch(out) as scratch:
        layers, extracts = Layers(scratch), []
        for position, pbf in enumerate(paths):
            extract = _read(pbf, scratch / str(position), boxes, log)
            merge_extract(extract, position, layers, account)
            extracts.append(extract)
        for extract in extracts:
            account.forgive(extract)
        with atomic_file(out) as temporary:
            features = layers.write(temporary)
            if outside > 1 - 1e-9 and not any(features.values()):
                raise DataError(f"{reach}: it lies outside; take an extract that holds it")
    found = {
        "sources": [pbf.name for pbf in paths],
        "bbox": None if bbox is None else list(bbox),
        "features": features,
        "coastline": account.coastline(boxes),
        **account.losses(),
    }
    write_json(summary, found)
    _report(found, log)
    return found


def _outside(paths: Sequence[Path], bbox: BBox) -> tuple[str, float]:
    """A sentence on what the extracts' headers say to cover, and the share of `bbox` outside; 0 if one says nothing."""
    reach = [header_box(pbf) for pbf in paths]
    if None in reach:
        return "", 0.0
    covered, region = (
        shapely.union_all([part for box in boxes if box is not None for part in cutting_boxes(box)])
        for boxes in (reach, [bbox])
    )
    text = f"{', '.join(map(str, paths))}: covers {[round(edge, 4) for edge in covered.bounds]}, the region is"
    text += f" {[round(edge, 4) for edge in bbox]} (west, south, east, north)"
    return text, shapely.difference(region, covered).area / region.area if region.area else 0.0


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder beside `out` for what the work leaves, removed at its end; a full disk below is one DataError."""
    folder = out.with_name(f".{out.stem}{SCRATCH}")  # a fixed name: what a killed run left goes first
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        yield folder
    except (OSError, RuntimeError) as error:  # GDAL's and libosmium's are RuntimeErrors
        raise DataError(f"{out.parent}: cannot be written to ({error}); free space there and run again") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read(pbf: Path, folder: Path, boxes: Boxes, log: Log) -> Extract:
    """Read one extract; whatever libosmium says about a broken one is a DataError that names it."""
    if not pbf.is_file():
        raise DataError(
            f"the OSM extract {str(pbf)!r} does not exist; download one, for example from a regional mirror"
        )

    def tick(shapes: int) -> None:
        if isinstance(log, command.Log):
            log.progress(f"{pbf.name}: {shapes} shapes read")

    try:
        return read_extract(pbf, folder, boxes, tick)
    except RuntimeError as error:
        if any(part in str(error) for part in (*DISK_ERRORS, "resize file", "Write ", "write ", SCRATCH)):
            raise
        if "out of order" in str(error):
            raise DataError(f"{pbf}: is not sorted by type and id ({error}); sort it with `osmium sort`") from None
        if pbf.suffix.lower() != ".pbf":
            raise DataError(
                f"{pbf}: is no .osm.pbf; polygons of another kind go under `landcover`, kind: vector"
            ) from None
        raise DataError(f"{pbf}: is damaged or no .osm.pbf ({error}); download the extract again") from None


def _report(found: dict[str, Any], log: Log) -> None:
    features: dict[str, int] = found["features"]
    sources = ", ".join(found["sources"])
    log(f"{sources}: " + ", ".join(f"{count} {name}" for name, count in features.items()))
    if not any(features.values()):
        log(f"warning: {sources} has no feature in the box {found['bbox']}; is it the extract of this region?")
    coast = found["coastline"]
    if coast["ways"]:
        length = f"{coast['km']:.1f} km of coastline ({_count(coast['ways'], 'way')})"
        log(f"warning: {length}: the sea is no polygon in OSM: paint it from a land cover")
    for key, (thing, text) in LOSSES.items():
        ids = found[key]
        if ids:
            log(f"{_count(len(ids), thing)} {text}: {', '.join(map(str, ids[:5]))}{', …' if len(ids) > 5 else ''}")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
