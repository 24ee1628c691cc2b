"""Build the demo region: landscape, photographs, map extract, land cover, truth."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.acquire.demo import country, settle, sources
from pipeline.acquire.demo.frame import Frame
from pipeline.acquire.demo.landscape import Landscape, add_main_roads, add_water
from pipeline.acquire.demo.osm import write_osm
from pipeline.acquire.demo.render import render
from pipeline.acquire.demo.scene import build_scene, truth_classes
from pipeline.acquire.demo.surfaces import SEASONS
from pipeline.files import atomic_folder, sha256_folder, write_json

CLASSES = ("FOREST", "FIELDS", "URBAN", "WATER")


def build_landscape(frame: Frame, seed: int) -> Landscape:
    """Lay out the region, each theme from its own random stream."""
    rng = [np.random.default_rng([seed, stream]) for stream in range(8)]
    land = Landscape(frame)
    add_water(land, rng[0])
    add_main_roads(land)
    zones = settle.add_streets(land, rng[1])
    settle.add_yards(land, rng[2])
    settle.add_buildings(land, zones, rng[3])
    country.add_ponds(land, rng[4])
    cells, borders = country.field_blocks(land, rng[5])
    country.add_borders(land, borders, rng[6])
    country.add_forests(land, rng[7])
    country.add_parcels(land, cells, np.random.default_rng([seed, 8]))
    return land


def build_demo(
    out: Path, *, seed: int = 7, zoom: int = 17, tile_x: int = 68632, tile_y: int = 44447, tiles: int = 10
) -> dict[str, Any]:
    """Write the demo region under `out`, replacing what was there only when all of it is done.

    Files: `demo.osm.pbf` (WGS84), `landcover.tif` (uint8, 10 m, EPSG:32632, mundialis codes),
    `tiles/<summer|autumn>/<z>/<x>/<y>.jpg` (256 px RGB), `truth.tif` (uint8 class indices, EPSG:3857, the tiles' own
    pixel grid), `summary.json`. Equal arguments give equal bytes on one machine.

    Args:
        out: folder to create.
        seed: of every random choice.
        zoom, tile_x, tile_y: the top-left tile (x/y/z, y southward).
        tiles: edge of the region in tiles.

    Returns:
        The summary: region, share of each class, roads by highway value, buildings, waters, OSM objects written.

    Raises:
        ConfigError: for a zoom or number of tiles that cannot hold the landscape.
    """
    frame = Frame(zoom, tile_x, tile_y, tiles)
    land = build_landscape(frame, seed)
    with atomic_folder(Path(out)) as folder:
        scene = build_scene(land, seed)
        for number, season in enumerate(SEASONS):
            sources.write_tiles(folder / "tiles" / season.name, frame, render(scene, season, seed + 1000 * number))
        del scene
        truth, _ = truth_classes(land)
        sources.write_truth(folder / "truth.tif", frame, truth)
        sources.write_landcover(folder / "landcover.tif", land, np.random.default_rng([seed, 41]))
        written = write_osm(folder / "demo.osm.pbf", land, np.random.default_rng([seed, 51]))
        shares = np.bincount(truth.ravel(), minlength=len(CLASSES)) / truth.size
        summary = {
            "region": {"zoom": zoom, "tile_x": tile_x, "tile_y": tile_y, "tiles": tiles, "gsd_m": sum(frame.gsd) / 2},
            "bbox_wgs84": frame.bbox_wgs84,
            "seed": seed,
            "providers": [season.name for season in SEASONS],
            "class_shares": {name: round(float(share), 4) for name, share in zip(CLASSES, shares, strict=True)},
            "roads": dict(sorted(Counter(road.kind for road in land.roads).items())),
            "buildings": len(land.buildings),
            "waters": dict(sorted(Counter(water.kind for water in land.waters).items())),
            "osm": written,
            "sha256": sha256_folder(folder),
        }
        write_json(folder / "summary.json", summary)
    return summary
