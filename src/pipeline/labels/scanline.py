"""Polygons to pixels: which spans of each row they cover, and which layer lies on top of a row's stretches.

All arithmetic is on pixel coordinates of the whole grid, so that every window of it sees the same pixels. A window is
a `Shard`: any rectangle of the grid. No array here is as large as the raster, except the one that is asked for. Sorts
are stable ones for speed: what is sorted here consists of a few sorted stretches, which such a sort merges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely

from pipeline.grid import Shard

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Band = npt.NDArray[np.uint8]
Shapes = npt.NDArray[np.object_]
Spans = tuple[Ints, Ints]  # first position and position after the last, counted row by row through a window

MAX_LAYERS = 48  # at once: a layer is a bit of an integer that a float64 must hold
CHUNK = 1 << 18  # crossings of edges and rows that are sorted at once
TOUCH_PX = 0.01  # what reaches less than this into a pixel does not touch it
NO_SPANS: Spans = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


@dataclass(frozen=True)
class Edges:
    """Edges of polygons in (column, row) pixel coordinates of the grid, (0, 0) its outer corner.

    Attributes:
        x0, y0, x1, y1: ends, float64 [n], y0 <= y1.
        polygon: which polygon an edge belongs to, int64 [n], ascending.
    """

    x0: Floats
    y0: Floats
    x1: Floats
    y1: Floats
    polygon: Ints


def polygon_edges(
    shapes: Shapes, to_pixels: Callable[[Floats], Floats], window: Shard
) -> tuple[Edges, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Edges of the polygons whose bounds reach into `window`.

    Args:
        shapes: polygons and multipolygons, object [n].
        to_pixels: from coordinates [m, 2] of the shapes to (column, row) of the grid; not finite where there is none.
        window: the part of the grid that matters.

    Returns:
        The edges; which shapes reach into the window, bool [n]; which ones have a vertex without pixel coordinates and
        are not among them, bool [n]. The parts of a multipolygon are polygons by themselves, so that those which
        overlap are painted.
    """
    parts, owner = shapes, np.arange(len(shapes))
    if (shapely.get_type_id(shapes) != shapely.GeometryType.POLYGON).any():
        parts, owner = shapely.get_parts(shapes, return_index=True)
    full = ~shapely.is_empty(parts)
    parts, owner = parts[full], owner[full]
    reaching, lost = np.zeros(len(shapes), dtype=bool), np.zeros(len(shapes), dtype=bool)
    if not len(parts):
        return _edges(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, dtype=np.int64)), reaching, lost
    _, points, (rings, polygons) = shapely.to_ragged_array(parts, include_z=False)
    pixels = to_pixels(points)
    first = rings[polygons]
    inside = touches(*bounds(pixels, first[:-1]), window)
    broken = np.logical_or.reduceat(~np.isfinite(pixels).all(axis=1), first[:-1])
    lost[owner[broken]] = True
    inside &= ~lost[owner]
    reaching[owner[inside]] = True
    number = np.repeat(np.arange(len(parts)), np.diff(first))
    open_ended = np.ones(len(points), dtype=bool)
    open_ended[rings[1:] - 1] = False  # a ring's last point repeats its first
    starts = np.flatnonzero(open_ended & inside[number])
    return _edges(pixels[starts], pixels[starts + 1], number[starts]), reaching, lost


def _edges(begin: Floats, end: Floats, polygon: Ints) -> Edges:
    down = (begin[:, 1] <= end[:, 1])[:, None]
    (x0, y0), (x1, y1) = np.where(down, begin, end).T.copy(), np.where(down, end, begin).T.copy()
    return Edges(x0, y0, x1, y1, polygon)


def bounds(pixels: Floats, first: Ints) -> tuple[Floats, Floats]:
    """Lowest and highest (column, row), float64 [n, 2], of stretches of `pixels` [m, 2] that begin at `first` [n]."""
    return np.minimum.reduceat(pixels, first), np.maximum.reduceat(pixels, first)


def touches(low: Floats, high: Floats, window: Shard) -> npt.NDArray[np.bool_]:
    """Which bounds reach into a window, bool [n]."""
    first = np.array([window.col_px, window.row_px])
    last = first + np.array([window.width, window.height])
    inside: npt.NDArray[np.bool_] = np.all((low < last) & (high > first), axis=1)
    return inside


