"""What a recipe's labels hold over a whole region: shares of classes and sources, features, area on the ground."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pyproj import CRS, Geod, Transformer

from pipeline.config import ClassScheme, RecipeConfig
from pipeline.errors import DataError
from pipeline.files import read_json, sha256_file, write_json
from pipeline.grid import Grid, Shard

IGNORED = "ignored"
NONE = "none"  # the source of pixels that no layer painted
FEATURE_KEYS = ("painted", "left_out", "absent")
EDGE_POINTS = 20
LARGE_M, LARGE_PARTS = 1e6, 8
M2_PER_KM2 = 1e6

Log = Callable[[str], None]


def pixel_area_m2(grid: Grid, shard: Shard) -> float:
    """Mean area of a shard's pixels on the ground (WGS84 ellipsoid), square metres.

    The shard's outline, 20 points an edge, is measured as a geodesic polygon and divided by its pixels; a shard of more
    than 1000 km in 8 x 8 parts. So the latitude counts in a grid of EPSG:3857, whose pixels shrink towards the poles;
    within a shard all pixels count alike.
    """
    a, _, left, _, e, top = grid.transform(shard.row_px, shard.col_px)
    parts = LARGE_PARTS if max(shard.width * grid.gsd_x_m, shard.height * grid.gsd_y_m) > LARGE_M else 1
    along = np.linspace(0, 1, EDGE_POINTS, endpoint=False)
    zero = np.zeros(EDGE_POINTS)
    across = np.concatenate([along, zero + 1, 1 - along, zero])
    down = np.concatenate([zero, along, zero + 1, 1 - along])
    to_degrees = Transformer.from_crs(CRS.from_user_input(grid.crs), "EPSG:4326", always_xy=True)
    area_m2 = 0.0
    for row, column in np.ndindex(parts, parts):
        x, y = left + a * shard.width * (column + across) / parts, top + e * shard.height * (row + down) / parts
        area_m2 += abs(float(Geod(ellps="WGS84").polygon_area_perimeter(*to_degrees.transform(x, y))[0]))
    return area_m2 / (shard.width * shard.height)


def area_text(area_km2: float) -> str:
    """An area for people: three digits, in m² below a hundredth of a square kilometre."""
    if 0 < area_km2 < 0.01:
        return f"{area_km2 * M2_PER_KM2:,.0f} m²"
    return f"{area_km2:,.0f} km²" if area_km2 >= 100 else f"{area_km2:.3g} km²"


def require_shards(paths: Iterable[Path], name: str, target: str) -> None:
    """DataError when files of the labels `name` are absent; `target` is what makes them."""
    paths = list(paths)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(
            f"labels {name!r}: {len(missing)} of {len(paths)} shard files do not exist, the first is {missing[0]}; "
            f"make them with: snakemake --cores all {target}"
        )


def summarize_labels(
    region: str, name: str, recipe: RecipeConfig, scheme: ClassScheme, grid: Grid, folder: Path, out: Path, *, log: Log
) -> dict[str, Any]:
    """Add up the statistics of all shards of a recipe.

    Args:
        region, name: of the region and the recipe, for messages.
        recipe: the recipe that was painted.
        scheme: all classes.
        grid: the region's grid.
        folder: holds `<shard>_stats.json` of every shard, made by `pipeline.labels.rasterize.rasterize_labels`.
        out: JSON to write: the returned dict.
        log: takes lines for the user.

    Returns:
        ``classes``: name → pixels, share_of_labelled, share (of all pixels), area_km2; ``labelled`` and ``ignored``:
        pixels, share, area_km2; ``sources``: layer (``none`` for background or nothing) → the same; ``features``:
        layer → painted, and left_out by reason, summed over shards, so that a feature in two shards counts twice, and
        one that the OSM layers hold off the grid not at all, and absent, ``key=value`` that the recipe names and no
        feature on the grid has; ``pixels`` and ``area_km2`` of the grid, all of it, with or without imagery;
        ``sha256`` of every file that was read. Areas are on the ground, see `pixel_area_m2`. Shares of nothing are
        None.

    Raises:
        DataError: a shard's statistics are absent, unreadable, or of another recipe or class scheme.
    """
    shards = grid.shards()
    paths = {shard.name: folder / f"{shard.name}_stats.json" for shard in shards}
    require_shards(paths.values(), name, f"data/{region}/labels/{name}/summary.json")
    parts = {"classes": [*scheme.names, IGNORED], "sources": [NONE, *recipe.layers]}
    pixels: dict[str, Counter[str]] = {part: Counter() for part in parts}
    area_m2: dict[str, defaultdict[str, float]] = {part: defaultdict(float) for part in parts}
    features: dict[str, Any] = {}
    for shard in shards:
        stats = _read_stats(paths[shard.name], parts, shard)
        per_pixel = pixel_area_m2(grid, shard)
        for part, names in parts.items():
            for entry in names:
                count = int(stats[part][entry]["pixels"])
                pixels[part][entry] += count
                area_m2[part][entry] += count * per_pixel
        _add_features(features, stats["features"])
    tables = {part: _table(names, pixels[part], area_m2[part]) for part, names in parts.items()}
    found = _summary(region, name, grid, tables) | {
        "features": features,
        "sha256": {path.name: sha256_file(path) for path in paths.values()},
    }
    write_json(out, found)
    _report(found, log)
    _report_gaps(found, log)
    return found


def _read_stats(path: Path, parts: dict[str, list[str]], shard: Shard) -> dict[str, Any]:
    try:
        stats: dict[str, Any] = read_json(path)
        counts = {part: {name: int(entry["pixels"]) for name, entry in stats[part].items()} for part in parts}
        features = {name: [entry[key] for key in FEATURE_KEYS] for name, entry in stats["features"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is no statistics of labels ({error!r}); delete it and run again") from None
    for part, names in parts.items():
        if set(counts[part]) != set(names):
            raise DataError(
                f"{path}: has the {part} {', '.join(sorted(counts[part]))}, expected {', '.join(sorted(names))}: "
                "the recipe or the class scheme changed; delete it and run again"
            )
        if sum(counts[part].values()) != shard.height * shard.width:
            raise DataError(
                f"{path}: its {part} do not add up to {shard.height} x {shard.width} px; delete it and run again"
            )
    if not set(features) <= set(parts["sources"]):
        raise DataError(f"{path}: has features of unknown layers; delete it and run again")
    return stats


def _add_features(features: dict[str, Any], found: dict[str, Any]) -> None:
    for layer, counts in found.items():
        total = features.setdefault(layer, {"painted": 0, "left_out": {}, "absent": counts["absent"]})
        total["painted"] += int(counts["painted"])
        total["absent"] = [value for value in total["absent"] if value in counts["absent"]]
        for reason, count in counts["left_out"].items():
            total["left_out"][reason] = total["left_out"].get(reason, 0) + int(count)


def _table(names: list[str], pixels: Mapping[str, int], area_m2: Mapping[str, float]) -> dict[str, Any]:
    total = sum(pixels.values())
    return {
        name: {
            "pixels": pixels[name],
            "share": pixels[name] / total,
            "area_km2": area_m2[name] / M2_PER_KM2,
        }
        for name in names
    }


def _summary(region: str, name: str, grid: Grid, tables: dict[str, Any]) -> dict[str, Any]:
    classes = tables["classes"]
    ignored = classes.pop(IGNORED)
    labelled = sum(entry["pixels"] for entry in classes.values())
    total = labelled + ignored["pixels"]
    for entry in classes.values():
        entry["share_of_labelled"] = entry["pixels"] / labelled if labelled else None
    area_km2 = sum(entry["area_km2"] for entry in classes.values())
    return {
        "region": region,
        "recipe": name,
        "shards": len(grid.shards()),
        "pixels": total,
        "area_km2": area_km2 + ignored["area_km2"],
        "labelled": {"pixels": labelled, "share": labelled / total, "area_km2": area_km2},
        "ignored": ignored,
        **tables,
    }


def _report(found: dict[str, Any], log: Log) -> None:
    shares = ", ".join(
        f"{name} {entry['share_of_labelled']:.2%}" for name, entry in found["classes"].items() if entry["pixels"]
    )
    place = f"{found['recipe']} of {found['region']}"
    ground = f"{area_text(found['area_km2'])} with or without imagery"
    log(f"{place}, {ground}: {shares or 'nothing is labelled'}; ignored {found['ignored']['share']:.2%} of all")
    painted = ", ".join(f"{name} {entry['share']:.2%}" for name, entry in found["sources"].items() if entry["pixels"])
    log(f"{place}: sources {painted}")


def _report_gaps(found: dict[str, Any], log: Log) -> None:
    """Say which layers painted no feature, and which values that the recipe names no feature has: slips, perhaps."""
    place = f"{found['recipe']} of {found['region']}"
    absent = []
    for layer, counts in found["features"].items():
        values = ", ".join(counts["absent"])
        if counts["painted"]:
            absent += [f"{layer} {values}"] if values else []
            continue
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts["left_out"].items())
        if not reasons:
            log(f"{place}: layer {layer!r} painted nothing: no feature of it lies there")
            continue
        slip = f", and none has {values}" if values else ""
        log(f"warning: {place}: layer {layer!r} painted nothing: its features there are left out ({reasons}){slip}")
    if absent:
        log(f"{place}: the recipe names what no feature there has: {'; '.join(absent)}")
