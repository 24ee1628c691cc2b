"""Writers of the demo's rasters: imagery tiles, the truth, and a land cover with a satellite product's errors."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from pyproj import Transformer
from rasterio.transform import from_origin
from scipy.ndimage import gaussian_filter

from pipeline.acquire.demo.frame import FloatArray, Frame, noise
from pipeline.acquire.demo.landscape import Landscape
from pipeline.acquire.demo.scene import ARABLE, BARE, BUILDING, FOREST, GARDEN, GRASS, WATER, YARD, truth_classes
from pipeline.grid import MERCATOR_HALF_M, TILE_PX

JPEG_QUALITY = 80
COLOURS = {0: (4, 135, 29), 1: (231, 231, 25), 2: (229, 109, 109), 3: (14, 10, 214)}
LANDCOVER_CRS, CELL_M, BEYOND_M = "EPSG:32632", 10.0, 130.0
SUBCELLS = 6


def write_tiles(folder: Path, frame: Frame, image: NDArray[np.uint8]) -> None:
    """Cut [H, W, 3] into `<z>/<x>/<y>.jpg`."""
    for column in range(frame.tiles):
        place = folder / str(frame.zoom) / str(frame.tile_x + column)
        place.mkdir(parents=True)
        for row in range(frame.tiles):
            top, left = row * TILE_PX, column * TILE_PX
            tile = Image.fromarray(np.ascontiguousarray(image[top : top + TILE_PX, left : left + TILE_PX]))
            tile.save(place / f"{frame.tile_y + row}.jpg", quality=JPEG_QUALITY)


def write_truth(path: Path, frame: Frame, classes: NDArray[np.uint8]) -> None:
    """Class indices on the tiles' pixel grid, with the scheme's colours."""
    profile = {
        "driver": "GTiff",
        "width": frame.size_px,
        "height": frame.size_px,
        "count": 1,
        "dtype": "uint8",
        "crs": "EPSG:3857",
        "transform": frame.mercator_transform,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
    }
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(classes, 1)
        raster.write_colormap(1, {code: (*rgb, 255) for code, rgb in COLOURS.items()})
        raster.update_tags(1, classes="0 FOREST, 1 FIELDS, 2 URBAN, 3 WATER")


def write_landcover(path: Path, land: Landscape, rng: np.random.Generator) -> None:
    """A 10 m product in EPSG:32632 with codes 10, 20, 30, 40, 50, 60, going on 130 m beyond the region."""
    west, north, shape = landcover_grid(land.frame)
    codes = classify(surface_shares(land, west, north, shape, rng), rng)
    profile = {
        "driver": "GTiff",
        "width": shape[1],
        "height": shape[0],
        "count": 1,
        "dtype": "uint8",
        "nodata": 0,
        "crs": LANDCOVER_CRS,
        "transform": from_origin(west, north, CELL_M, CELL_M),
        "compress": "deflate",
    }
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(codes, 1)


def landcover_grid(frame: Frame) -> tuple[float, float, tuple[int, int]]:
    """West and north edge (EPSG:32632, multiples of the cell) and (rows, columns) of the land cover."""
    to_utm = Transformer.from_crs("EPSG:4326", LANDCOVER_CRS, always_xy=True)
    edge_x, edge_y = frame.size_px * frame.gsd[0], frame.size_px * frame.gsd[1]
    corners = [to_utm.transform(*frame.lonlat(x, y)) for x in (0, edge_x) for y in (0, edge_y)]
    east, north = [c[0] for c in corners], [c[1] for c in corners]
    left = math.floor((min(east) - BEYOND_M) / CELL_M) * CELL_M
    top = math.ceil((max(north) + BEYOND_M) / CELL_M) * CELL_M
    columns = math.ceil((max(east) + BEYOND_M - left) / CELL_M)
    rows = math.ceil((top - min(north) + BEYOND_M) / CELL_M)
    return left, top, (rows, columns)


def surface_shares(
    land: Landscape, west: float, north: float, shape: tuple[int, int], rng: np.random.Generator
) -> FloatArray:
    """Share of each surface code in each cell, [9, rows, columns], seen through a sensor a few metres off."""
    frame = land.frame
    pad = math.ceil(175.0 / min(frame.gsd))
    _, surface = truth_classes(land, pad)
    rows, columns = shape
    step = CELL_M / SUBCELLS
    x = west + (np.arange(columns * SUBCELLS) + 0.5) * step + 4.0
    y = north - (np.arange(rows * SUBCELLS) + 0.5) * step + 3.0
    to_web = Transformer.from_crs(LANDCOVER_CRS, "EPSG:3857", always_xy=True)
    res = 2 * MERCATOR_HALF_M / (TILE_PX * 2**frame.zoom)
    origin = frame.mercator_transform
    corner_x, corner_y = np.meshgrid(x[[0, -1]], y[[0, -1]])
    web_x, web_y = to_web.transform(corner_x, corner_y)
    s, t = np.linspace(0, 1, len(x))[None, :], np.linspace(0, 1, len(y))[:, None]
    col = ((bilinear(web_x, s, t) - origin.c) / res + pad).astype(np.int32)
    row = ((origin.f - bilinear(web_y, s, t)) / res + pad).astype(np.int32)
    size = surface.shape[0]
    seen = surface[np.clip(row, 0, size - 1), np.clip(col, 0, size - 1)]
    cells = seen.reshape(rows, SUBCELLS, columns, SUBCELLS)
    shares = np.stack([(cells == code).mean((1, 3), dtype=np.float32) for code in range(9)])
    return np.stack([gaussian_filter(share, 0.6) for share in shares])


def bilinear(corner: NDArray[np.float64], s: NDArray[np.float64], t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate [2, 2] corner values at shares `s` across and `t` down."""
    top = corner[0, 0] + s * (corner[0, 1] - corner[0, 0])
    bottom = corner[1, 0] + s * (corner[1, 1] - corner[1, 0])
    return np.asarray(top + t * (bottom - top))


