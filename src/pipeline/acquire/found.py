"""Which files a windowed source reads for a region: asked once, then remembered in the cache."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from pipeline.acquire.fetch import Fetcher
from pipeline.acquire.hosts import holding
from pipeline.acquire.osm_box import grid_box
from pipeline.files import canonical_json, read_json, write_json
from pipeline.grid import Grid
from pipeline.sources._base import Asked, Bbox, SourceFile, WindowedSource

DAY_S = 86_400.0


def files_of(source: WindowedSource, grid: Grid, fetcher: Fetcher | None, folder: Path) -> list[SourceFile]:
    """The files of `source` for the region, those on top first.

    What a catalogue answered is kept in ``<folder>/files-<hash of the source and the box>.json``, so that all shards
    and re-runs read the same files; nothing is kept where an address holds a key.

    Raises:
        DataError, DownloadError: as `WindowedSource.files`.
    """
    bbox = grid_box(grid)
    if fetcher is None or source.kind != "stac":
        return source.files(bbox, _nobody)
    asked = canonical_json([source.model_dump(mode="json"), list(bbox)])
    path = folder / f"files-{hashlib.sha256(asked.encode()).hexdigest()[:10]}.json"
    with holding(path.with_suffix(".lock"), f"{fetcher.label}: waiting for another search", fetcher.log):
        if path.is_file() and not _too_old(path, source):
            return [_file(entry) for entry in read_json(path)]
        files = source.files(bbox, lambda url, body: _get_json(fetcher, url, body))
        if all(fetcher.public(place) == place for file in files for place in file.places):
            write_json(path, [{"places": file.places, "bbox": file.bbox} for file in files])
    return files


def _get_json(fetcher: Fetcher, url: str, body: dict[str, Any] | None) -> Any:
    with fetcher.turn(url):
        return fetcher.get_json(url, body)


def _nobody(url: str, body: dict[str, Any] | None) -> Any:
    raise AssertionError(f"a source of files asked for {url}")


def _too_old(path: Path, source: WindowedSource) -> bool:
    days = source.max_age_days if isinstance(source, Asked) else None
    return days is not None and time.time() - path.stat().st_mtime > days * DAY_S


def _file(entry: dict[str, Any]) -> SourceFile:
    box: Bbox | None = None if entry["bbox"] is None else tuple(entry["bbox"])
    return SourceFile(tuple(entry["places"]), box)
