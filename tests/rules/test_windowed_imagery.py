"""Rule download_imagery on rasters read by window: a stack on the disk, a GeoTIFF on a server, a catalogue's items."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from tests.support.project import Project
from tests.support.ranges import RangeServer

pytestmark = pytest.mark.workflow

SIDE_PX = 300
CLASSES = """
classes:
  - {index: 0, name: grass, colour: [40, 160, 40]}
  - {index: 1, name: soil, colour: [150, 110, 60]}
"""
REGION = """
grid: {imagery: stack}
classes: ground
imagery:
  stack: {kind: raster, path: [own/photo.tif, own/heights.tif]}
  remote: {kind: cog, url: "SERVER/photo.tif?key=${MY_KEY}"}
  found: {kind: stac, url: "SERVER/item.json", assets: [photo, heights], bands: [4, 1]}
"""


def test_three_kinds_of_windowed_sources(tmp_path):
    project = Project.of_sources(tmp_path / "project")
    project.path("own").mkdir()
    rng = np.random.default_rng(8)
    photo = rng.integers(1, 255, (3, SIDE_PX, SIDE_PX), dtype=np.uint8)
    heights = rng.random((1, SIDE_PX, SIDE_PX), dtype=np.float32)
    shared = {"driver": "GTiff", "crs": "EPSG:32632", "width": SIDE_PX, "height": SIDE_PX}
    for name, pixels in (("photo", photo), ("heights", heights)):
        place = from_origin(500_000, 5_540_000, 1, 1)
        path = project.path(f"own/{name}.tif")
        with rasterio.open(path, "w", count=len(pixels), dtype=pixels.dtype, transform=place, **shared) as raster:
            raster.write(pixels)
    server = RangeServer({f"/{name}.tif": project.path(f"own/{name}.tif") for name in ("photo", "heights")})
    assets = {name: {"href": f"{name}.tif"} for name in ("photo", "heights")}
    server.files["/item.json"] = json.dumps({"type": "Feature", "id": "a", "assets": assets}).encode()
    with server.running():
        project.path("config/classes/ground.yaml").write_text(CLASSES)
        project.path("config/regions/field.yaml").write_text(REGION.replace("SERVER", server.url("")))
        targets = [f"data/field/imagery/{name}/r00c00.json" for name in ("stack", "remote", "found")]
        project.snakemake("--cores", "2", *targets, timeout_s=120, MY_KEY="hush77hush")
    both = np.concatenate([photo.astype(np.float32), heights])
    for name, want in (("stack", both), ("remote", photo), ("found", both[[3, 0]])):
        with rasterio.open(project.path(f"data/field/imagery/{name}/r00c00.tif")) as raster:
            assert np.array_equal(raster.read(), want) and raster.dtypes[0] == want.dtype
        assert project.path(f"data/field/imagery/{name}/r00c00_tiles.csv").is_file()
    assert any("hush77hush" in asked.path for asked in server.asked)
    for folder in ("data", "logs", "cache", ".snakemake"):
        for path in project.path(folder).rglob("*"):
            assert not path.is_file() or b"hush77hush" not in path.read_bytes(), path
