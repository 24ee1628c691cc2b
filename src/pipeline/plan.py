"""The plan of a region: what its imagery, labels and chips will cost in requests, hours and disk. Asks no server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.acquire.keys import public
from pipeline.config import ChipConfig, RegionConfig, check_recipe
from pipeline.errors import ConfigError, PipelineError
from pipeline.extent import grid_of
from pipeline.grid import Grid, Shard
from pipeline.sources._base import SECRET, Asked, ImagerySource, Layout, TiledSource
from pipeline.sources.raster import Source as RasterSource

LATENCY_S = 0.25  # from question to answer over the internet, where the config gives no rate
RGB = 3
# Sizes of lossless GeoTIFFs beside their pixels. Aerial images in ../shared/data measure 0.2 to 0.7 of a byte a sample.
IMAGE_SHARE = 0.7
CLASS_SHARE = 0.03  # a raster of classes or of their sources; few, large shapes


def plan_region(
    name: str, region: RegionConfig, grid: Grid, recipes: list[str], place: Path, *, free: int | None = None
) -> dict[str, Any]:
    """The plan as plain data.

    Args:
        name: of the region.
        region: its config.
        grid: its pixel grid.
        recipes: label recipes to count, see `fitting_recipes`.
        place: the region's folder below data/; extracts that lie there already have a size.
        free: bytes free on disk; default: those of the file system that `place` is on.

    Returns:
        ``grid``, ``imagery`` (source → tiles, requests, bytes, hours, why it is off), ``zooms``, ``osm``,
        ``landcover``, ``labels``, ``chips``, ``disk`` (bytes by kind, their total, what is free) and
        ``unknown``, what no number stands for. Sizes are bytes, times hours; None is unknown.

    Raises:
        DataError: a source's tiles do not lie on the grid.
    """
    chips = chip_count(grid, region.chips)
    imagery = {key: _imagery(key, source, grid, region, chips) for key, source in region.imagery.items()}
    labels = {recipe: _labels(grid, region.chips, chips) for recipe in recipes}
    landcover = {key: _landcover(key, entry, grid) for key, entry in region.landcover.items()}
    osm = [_extract(extract, place) for extract in region.osm_extracts]
    plan: dict[str, Any] = {
        "region": name,
        "title": region.title,
        "bbox": region.bbox,
        "grid": _grid(grid, region),
        "imagery": imagery,
        "zooms": _zooms(region),
        "osm": osm,
        "landcover": landcover,
        "labels": labels,
        "chips": {"px": region.chips.px, "count": chips},
    }
    plan["disk"] = _disk(plan, shutil.disk_usage(_existing(place)).free if free is None else free)
    plan["unknown"] = _unknown(plan)
    return plan


def fitting_recipes(region: str, root: Path = Path("config")) -> list[str]:
    """The recipes of config/recipes that can be painted in the region: those whose sources and classes it has."""
    found = []
    for path in sorted((root / "recipes").glob("*.yaml")):
        try:
            check_recipe(region, path.stem, root)
        except ConfigError:
            continue
        found.append(path.stem)
    return found


def chip_count(grid: Grid, chips: ChipConfig) -> int:
    """Chips of the regular grid; as many as have imagery and labels everywhere."""
    counts = [max(0, (size - 2 * chips.margin_px) // chips.px) for size in (grid.height, grid.width)]
    rows, cols = (max(0, count - 2) if chips.drop_outer else count for count in counts)
    return rows * cols


def tile_count(layout: Layout, shard: Shard) -> int:
    """How many tiles touch a shard."""
    top, left, px = layout.row + shard.row_px, layout.col + shard.col_px, layout.tile_px
    rows, cols = (top + shard.height - 1) // px - top // px + 1, (left + shard.width - 1) // px - left // px + 1
    return rows * cols


def _grid(grid: Grid, region: RegionConfig) -> dict[str, Any]:
    pixels = grid.width * grid.height
    return {
        "crs": grid.crs,
        "zoom": region.grid.zoom,
        "width": grid.width,
        "height": grid.height,
        "pixels": pixels,
        "gsd_m": grid.gsd_m,
        "area_km2": pixels * grid.gsd_x_m * grid.gsd_y_m / 1e6,
        "shard_px": grid.shard_px,
        "shards": len(grid.shards()),
    }


def _imagery(name: str, source: ImagerySource, grid: Grid, region: RegionConfig, chips: int) -> dict[str, Any]:
    bands = len(getattr(source, "bands", None) or range(RGB))
    found: dict[str, Any] = {
        "kind": source.kind,
        "attribution": source.attribution,
        "terms": source.terms,
        "off": _hindrances(name, source),
        "requests": None,
        "bytes": None,
        "hours": None,
        "raster_bytes": round(grid.width * grid.height * bands * IMAGE_SHARE),
        "chip_bytes": round(chips * region.chips.px**2 * (bands + 1 / 8)),
    }
    if isinstance(source, TiledSource):
        found |= _tiles(source, source.layout(name, grid, region.grid.zoom), grid)
    elif isinstance(source, RasterSource):
        found |= {"requests": 0, "bytes": 0, "hours": 0.0, "pace": "a local file"}
    return found


def _tiles(source: TiledSource, layout: Layout, grid: Grid) -> dict[str, Any]:
    """Tiles and what fetching them costs; one on the border of two shards is asked for by both."""
    requests = sum(tile_count(layout, shard) for shard in grid.shards())
    per_s, pace = _pace(source)
    return {
        "zoom": layout.zoom,
        "tile_px": layout.tile_px,
        "tiles": tile_count(layout, Shard("", 0, 0, grid.height, grid.width)),
        "requests": requests,
        "bytes": round(requests * source.tile_kb * 1000),
        "hours": requests / per_s / 3600,
        "pace": pace,
    }


def _pace(source: Asked) -> tuple[float, str]:
    """(requests per second, where that comes from)."""
    most = source.connections / LATENCY_S
    text = f"{source.connections} connections, {LATENCY_S:g} s an answer"
    if source.rate_per_s is None or source.rate_per_s >= most:
        return most, text
    return source.rate_per_s, f"{source.rate_per_s:g} requests/s, as its entry says"


def _hindrances(name: str, source: ImagerySource) -> list[str]:
    """Why a source is off now: its terms, keys that the environment lacks."""
    off = source.off(name)
    return [*([off] if off else []), *_missing_keys(f"imagery {name!r}", [source.model_dump_json()])]


def _missing_keys(what: str, texts: list[str]) -> list[str]:
    names = dict.fromkeys(name for text in texts for name in SECRET.findall(text))
    return [
        f"{what} is off: it needs the environment variable {name}, which is not set"
        for name in names
        if not os.environ.get(name)
    ]


def _zooms(region: RegionConfig) -> list[dict[str, Any]]:
    """The same box one zoom lower and one higher: pixels, and what each source's tiles would cost."""
    zoom = region.grid.zoom
    if zoom is None or region.bbox is None:
        return []
    found = []
    for other in (zoom - 1, zoom, zoom + 1):
        try:
            grid = grid_of(region.bbox, other, None, 0.0, region.shard_px)
        except (ConfigError, ValueError):
            continue
        costs = {}
        for name, source in region.imagery.items():
            try:
                layout = source.layout(name, grid, other) if isinstance(source, TiledSource) else None
            except PipelineError:
                continue  # a zoom that the source does not have
            if layout is not None and isinstance(source, TiledSource):
                tiles = _tiles(source, layout, grid)
                costs[name] = {key: tiles[key] for key in ("tiles", "requests", "bytes", "hours")}
        found.append({"zoom": other, "gsd_m": grid.gsd_m, "pixels": grid.width * grid.height, "imagery": costs})
    return found


