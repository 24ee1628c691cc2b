"""Two label rasters of a region pixel by pixel: confusion counts, shares that differ, and what pictures of them need.

Rasters are read in strips of 256 rows, so that memory does not grow with the region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio

from pipeline.acquire.class_raster import check_on_grid
from pipeline.acquire.shards import GDAL_OPTIONS, Mosaic
from pipeline.config import IGNORE, TRUTH, ClassScheme
from pipeline.errors import ConfigError, DataError
from pipeline.files import atomic_file, write_json
from pipeline.grid import Grid, Shard
from pipeline.labels.statistics import IGNORED, M2_PER_KM2, area_text, pixel_area_m2, require_shards
from pipeline.labels.views import Band, Thinner, View, close_up_of, with_image

STRIP_PX = 256
PIECE_PX = 1 << 21  # pixels counted at once: bincount needs eight bytes for each
VALUES = 256

Counts = npt.NDArray[np.int64]
Log = Callable[[str], None]


@dataclass(frozen=True)
class Labels:
    """One side of a comparison.

    Attributes:
        name: the recipe, or ``truth``.
        place: the folder of the recipe's shard GeoTIFFs, or one GeoTIFF that covers the region's grid.
    """

    name: str
    place: Path

    @staticmethod
    def of(name: str, place: Path, truth: Path | None) -> Labels:
        """The recipe `name` of a region whose data lie in the folder `place`, or its raster `truth` under that name."""
        return Labels(name, truth if name == TRUTH and truth is not None else place / "labels" / name)


@dataclass(frozen=True)
class Comparison:
    """What `compare_labels` found: the content of summary.json and two views.

    `counts` is [K + 1, K + 1] int64, rows `a`, columns `b`, the last of each the ignored pixels. `close_up` is the part
    with most pixels that differ; None where none does, or where the overview already shows every pixel as large.
    """

    names: tuple[str, str]
    counts: Counts
    summary: dict[str, Any]
    overview: View
    close_up: View | None

    def headline(self) -> list[str]:
        """What differs and what one alone labels, a line each."""
        return _headline(self.summary)


def compare_labels(
    region: str,
    a: Labels,
    b: Labels,
    scheme: ClassScheme,
    grid: Grid,
    imagery: Path | None,
    out: Path,
    summary: Path,
    *,
    log: Log,
) -> Comparison:
    """Compare two label rasters of a region.

    Args:
        region: its name, for messages.
        a, b: the two sides.
        scheme: all K classes.
        grid: the region's grid.
        imagery: folder of the imagery's shards to lay under the pictures, if any.
        out: CSV to write: the confusion counts, rows `a`, columns `b`, ``ignored`` last, with names.
        summary: JSON to write: pixels and area_km2 of the grid; ``compared`` (labelled by both), ``only_a``, ``only_b``
            and ``ignored_by_both``: pixels and share of the grid; ``disagreement``: pixels, area_km2 and share of the
            compared pixels; ``mean_iou`` over classes that either side has; ``classes``: name → iou, and for each side
            its compared pixels and the share of them to which the other gives another class; ``close_up``: the window.
            All of the grid counts, with or without imagery. Shares of nothing are None. Areas are on the ground
            (`pipeline.labels.statistics.pixel_area_m2`).
        log: takes lines for the user.

    Raises:
        ConfigError: both sides are the same.
        DataError: shards are absent, unreadable, off the grid, or hold values that are no class.
    """
    if a == b:
        raise ConfigError(f"labels {a.name!r} are compared with themselves; give two recipes, or a recipe and 'truth'")
    both = [_shard_paths(region, side, grid) for side in (a, b)]
    thin = Thinner(grid)
    table = np.zeros((VALUES, VALUES), dtype=np.int64)
    area_m2 = differ_m2 = 0.0
    with rasterio.Env(**GDAL_OPTIONS), Mosaic(*both[0]) as left, Mosaic(*both[1]) as right:
        for shard in grid.shards():
            counts = np.zeros_like(table)
            for row, height in _strips(shard):
                ours, theirs = (side.read(row, shard.col_px, height, shard.width)[0][0] for side in (left, right))
                counts += _pair_counts(ours, theirs)
                thin.add(row, shard.col_px, ours, theirs)
            per_pixel = pixel_area_m2(grid, shard)
            area_m2 += per_pixel * shard.height * shard.width
            differ_m2 += per_pixel * _differing(counts)
            table += counts
        overview, close_up = thin.view(), None
        if (window := thin.worst()) is not None:
            close_up = close_up_of(left, right, *window)
        if imagery is not None:
            overview, close_up = with_image(imagery, grid, overview, close_up)
    counts = _known(table, len(scheme.names), (a, b))
    names = (a.name, b.name)
    facts = _facts(names, counts, scheme.names, area_m2, differ_m2, close_up)
    _write_csv(out, names, counts, [*scheme.names, IGNORED])
    write_json(summary, {"region": region, **facts})
    _report(region, facts, log)
    return Comparison(names, counts, facts, overview, close_up)


def _shard_paths(region: str, side: Labels, grid: Grid) -> tuple[dict[str, Path], Grid]:
    """The files of one side by shard name, and the grid that names them: a raster of the whole region is one shard."""
    if side.place.is_file():
        check_on_grid(side.place, grid)
        return {"r00c00": side.place}, replace(grid, shard_px=max(grid.width, grid.height))
    paths = {shard.name: side.place / f"{shard.name}.tif" for shard in grid.shards()}
    require_shards(paths.values(), side.name, f"data/{region}/labels/{side.name}/summary.json")
    return paths, grid


def _strips(shard: Shard) -> Iterator[tuple[int, int]]:
    """(first row on the grid, rows) of each strip of a shard."""
    end = shard.row_px + shard.height
    for row in range(shard.row_px, end, STRIP_PX):
        yield row, min(STRIP_PX, end - row)


def _pair_counts(a: Band, b: Band) -> Counts:
    """How often each pair of values occurs, int64 [256, 256]."""
    counts = np.zeros(VALUES**2, dtype=np.int64)
    rows = max(1, PIECE_PX // a.shape[1])
    for row in range(0, len(a), rows):
        pairs = a[row : row + rows].astype(np.uint16) << 8 | b[row : row + rows]
        counts += np.bincount(pairs.ravel(), minlength=VALUES**2)
    return counts.reshape(VALUES, VALUES)


def _differing(counts: Counts) -> int:
    """Pixels that both sides give a class, and not the same."""
    inside = counts[:IGNORE, :IGNORE]
    return int(inside.sum() - np.trace(inside))


def _known(table: Counts, classes: int, sides: tuple[Labels, Labels]) -> Counts:
    """The counts of all classes and of 255; DataError for any other value."""
    for side, axis in zip(sides, (1, 0), strict=True):
        strange = np.flatnonzero(table.sum(axis=axis)[classes:IGNORE])
        if strange.size:
            raise DataError(
                f"{side.place}: labels {side.name!r} hold the value {classes + int(strange[0])}, "
                f"the class scheme ends at {classes - 1}"
            )
    kept = [*range(classes), IGNORE]
    return table[np.ix_(kept, kept)]


def _facts(
    names: tuple[str, str],
    counts: Counts,
    classes: list[str],
    area_m2: float,
    differ_m2: float,
    close_up: View | None,
) -> dict[str, Any]:
    total, inside = int(counts.sum()), counts[:-1, :-1]
    compared, differ = int(inside.sum()), int(inside.sum() - np.trace(inside))
    in_a, in_b, same = inside.sum(axis=1), inside.sum(axis=0), np.diag(inside)
    union = in_a + in_b - same
    entries = {
        name: {
            "iou": _ratio(same[k], union[k]),
            "a": {"pixels": int(in_a[k]), "differ": _ratio(in_a[k] - same[k], in_a[k])},
            "b": {"pixels": int(in_b[k]), "differ": _ratio(in_b[k] - same[k], in_b[k])},
        }
        for k, name in enumerate(classes)
    }
    ious = [entry["iou"] for entry in entries.values() if entry["iou"] is not None]
    parts = {
        "compared": compared,
        "only_a": int(counts[:-1, -1].sum()),
        "only_b": int(counts[-1, :-1].sum()),
        "ignored_by_both": int(counts[-1, -1]),
    }
    return {
        "a": names[0],
        "b": names[1],
        "pixels": total,
        "area_km2": area_m2 / M2_PER_KM2,
        **{name: {"pixels": count, "share": count / total} for name, count in parts.items()},
        "disagreement": {
            "pixels": differ,
            "share": _ratio(differ, compared),
            "area_km2": differ_m2 / M2_PER_KM2,
        },
        "mean_iou": _ratio(sum(ious), len(ious)),
        "classes": entries,
        "close_up": None if close_up is None else close_up.window(),
    }


def _ratio(part: Any, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None


def _write_csv(path: Path, names: tuple[str, str], counts: Counts, classes: list[str]) -> None:
    lines = [",".join([f"{names[0]} (rows) / {names[1]} (columns)", *classes])]
    lines += [",".join([name, *map(str, row)]) for name, row in zip(classes, counts.tolist(), strict=True)]
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _report(region: str, facts: dict[str, Any], log: Log) -> None:
    place = f"{facts['a']} and {facts['b']} of {region}"
    ground = f"{area_text(facts['area_km2'])} with or without imagery"
    log(f"{place}, {ground}: {'; '.join(_headline(facts))}")
    ious = [f"{name} {entry['iou']:.3f}" for name, entry in facts["classes"].items() if entry["iou"] is not None]
    if ious:
        log(f"{place}: IoU {', '.join(ious)}")


def _headline(facts: dict[str, Any]) -> list[str]:
    """Two lines: a share that differs says little where one side alone has labels."""
    disagreement, one = facts["disagreement"], [facts["only_a"]["share"], facts["only_b"]["share"]]
    differ = "no pixel is labelled by both"
    if disagreement["share"] is not None:
        area = area_text(disagreement["area_km2"])
        differ = f"{disagreement['share']:.2%} of the pixels labelled by both differ ({area})"
    sides = f" ({facts['a']} {one[0]:.2%}, {facts['b']} {one[1]:.2%})" if sum(one) else ""
    return [differ, f"{sum(one):.2%} of all pixels are labelled by one alone{sides}"]
