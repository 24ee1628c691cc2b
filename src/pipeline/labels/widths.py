"""How wide an OSM line is on the ground (width tag, else lanes, else the recipe's default), or why it is left out."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import LineLayer

FOOT_M = 0.3048
INCH_M = 0.0254
MAX_WIDTH_M = 200.0  # a wider width tag is a slip of the mapper
MAX_LANES = 20.0
TAG_OF_LAYER = {"roads": "highway", "waterways": "waterway", "railways": "railway"}

_NUMBER = r"(\d+(?:[.,]\d+)?|[.,]\d+)"
_METRIC = re.compile(_NUMBER + r"\s*(m|metres?|meters?|cm|ft|feet|foot)?\.?", re.IGNORECASE)
_FEET = re.compile(_NUMBER + r"\s*['′’]\s*(?:" + _NUMBER + r"\s*(?:\"|″|”|''))?")
_INCHES = re.compile(_NUMBER + r"\s*(?:\"|″|”|'')")
_UNIT_M = {"": 1.0, "m": 1.0, "c": 0.01, "f": FOOT_M}

PAINTED = ""
OTHER_VALUE = "value not in widths_m"
OTHER_GRADE = "tracktype not in grades"
IN_TUNNEL = "tunnel"
IS_AREA = "area"
OTHER_TAGS = "other tags"


def parse_width_m(text: object) -> float | None:
    """Read an OSM width in metres: ``3.5``, ``3,5``, ``2 m``, ``350 cm``, ``3 ft``, ``12'``, ``6'6"``.

    Returns None for anything else, ranges and lists among it, and for widths of 0 or above 200 m.
    """
    if not isinstance(text, str):
        return None
    width = _metres(text.strip())
    return width if width is not None and 0 < width <= MAX_WIDTH_M else None


def _metres(text: str) -> float | None:
    if match := _METRIC.fullmatch(text):
        return _number(match[1]) * _UNIT_M[(match[2] or "")[:1].lower()]
    if match := _FEET.fullmatch(text):
        return _number(match[1]) * FOOT_M + (_number(match[2]) * INCH_M if match[2] else 0.0)
    if match := _INCHES.fullmatch(text):
        return _number(match[1]) * INCH_M
    return None


def _number(text: str) -> float:
    return float(text.replace(",", "."))


def parse_lanes(text: object) -> float | None:
    """Read an OSM lane count, such as ``2`` or ``1.5``; None for anything else and for counts of 0 or above 20."""
    if not isinstance(text, str) or not re.fullmatch(_NUMBER, text.strip()):
        return None
    lanes = _number(text.strip())
    return lanes if 0 < lanes <= MAX_LANES else None


def left_out_reasons(frame: Any, layer: LineLayer) -> npt.NDArray[np.object_]:
    """Why each line of `frame` is not painted, object [n] of str; "" for a line that is painted.

    Args:
        frame: table of lines with the columns highway, waterway or railway, tracktype, tunnel and area (raw tag
            texts), and tags (JSON) where the layer has a filter.
        layer: the recipe's layer.

    A line is left out when its value is not in ``widths_m``, when none of its tags is among ``tags`` (if given), when
    it is a ``highway=track`` whose tracktype is not in ``grades`` (if given), when it lies in a tunnel or culvert (any
    ``tunnel`` but ``no``), or with ``area=yes``: what is mapped as an area is painted from the layer of areas. Bridges
    are painted. The ``layer`` tag is ignored on purpose: it orders crossings by height and tells nothing about what is
    seen; a tunnel is told by ``tunnel``.
    """
    values = frame[TAG_OF_LAYER[layer.layer]].to_numpy(dtype=object)
    reasons = np.full(len(frame), PAINTED, dtype=object)
    reasons[frame["area"].eq("yes").to_numpy(dtype=bool)] = IS_AREA
    tunnel = frame["tunnel"]
    reasons[(tunnel.notna() & tunnel.ne("no")).to_numpy(dtype=bool)] = IN_TUNNEL
    if layer.layer == "roads" and layer.grades is not None:
        graded = frame["tracktype"].isin(layer.grades).to_numpy(dtype=bool)
        reasons[(values == "track") & ~graded] = OTHER_GRADE
    if layer.tags is not None:
        reasons[~tagged(frame["tags"], layer.tags)] = OTHER_TAGS
    reasons[np.array([value not in layer.widths_m for value in values], dtype=bool)] = OTHER_VALUE
    return reasons


def tagged(tags: Any, wanted: dict[str, list[str]]) -> npt.NDArray[np.bool_]:
    """Which features (a column of all tags as JSON) have one of the wanted values of one of the keys, bool [n]."""
    read = [json.loads(text) for text in tags]
    return np.array([any(entry.get(key) in values for key, values in wanted.items()) for entry in read], dtype=bool)


def line_widths_m(frame: Any, layer: LineLayer) -> npt.NDArray[np.float64]:
    """Width of each line in metres on the ground, float64 [n]; NaN for a line that is left out.

    The width tag counts first (unless ``use_width_tag`` is off), then lanes x ``lane_m`` (when ``lane_m`` is set), then
    the default of ``widths_m``.

    Args:
        frame: as for `left_out_reasons`, with the columns width and lanes besides.
        layer: the recipe's layer.
    """
    values = frame[TAG_OF_LAYER[layer.layer]].to_numpy(dtype=object)
    painted = left_out_reasons(frame, layer) == PAINTED
    widths = np.full(len(frame), np.nan)
    columns = zip(np.flatnonzero(painted), frame["width"][painted], frame["lanes"][painted], strict=True)
    for row, width, lanes in columns:
        tagged = parse_width_m(width) if layer.use_width_tag else None
        if tagged is None and layer.lane_m is not None and (count := parse_lanes(lanes)) is not None:
            tagged = min(count * layer.lane_m, MAX_WIDTH_M)
        widths[row] = layer.widths_m[values[row]] if tagged is None else tagged
    return widths