def centre_spans(edges: Edges, window: Shard) -> Spans:
    """Spans of the pixels whose centre lies inside a polygon (even-odd); one span per polygon and stretch of a row.

    A centre on an edge belongs to the polygon below or to the left of it, as with GDAL.
    """
    first = np.maximum(np.ceil(edges.y0 - 0.5), window.row_px).astype(np.int64)
    last = np.minimum(np.ceil(edges.y1 - 0.5), window.row_px + window.height).astype(np.int64)
    found = [_paired(edges, rows, first, last - first, window) for rows in _chunks(edges, first, last)]
    return _joined(found)


def _chunks(edges: Edges, first: Ints, last: Ints) -> Iterator[Ints]:
    """Indices of edges that cross rows, cut between polygons so that each piece has about CHUNK crossings."""
    crossing = np.flatnonzero(last > first)
    if not len(crossing):
        return
    total = np.cumsum((last - first)[crossing])
    polygon = edges.polygon[crossing]
    cuts = np.searchsorted(total, np.arange(CHUNK, total[-1], CHUNK))
    ends = np.unique(np.searchsorted(polygon, polygon[cuts], side="right")) if len(cuts) else cuts
    yield from (part for part in np.split(crossing, ends) if len(part))


def _paired(edges: Edges, chosen: Ints, first: Ints, count: Ints, window: Shard) -> Spans:
    """Where the rows' centre lines cross the chosen edges: sorted along each row, two by two a span."""
    number = count[chosen]
    row = _counted_up(first[chosen], number)
    slope = (edges.x1[chosen] - edges.x0[chosen]) / (edges.y1[chosen] - edges.y0[chosen])
    x0, y0, slope = (np.repeat(of, number) for of in (edges.x0[chosen], edges.y0[chosen], slope))
    x = (row + 0.5 - y0) * slope + x0
    column = np.clip(np.floor(x + 0.5) - window.col_px, 0, window.width).astype(np.int64)
    column_bits, row_bits = window.width.bit_length(), window.height.bit_length()
    polygon = np.repeat(edges.polygon[chosen], number)
    keys = (polygon << row_bits | (row - window.row_px)) << column_bits | column
    keys.sort(kind="stable")
    begin, end = keys[0::2], keys[1::2]
    wide = begin < end
    begin, end = begin[wide], end[wide]
    row_start = (begin >> column_bits & ((1 << row_bits) - 1)) * window.width
    mask = (1 << column_bits) - 1
    return row_start + (begin & mask), row_start + (end & mask)


def _counted_up(first: Ints, count: Ints) -> Ints:
    """first[0], first[0] + 1, … (count[0] of them), first[1], …"""
    before = np.cumsum(count) - count
    counted: Ints = np.arange(int(count.sum())) + np.repeat(first - before, count)
    return counted


def touched_spans(edges: Edges, window: Shard) -> Spans:
    """Spans of the pixels that a polygon touches by more than a hundredth of a pixel: its inside and its edges."""
    first = np.maximum(np.floor(edges.y0 + TOUCH_PX), window.row_px).astype(np.int64)
    last = np.minimum(np.ceil(edges.y1 - TOUCH_PX), window.row_px + window.height).astype(np.int64)
    found = [centre_spans(edges, window)]
    for chosen in _chunks(edges, first, last):
        number = (last - first)[chosen]
        row = _counted_up(first[chosen], number)
        x0, y0, x1, y1 = (np.repeat(ends[chosen], number) for ends in (edges.x0, edges.y0, edges.x1, edges.y1))
        slope = np.divide(x1 - x0, y1 - y0, out=np.zeros_like(x0), where=y1 > y0)
        top = np.where(y0 > row, x0, (row - y0) * slope + x0)
        bottom = np.where(y1 < row + 1, x1, (row + 1 - y0) * slope + x0)
        left = np.clip(np.floor(np.minimum(top, bottom) + TOUCH_PX) - window.col_px, 0, window.width).astype(np.int64)
        right = np.clip(np.ceil(np.maximum(top, bottom) - TOUCH_PX) - window.col_px, 0, window.width).astype(np.int64)
        wide = left < right
        row_start = (row - window.row_px)[wide] * window.width
        found.append((row_start + left[wide], row_start + right[wide]))
    return _joined(found)


