"""Shapes and tags joined into the rows of layers, and an account of what the extracts do not hold whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import Geod

from pipeline.acquire import osm_tags
from pipeline.acquire.osm_layers import Layers
from pipeline.acquire.osm_read import Boxes, Extract, Row, shape_rows, whole_ids
from pipeline.acquire.osm_text import Described, describe, is_closed, member_ways, read_objects


class Account:
    """What is coastline, and what was lost; over all extracts, so that what is whole in one of them is no loss."""

    def __init__(self) -> None:
        self.coast: dict[int, tuple[bool, list[bytes]]] = {}
        self.ways_missing_nodes: set[int] = set()
        self.areas_not_assembled: set[int] = set()
        self.relations_missing_members: set[int] = set()
        self.relations_not_assembled: set[int] = set()
        self.relations_without_tags: set[int] = set()

    def forgive(self, extract: Extract) -> None:
        """Strike out what `extract` holds whole."""
        self.ways_missing_nodes -= _among(self.ways_missing_nodes, whole_ids(extract.lines))
        self.areas_not_assembled -= _among(self.areas_not_assembled, whole_ids(extract.areas))
        assembled = whole_ids(extract.relation_areas)
        self.relations_not_assembled -= _among(self.relations_not_assembled, assembled)
        self.relations_missing_members -= _among(self.relations_missing_members, assembled)
        self.relations_missing_members -= self.relations_not_assembled

    def losses(self) -> dict[str, list[int]]:
        """Kind of loss → sorted ids."""
        return {name: sorted(ids) for name, ids in vars(self).items() if isinstance(ids, set)}

    def coastline(self, boxes: Boxes) -> dict[str, Any]:
        """``ways`` and sorted ``ids`` of the coastline that touches the boxes, and ``km`` of it inside of them."""
        shapes = shapely.from_wkb(np.array([wkb for _, parts in self.coast.values() for wkb in parts], dtype=object))
        inside = [shapely.intersection(shapes, box) for box in boxes] if boxes else [shapes]
        geod = Geod(ellps="WGS84")
        metres = sum(geod.geometry_length(shape) for part in inside for shape in part if not shape.is_empty)
        return {"ways": len(self.coast), "km": round(metres / 1000, 3), "ids": sorted(self.coast)}


def _among(ids: set[int], found: npt.NDArray[np.int64]) -> set[int]:
    return set(np.intersect1d(np.fromiter(ids, np.int64), found).tolist()) if ids else set()


def merge_extract(extract: Extract, position: int, layers: Layers, account: Account) -> None:
    """Add the features of the extract read as number `position` to `layers`, and what is lost to `account`."""
    incomplete = _relations(extract, position, layers, account)
    members = set().union(*incomplete.values()) if incomplete else set()
    present, open_areas = _ways(extract, position, layers, account, members)
    if open_areas:
        for _, _, members_text in read_objects(extract.relations):
            open_areas.difference_update(member_ways(members_text))
        account.areas_not_assembled |= open_areas
    for relation, ways in incomplete.items():
        whole = ways <= present
        (account.relations_not_assembled if whole else account.relations_missing_members).add(relation)


def _relations(extract: Extract, position: int, layers: Layers, account: Account) -> dict[int, set[int]]:
    """Add the assembled relations; return those that should be areas and are not, with their member ways."""
    inside = {number: wkb is not None for number, _, wkb in shape_rows(extract.relation_areas)}
    texts, lost = {}, {}
    for number, text, members in read_objects(extract.relations):
        if number in inside:
            if inside[number]:
                texts[number] = text
            continue
        tags = describe(text).tags
        if osm_tags.area_layers(tags, relation=True):
            lost[number] = set(member_ways(members))
        elif osm_tags.is_old_style(tags):
            account.relations_without_tags.add(number)
    for number, _, wkb in shape_rows(extract.relation_areas):
        if wkb is not None:
            described = describe(texts[number])
            for layer in osm_tags.area_layers(described.tags, relation=True):
                layers.add(layer, "relation", number, described, wkb, position)
    return lost


class _Head:
    """Rows of shapes, taken way by way: they come in the order of the ways' text."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    def take(self, number: int) -> list[Row]:
        """The rows of way `number`, if they are next."""
        taken = []
        while self._next is not None and self._next[0] == number:
            taken.append(self._next)
            self._next = next(self._rows, None)
        return taken


def _ways(
    extract: Extract, position: int, layers: Layers, account: Account, members: set[int]
) -> tuple[set[int], set[int]]:
    """Add lines and areas of ways; return those of `members` that the extract holds, and open ways tagged as areas."""
    present, open_areas = set(), set()
    lines, areas = _Head(shape_rows(extract.lines)), _Head(shape_rows(extract.areas))
    for number, text, nodes in read_objects(extract.ways):
        if number in members:
            present.add(number)
        as_line, as_area = lines.take(number), areas.take(number)
        if as_area and as_area[0][2] is None and not any(wkb for _, _, wkb in as_line):
            continue  # outside of the box
        described = describe(text)
        tags, closed = described.tags, is_closed(nodes)
        kinds = osm_tags.area_layers(tags, relation=False)
        for _, _, wkb in as_area:
            if wkb is not None:
                for layer in kinds:
                    layers.add(layer, "way", number, described, wkb, position)
        if kinds and not as_area and osm_tags.is_area(tags, closed):
            account.areas_not_assembled.add(number)
        elif not closed and not as_area and osm_tags.is_open_area(tags):
            open_areas.add(number)
        if as_line:
            _line(number, described, closed, as_line, position, layers, account)
    return present, open_areas


def _line(
    number: int, described: Described, closed: bool, rows: list[Row], position: int, layers: Layers, account: Account
) -> None:
    """Add one way to the line layers, and the coast to the account."""
    names, coast = osm_tags.line_layers(described.tags, closed=closed), osm_tags.is_coastline(described.tags)
    whole = rows[0][1]
    parts = [wkb for _, _, wkb in rows if wkb is not None]
    if not whole and (names or coast):
        account.ways_missing_nodes.add(number)
    for layer in names:
        for wkb in parts:
            layers.add(layer, "way", number, described, wkb, position, whole)
    if coast and parts and (number not in account.coast or (whole and not account.coast[number][0])):
        account.coast[number] = (whole, parts)
