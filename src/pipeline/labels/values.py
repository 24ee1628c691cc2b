"""Which of the tag values that a recipe names occur on the ground: a misspelt one leaves features out in silence."""

from __future__ import annotations

import json
from typing import Any

from pipeline.config import LineLayer, PolygonLayer
from pipeline.labels.widths import TAG_OF_LAYER

VectorLayer = LineLayer | PolygonLayer


def named_values(layer: VectorLayer) -> list[str]:
    """What a recipe's layer names in ``widths_m``, ``grades`` and ``tags``, as ``key=value``, in its order."""
    return [f"{key}={value}" for key, values in _by_key(layer) for value in values]


def occurring(frame: Any, layer: VectorLayer) -> set[str]:
    """Those of `named_values` that features of `frame` have.

    Args:
        frame: table of features with their tags, in columns of their own or as JSON in the column tags.
        layer: the recipe's layer.
    """
    tags = [json.loads(text) for text in frame["tags"]] if layer.tags else []
    found = set()
    for key, values in _by_key(layer):
        has = set(frame[key].to_numpy(dtype=object)) if key in frame else {entry.get(key) for entry in tags}
        found |= {f"{key}={value}" for value in values if value in has}
    return found


def _by_key(layer: VectorLayer) -> list[tuple[str, list[str]]]:
    tags = list((layer.tags or {}).items())
    if not isinstance(layer, LineLayer):
        return tags
    graded = layer.layer == "roads" and "track" in layer.widths_m
    grades = [("tracktype", layer.grades)] if graded and layer.grades else []
    return [(TAG_OF_LAYER[layer.layer], list(layer.widths_m)), *grades, *tags]