def coarse_window(window: Shard, factor: int) -> Shard:
    """The pixels of `factor` x `factor` grid pixels, counted from the grid's corner, that `window` has a part of."""
    row, column = window.row_px // factor, window.col_px // factor
    height = -(-(window.row_px + window.height) // factor) - row
    width = -(-(window.col_px + window.width) // factor) - column
    return Shard(window.name, row, column, height, width)


def coarse_spans(edges: Edges, window: Shard, factor: int) -> Spans:
    """Grid pixels of the pixels of `coarse_window` whose centre lies inside a polygon.

    Args:
        edges: in coordinates of the coarse pixels.
        window: in grid pixels, as the spans are.
        factor: grid pixels along a coarse one.
    """
    coarse = coarse_window(window, factor)
    width = coarse.width
    begin, end = centre_spans(edges, coarse)
    rows = _counted_up(begin // width * factor + (coarse.row_px * factor - window.row_px), np.full(len(begin), factor))
    offset = coarse.col_px * factor - window.col_px
    left = np.repeat(np.maximum(begin % width * factor + offset, 0), factor)
    # The end of a span may lie in the last column, where its remainder would be 0.
    right = np.repeat(np.minimum((begin % width + (end - begin)) * factor + offset, window.width), factor)
    inside = (rows >= 0) & (rows < window.height) & (left < right)
    start = rows[inside] * window.width
    return start + left[inside], start + right[inside]


def _joined(found: Sequence[Spans]) -> Spans:
    if not found:
        return NO_SPANS
    return np.concatenate([begin for begin, _ in found]), np.concatenate([end for _, end in found])


def union(spans: Spans, size: int) -> Spans:
    """Sorted spans without overlap that cover the same of a window's `size` positions."""
    bits = size.bit_length()
    if not len(spans[0]):
        return spans
    packed = spans[0] << bits | spans[1]
    packed.sort(kind="stable")
    begin, end = packed >> bits, packed & ((1 << bits) - 1)
    reach = np.maximum.accumulate(end)
    new = np.ones(len(begin), dtype=bool)
    new[1:] = begin[1:] > reach[:-1]
    first = np.flatnonzero(new)
    return begin[first], reach[np.append(first[1:], len(reach))[: len(first)] - 1]


@dataclass(frozen=True)
class Runs:
    """Stretches of a window, row by row, that have one value each.

    Attributes:
        values: uint8 [n].
        lengths: pixels, int64 [n]; their sum is the window's.
        window: the window.
    """

    values: Band
    lengths: Ints
    window: Shard

    def expand(self, table: Band | None = None) -> Band:
        """The value of each pixel, or what a `table` [256] has for it: uint8 [window.height, window.width]."""
        values = self.values if table is None else table[self.values]
        return np.repeat(values, self.lengths).reshape(self.window.height, self.window.width)


def top_layers(layers: Sequence[Spans], values: Sequence[int], window: Shard) -> Runs:
    """Which of some layers of shapes lies on top.

    Args:
        layers: the spans of each layer, the lowest first, at most MAX_LAYERS.
        values: what each layer paints, 1 to 255; 0 is where no layer is.
        window: the part of the grid that the spans count through.
    """
    size = window.height * window.width
    events = [np.zeros(0, dtype=np.int64)]
    for number, spans in enumerate(layers):
        # The union of a layer toggles its bit at each end: on, off, on …
        events += [position << 6 | number for position in union(spans, size)]
    keys = np.concatenate(events)
    keys.sort(kind="stable")
    position = np.concatenate([[0], keys >> 6, [size]])
    bits = np.bitwise_xor.accumulate(np.left_shift(np.int64(1), keys & 63))
    highest = np.frexp(bits.astype(np.float64))[1]  # 1 + the number of the topmost layer; 0 where there is none
    table = np.array([0, *values], dtype=np.uint8)
    return Runs(np.append(np.uint8(0), table[highest]), np.diff(position), window)