def classify(shares: FloatArray, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Codes [rows, columns] uint8 by the largest score, with a land cover's usual confusions.

    Narrow things vanish in the majority; gardens pass for low vegetation, bare fields for built-up or soil, dark wood
    edges and wet meadows for water, riparian strips for nothing in particular.
    """
    rows, columns = shares.shape[1:]
    size = max(rows, columns)
    layers = [noise(rng, size, cell)[:rows, :columns] for cell in (3, 3, 8, 14, 4, 3, 6)]
    white = rng.standard_normal((6, rows, columns), np.float32)
    edge = np.clip(4 * shares[FOREST] * (1 - shares[FOREST]), 0, 1)
    green_town = np.clip(0.16 + 0.26 * layers[0], 0.0, 1.0)
    soil_as_town = np.clip(0.02 + 0.40 * layers[2], 0, 1)
    soil = np.clip(0.25 + 0.25 * layers[3], 0, 1) * (1 - soil_as_town)
    dry_crop = np.clip(0.50 * layers[4] - 0.6, 0, 1)
    score = np.stack([
        0.97 * shares[FOREST] + 0.22 * shares[GARDEN] * (layers[5] > 0.8),
        0.95 * shares[GRASS] + green_town * shares[GARDEN] + 0.65 * shares[FOREST] * (layers[6] > 1.6),
        0.50 * shares[WATER] + 0.9 * edge * np.clip(layers[5] - 1.0, 0, 1),
        0.60 * shares[BUILDING] + 0.9 * shares[YARD] + (1 - green_town) * shares[GARDEN]
        + soil_as_town * shares[BARE] + dry_crop * shares[ARABLE],
        soil * shares[BARE] + 0.25 * shares[YARD],
        shares[ARABLE] + (1 - soil - soil_as_town).clip(0) * shares[BARE] + 0.25 * shares[GRASS],
    ])  # fmt: skip
    score += 0.11 * white
    return np.asarray(np.array([10, 20, 30, 40, 50, 60])[score.argmax(0)], np.uint8)