def _labels(grid: Grid, chips: ChipConfig, count: int) -> dict[str, int]:
    return {
        "raster_bytes": round(2 * grid.width * grid.height * CLASS_SHARE),
        "chip_bytes": round(count * chips.px**2 * (1 + 1 / 8)),
    }


def _landcover(name: str, entry: Any, grid: Grid) -> dict[str, Any]:
    path, url = getattr(entry, "path", None), getattr(entry, "url", None)
    urls = [url] if isinstance(url, str) else list(url or [])
    return {
        "kind": entry.kind,
        "from": str(path) if path else public(", ".join(urls)),
        "local": path is not None,
        "attribution": entry.attribution,
        "terms": entry.terms,
        "off": _missing_keys(f"land cover {name!r}", urls),
        "bytes": _size(path) if path else None,
        "raster_bytes": round(grid.width * grid.height * CLASS_SHARE),
    }


def _extract(extract: Any, place: Path) -> dict[str, Any]:
    path = extract.path or place / "osm" / extract.file_name
    return {
        "name": extract.file_name,
        "from": str(extract.path or public(str(extract.url))),
        "local": extract.path is not None,
        "off": _missing_keys(f"the extract {extract.file_name}", [extract.url or ""]),
        "bytes": _size(path),
    }


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _existing(path: Path) -> Path:
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _disk(plan: Mapping[str, Any], free: int) -> dict[str, Any]:
    imagery, labels = plan["imagery"].values(), plan["labels"].values()
    parts = {
        "cache": sum(entry["bytes"] or 0 for entry in imagery),
        "imagery": sum(entry["raster_bytes"] for entry in imagery),
        "osm": sum(entry["bytes"] or 0 for entry in plan["osm"] if not entry["local"]),
        "landcover": sum(entry["raster_bytes"] for entry in plan["landcover"].values()),
        "labels": sum(entry["raster_bytes"] for entry in labels),
        "chips": sum(entry["chip_bytes"] for entry in [*imagery, *labels]),
    }
    total = sum(parts.values())
    return {**parts, "total": total, "free": free, "enough": total <= free}


def _unknown(plan: Mapping[str, Any]) -> list[str]:
    """What the numbers leave out, one line each."""
    lines = [
        f"imagery {name}: it is read by window; requests and bytes show only when the server is asked"
        for name, entry in plan["imagery"].items()
        if entry["requests"] is None
    ]
    for name, entry in plan["landcover"].items():
        if entry["bytes"] is None:
            why = f"{entry['from']} is not there yet" if entry["local"] else "its share shows when the server is asked"
            lines.append(f"land cover {name}: {why}")
    for entry in plan["osm"]:
        if entry["bytes"] is None:
            why = (
                f"{entry['from']} is not there yet"
                if entry["local"]
                else "not downloaded yet, its server knows its size"
            )
            lines.append(f"OSM extract {entry['name']}: {why}")
    return lines
