"""Which layer a way or relation belongs to, by its tags."""

from __future__ import annotations

from collections.abc import Mapping

Tags = Mapping[str, str]

LINE_COLUMNS = ("width", "lanes", "tracktype", "tunnel", "bridge", "area", "layer", "name")
LAYER_COLUMNS: dict[str, tuple[str, ...]] = {
    "roads": ("highway", *LINE_COLUMNS),
    "waterways": ("waterway", *LINE_COLUMNS),
    "railways": ("railway", *LINE_COLUMNS),
    "water": ("natural", "water", "waterway", "landuse", "layer", "name"),
    "buildings": ("building", "layer", "name"),
    "landuse": ("landuse", "natural", "leisure", "layer", "name"),
    "road_areas": ("highway", "area:highway", "layer", "name"),
}
LINE_LAYERS = {"roads": "highway", "waterways": "waterway", "railways": "railway"}
LINE_KEYS = (*LINE_LAYERS.values(), "natural")  # natural=coastline is a line of no layer
AREA_KEYS = ("natural", "water", "waterway", "landuse", "leisure", "building", "highway", "area:highway")

WATER_LANDUSE = ("reservoir", "basin")
WATER_AREAS = ("riverbank", "dock")  # waterway=* that are areas by themselves
FLOWING = ("river", "stream", "canal", "ditch", "drain", "tidal_channel", "fairway")  # areas only with area=yes
# Closed lines that surround no area of the feature's kind: the inside of a coastline is an island.
LINEAR_NATURAL = ("coastline", "cliff", "ridge", "arete", "valley", "tree_row", "earth_bank", "gully")
AREA_NATURAL = ("water", "wood", "scrub", "heath", "grassland", "wetland", "glacier")  # never lines
UNSAYING = {"type", "source", "created_by", "note", "fixme", "name", "wikidata", "wikipedia"}  # keys, without suffix
RAILWAY_PLACES = ("station", "halt", "platform", "roundhouse", "turntable", "traverser", "signal_box", "wash", "yard")


def is_area(tags: Tags, closed: bool) -> bool:
    """Whether a way says to be an area, be it open by mistake."""
    return tags.get("area") == "yes" or (closed and tags.get("area") != "no")


def is_open_area(tags: Tags) -> bool:
    """Whether an open way has tags of areas alone: a mistake, unless it is a part of a multipolygon's ring."""
    if tags.get("waterway") == "riverbank":
        return True
    if not tags.keys().isdisjoint(("area", "barrier", *LINE_LAYERS.values())):
        return False
    return tags.get("building", "no") != "no" or "landuse" in tags or tags.get("natural") in AREA_NATURAL


def area_layers(tags: Tags, *, relation: bool) -> list[str]:
    """Area layers of a closed way or a multipolygon relation with these tags; one water body is in no other layer."""
    layers = []
    said = relation or tags.get("area") == "yes"
    natural, landuse, waterway = tags.get("natural"), tags.get("landuse"), tags.get("waterway")
    if tags.get("building", "no") != "no":
        layers.append("buildings")
    if (
        natural == "water"
        or "water" in tags
        or waterway in WATER_AREAS
        or (said and waterway in FLOWING)
        or landuse in WATER_LANDUSE
    ):
        layers.append("water")
    elif landuse is not None or "leisure" in tags or (natural is not None and natural not in LINEAR_NATURAL):
        layers.append("landuse")
    if (said and "highway" in tags) or "area:highway" in tags:
        layers.append("road_areas")
    return layers


def line_layers(tags: Tags, *, closed: bool) -> list[str]:
    """Line layers of a way with these tags."""
    if tags.get("area") == "yes":
        return []
    layers = [layer for layer, key in LINE_LAYERS.items() if key in tags]
    if "waterways" in layers and (tags["waterway"] == "riverbank" or (closed and tags["waterway"] in WATER_AREAS)):
        layers.remove("waterways")
    place = tags.get("railway") in RAILWAY_PLACES or tags.get("building", "no") != "no"
    if "railways" in layers and closed and place:
        layers.remove("railways")
    return layers


def is_coastline(tags: Tags) -> bool:
    """Whether a way is a part of the coast: land on its left, the sea on its right, and no polygon of either."""
    return tags.get("natural") == "coastline"


def is_old_style(tags: Tags) -> bool:
    """Whether a multipolygon relation says nothing of what it is: its tags are those of the outer way."""
    return tags.get("type") == "multipolygon" and not {key.partition(":")[0].lower() for key in tags} - UNSAYING
