"""Small regions for the label tests: a class scheme, a grid in EPSG:3857, and OSM layers from plain shapes."""

from __future__ import annotations

import json

import geopandas
import pytest
import rasterio

from pipeline.acquire.osm import LAYER_COLUMNS
from pipeline.config import ClassScheme, RecipeConfig
from pipeline.labels.rasterize import rasterize_labels

COLOURS = {"forest": (4, 135, 29), "fields": (231, 231, 25), "urban": (229, 109, 109), "water": (14, 10, 214)}


@pytest.fixture
def scheme():
    entries = [{"index": i, "name": name, "colour": colour} for i, (name, colour) in enumerate(COLOURS.items())]
    return ClassScheme.model_validate({"classes": entries})


@pytest.fixture
def write_layers(tmp_path):
    """Write {layer: [(shape in degrees, tags)]} as a GeoPackage with these layers; return its path."""

    def write(features):
        path = tmp_path / "layers.gpkg"
        path.unlink(missing_ok=True)
        for layer, rows in features.items():
            columns = LAYER_COLUMNS[layer]
            data = {"osm_id": list(range(len(rows))), "osm_type": ["way"] * len(rows)}
            data |= {column: [tags.get(column) for _, tags in rows] for column in columns}
            data["tags"] = [json.dumps(tags) for _, tags in rows]
            frame = geopandas.GeoDataFrame(data, geometry=[shape for shape, _ in rows], crs="EPSG:4326")
            lines = layer in ("roads", "waterways", "railways")
            frame.to_file(
                path,
                layer=layer,
                driver="GPKG",
                geometry_type="LineString" if lines else "MultiPolygon",
                promote_to_multi=not lines,
            )
        return path

    return write


@pytest.fixture
def paint(tmp_path, scheme):
    """Rasterise one shard; return (classes, sources, stats, source tags)."""

    def run(recipe, grid, shard, gpkg, landcover=None, name="labels", threads=1):
        out, source, stats = (tmp_path / f"{name}{end}" for end in (".tif", "_source.tif", ".json"))
        recipe = RecipeConfig.model_validate(recipe)
        found = rasterize_labels(
            recipe, scheme, grid, shard, gpkg, landcover or {}, out, source, stats, log=print, threads=threads
        )
        assert json.loads(stats.read_text()) == found
        with rasterio.open(out) as labels, rasterio.open(source) as sources:
            assert labels.profile["nodata"] == 255
            assert labels.profile["transform"] == rasterio.Affine(*grid.transform(shard.row_px, shard.col_px))
            return labels.read(1), sources.read(1), found, sources.tags()

    return run
