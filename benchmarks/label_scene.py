"""A seeded landscape of fields, woods, lakes, streams, roads and houses: OSM layers, and the polygons made of them.

Run as ``python -m benchmarks.label_scene <folder> <edge in pixels>``; `benchmarks.labels` does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import geopandas
import numpy as np
import numpy.typing as npt
import shapely

from pipeline.acquire.osm import LAYER_COLUMNS
from pipeline.config import ClassScheme, PolygonLayer, RecipeConfig
from pipeline.files import write_json
from pipeline.grid import Grid, Shard, mercator_lonlat, mercator_px, web_mercator_grid
from pipeline.labels.geometry import dense_areas, ground_buffers
from pipeline.labels.painting import painting_order
from pipeline.labels.projection import projection_of
from pipeline.labels.widths import PAINTED, left_out_reasons, line_widths_m

ZOOM = 17
CORNER = (8.39033, 50.35695)  # of the Frankfurt region: 0.77 m on the ground
PX_PER_SCENE = 16384**2  # that the counts below are for
COUNTS = {
    "fields": 2500,
    "woods": 500,
    "water": 400,
    "houses": 60_000,
    "streets": 12_000,
    "highways": 400,
    "streams": 900,
}
HIGHWAYS = ["residential", "unclassified", "tertiary", "secondary", "track"]
CLASSES = {"forest": (4, 135, 29), "fields": (231, 231, 25), "urban": (229, 109, 109), "water": (14, 10, 214)}
SCHEME = ClassScheme.model_validate(
    {"classes": [{"index": i, "name": name, "colour": colour} for i, (name, colour) in enumerate(CLASSES.items())]}
)
STREETS = {"secondary": 9, "tertiary": 6, "unclassified": 6, "residential": 6}
RECIPE = RecipeConfig.model_validate(
    {
        "layers": {
            "fields": {"kind": "areas", "layer": "landuse", "label": "fields", "tags": {"landuse": ["farmland"]}},
            "woods": {"kind": "areas", "layer": "landuse", "label": "forest", "tags": {"natural": ["wood"]}},
            "water": {"kind": "areas", "layer": "water", "label": "water"},
            "streams": {"kind": "lines", "layer": "waterways", "label": "water", "widths_m": {"stream": 2}},
            "houses": {"kind": "areas", "layer": "buildings", "label": "urban"},
            "roads_4": {"kind": "lines", "layer": "roads", "label": "urban", "widths_m": {"track": 3.5}},
            "roads_3": {"kind": "lines", "layer": "roads", "label": "urban", "lane_m": 3.5, "widths_m": STREETS},
            "roads_1": {"kind": "lines", "layer": "roads", "label": "urban", "widths_m": {"motorway": 14}},
        }
    }
)

Floats = npt.NDArray[np.float64]


def scene_grid(edge_px: int) -> Grid:
    """A square of x/y/z pixels of zoom 17, one shard."""
    x, y = mercator_px(*CORNER, ZOOM)
    east, south = mercator_lonlat(round(x) + edge_px, round(y) + edge_px, ZOOM)
    west, north = mercator_lonlat(round(x), round(y), ZOOM)
    return web_mercator_grid((west, south, east, north), ZOOM, edge_px)


class Landscape:
    """Shapes in pixels, as many as belong on the area."""

    def __init__(self, edge_px: int) -> None:
        self.edge_px = edge_px
        self.random = np.random.default_rng(11)

    def count(self, kind: str) -> int:
        """How many of a kind."""
        return max(1, round(COUNTS[kind] * self.edge_px**2 / PX_PER_SCENE))

    def places(self, number: int) -> Floats:
        """Somewhere on the area or a little beyond, [number, 1, 2]."""
        return self.random.uniform(-200, self.edge_px + 200, (number, 1, 2))

    def blobs(self, kind: str, radius_px: float) -> npt.NDArray[np.object_]:
        """Areas of 40 to 80 corners."""
        number = self.count(kind)
        angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        radius = radius_px * self.random.uniform(0.3, 1.6, (number, 1)) * self.random.uniform(0.75, 1.25, (number, 60))
        ring = radius[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        return np.array(shapely.polygons(self.places(number) + ring))

    def houses(self) -> npt.NDArray[np.object_]:
        """Rectangles of 6 to 25 m, in villages."""
        number = self.count("houses")
        villages = self.places(max(1, number // 400))
        centre = villages[self.random.integers(0, len(villages), number)] + self.random.normal(0, 350, (number, 1, 2))
        turn = self.random.uniform(0, np.pi, number)
        half = self.random.uniform(4, 16, (number, 1, 2))
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half
        cos, sin = np.cos(turn), np.sin(turn)
        rotation = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
        return np.array(shapely.polygons(centre + corners @ rotation))

    def lines(self, kind: str, points: int, step_px: float) -> npt.NDArray[np.object_]:
        """Winding lines."""
        number = self.count(kind)
        heading = self.random.uniform(0, 2 * np.pi, (number, 1)) + self.random.normal(0, 0.25, (number, points)).cumsum(
            1
        )
        steps = step_px * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
        return np.array(shapely.linestrings(self.places(number) + steps.cumsum(axis=1)))


def features(edge_px: int) -> dict[str, tuple[npt.NDArray[np.object_], list[dict[str, str]]]]:
    """(shapes in pixels, their tags) of each OSM layer."""
    land = Landscape(edge_px)
    fields, woods, water = land.blobs("fields", 220), land.blobs("woods", 320), land.blobs("water", 90)
    streets, highways = land.lines("streets", 12, 35), land.lines("highways", 60, 60)
    kinds = land.random.choice(HIGHWAYS, len(streets)).tolist()
    widths = land.random.choice(["", "5", "3,5", "24'"], len(streets), p=[0.7, 0.1, 0.1, 0.1]).tolist()
    roads = [{"highway": kind} | ({"width": width} if width else {}) for kind, width in zip(kinds, widths, strict=True)]
    houses, streams = land.houses(), land.lines("streams", 40, 40)
    return {
        "landuse": (
            np.concatenate([fields, woods]),
            [{"landuse": "farmland"}] * len(fields) + [{"natural": "wood"}] * len(woods),
        ),
        "water": (water, [{"natural": "water"}] * len(water)),
        "waterways": (streams, [{"waterway": "stream"}] * len(streams)),
        "buildings": (houses, [{"building": "yes"}] * len(houses)),
        "roads": (np.concatenate([streets, highways]), roads + [{"highway": "motorway"}] * len(highways)),
    }


def write_layers(grid: Grid, path: Path) -> dict[str, geopandas.GeoDataFrame]:
    """The scene as the GeoPackage of OSM layers; gives its tables."""
    x, y = mercator_px(*CORNER, ZOOM)
    corner = np.array([round(x), round(y)])

    def to_degrees(pixels: Floats) -> Floats:
        moved = [mercator_lonlat(*point, ZOOM) for point in (pixels + corner).tolist()]
        return np.round(np.array(moved), 7)  # as OSM stores them

    tables = {}
    for layer, (shapes, tags) in features(grid.width).items():
        columns: dict[str, object] = {"osm_id": np.arange(len(shapes)), "osm_type": "way"}
        columns |= {column: [entry.get(column) for entry in tags] for column in LAYER_COLUMNS[layer]}
        columns["tags"] = [json.dumps(entry) for entry in tags]
        table = geopandas.GeoDataFrame(columns, geometry=shapely.transform(shapes, to_degrees), crs="EPSG:4326")
        table.to_file(path, layer=layer, driver="GPKG", promote_to_multi=layer not in ("roads", "waterways"))
        tables[layer] = table
    return tables


def write_prepared(grid: Grid, tables: dict[str, geopandas.GeoDataFrame], path: Path) -> int:
    """The recipe's polygons in the grid's coordinates and its painting order, with class and source; their number."""
    projection = projection_of(grid)
    parts = []
    for value, _, layer in painting_order(RECIPE):
        table = tables[layer.layer]
        if isinstance(layer, PolygonLayer):
            wanted = [
                layer.tags is None or any(json.loads(text).get(key) in values for key, values in layer.tags.items())
                for text in table["tags"]
            ]
            shapes = dense_areas(table.geometry.to_numpy()[wanted])
        else:
            rows = left_out_reasons(table, layer) == PAINTED
            shapes = ground_buffers(table.geometry.to_numpy()[rows], line_widths_m(table, layer)[rows] / 2)
        columns = {"class": SCHEME.index(layer.label), "source": value}
        moved = shapely.transform(shapes, projection.forward)
        parts.append(geopandas.GeoDataFrame({key: [of] * len(moved) for key, of in columns.items()}, geometry=moved))
    whole = geopandas.pd.concat(parts, ignore_index=True).set_crs(grid.crs)
    whole.to_file(path, layer="prepared", driver="GPKG")
    return len(whole)


def main(folder: Path, edge_px: int) -> None:
    """Write grid.json, layers.gpkg, prepared.gpkg, and classes.json: the class of each source, 255 of none."""
    grid = scene_grid(edge_px)
    assert grid.shards() == [Shard("r00c00", 0, 0, edge_px, edge_px)]
    grid.save(folder / "grid.json")
    write_json(folder / "classes.json", [255, *(SCHEME.index(layer.label) for layer in RECIPE.layers.values())])
    print(write_prepared(grid, write_layers(grid, folder / "layers.gpkg"), folder / "prepared.gpkg"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
