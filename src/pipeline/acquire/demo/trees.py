"""Tree crowns of the demo: where they stand and the height field they form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.ops import substring

from pipeline.acquire.demo.frame import FloatArray, Frame, noise
from pipeline.acquire.demo.landscape import Landscape

BROADLEAF, CONIFER, SHRUB = 0, 1, 2


@dataclass(frozen=True)
class Trees:
    """Crowns: `xy_m` [N, 2] ground metres, `radius_m` and `height_m` [N], `species` [N] int."""

    xy_m: NDArray[np.float64]
    radius_m: NDArray[np.float64]
    height_m: NDArray[np.float64]
    species: NDArray[np.int64]

    @staticmethod
    def join(groups: list[Trees]) -> Trees:
        """One set of trees from several."""
        return Trees(
            np.concatenate([g.xy_m for g in groups]),
            np.concatenate([g.radius_m for g in groups]),
            np.concatenate([g.height_m for g in groups]),
            np.concatenate([g.species for g in groups]),
        )


def plant(land: Landscape, forest: FloatArray, open_ground: NDArray[np.bool_], pad_px: int, seed: list[int]) -> Trees:
    """Every tree: woods, gardens, streets, parks, hedges, orchards, lone trees.

    Args:
        land: the landscape.
        forest: share of forest round each pixel, 0 to 1, [H, W], padded by `pad_px`.
        open_ground: [H, W] bool, where single trees may stand (no road, roof or water).
    """
    rng = np.random.default_rng(seed)
    groups = [*wood_trees(land.frame, forest, pad_px, rng)]
    groups.append(scattered(land.settlements, 1 / 210, (1.4, 4.2), rng))
    groups.append(scattered(land.parks, 1 / 170, (2.5, 5.5), rng))
    groups.append(scattered([block for block, _ in land.blocks], 1 / 14000, (2.0, 4.5), rng))
    groups.append(along(land.hedges, 1.5, (1.0, 1.7), 0.35, SHRUB, rng))
    fringe = [
        substring(s.exterior, start, start + rng.uniform(20, 60))
        for s in land.settlements
        for start in np.arange(0, s.exterior.length, 60)
        if rng.random() < 0.5
    ]
    groups.append(along(fringe, 1.7, (0.9, 1.8), 0.5, SHRUB, rng))
    streets = [r.line.offset_curve(4.4) for r in land.roads if r.kind in ("living_street", "secondary", "tertiary")]
    groups.append(along(streets, 13.0, (2.2, 3.8), 1.0, BROADLEAF, rng, skip=0.35))
    orchards = [p for p in land.parcels if p.crop == 3 and p.half_m[1] < 24][::3]
    groups.append(orchard_trees([p.shape for p in orchards], [p.angle for p in orchards], rng))
    single = Trees.join(groups[2:])
    gsd_x, gsd_y = land.frame.gsd
    col = np.floor(single.xy_m[:, 0] / gsd_x).astype(int) + pad_px
    row = np.floor(single.xy_m[:, 1] / gsd_y).astype(int) + pad_px
    inside = (col >= 0) & (row >= 0) & (col < open_ground.shape[1]) & (row < open_ground.shape[0])
    inside[inside] = open_ground[row[inside], col[inside]]
    kept = Trees(single.xy_m[inside], single.radius_m[inside], single.height_m[inside], single.species[inside])
    return Trees.join([*groups[:2], kept])


def wood_trees(frame: Frame, forest: FloatArray, pad_px: int, rng: np.random.Generator) -> list[Trees]:
    """Crowns of the woods: stands of old broadleaves and of dense conifers, with gaps in the canopy."""
    size = forest.shape[0]
    stands = noise(rng, size, 130) + 0.5 * noise(rng, size, 45)
    gaps = noise(rng, size, 26)
    gsd_x, gsd_y = frame.gsd
    groups = []
    for species, spacing, (least, most), tall in (
        (BROADLEAF, 5.6, (2.6, 5.4), (13.0, 24.0)),
        (CONIFER, 4.0, (1.7, 3.1), (12.0, 25.0)),
    ):
        x, y = np.meshgrid(
            np.arange(-pad_px * gsd_x, (size - pad_px) * gsd_x, spacing),
            np.arange(-pad_px * gsd_y, (size - pad_px) * gsd_y, spacing * 0.87),
        )
        x = x + (np.arange(len(x)) % 2)[:, None] * spacing / 2
        xy = np.stack([x, y], -1).reshape(-1, 2) + rng.normal(0, 0.21 * spacing, (x.size, 2))
        col = np.clip(np.floor(xy[:, 0] / gsd_x).astype(int) + pad_px, 0, size - 1)
        row = np.clip(np.floor(xy[:, 1] / gsd_y).astype(int) + pad_px, 0, size - 1)
        stand = stands[row, col] + rng.normal(0, 0.25, len(xy))
        mine = stand > 0.55 if species == CONIFER else stand <= 0.55
        keep = mine & (forest[row, col] > 0.80) & (gaps[row, col] > -2.0 + 0.3 * rng.random(len(xy)))
        xy, share = xy[keep], rng.random(int(keep.sum())) ** 1.3
        radius = least + (most - least) * share
        height = tall[0] + (tall[1] - tall[0]) * np.clip(0.7 * share + 0.3 * rng.random(len(xy)), 0, 1)
        edge = np.clip((forest[row[keep], col[keep]] - 0.80) / 0.2, 0.3, 1)
        kinds = np.full(len(xy), species)
        kinds[rng.random(len(xy)) < 0.04] = BROADLEAF
        groups.append(Trees(xy, radius, height * (0.6 + 0.4 * edge), kinds))
    return groups


def scattered(
    shapes: list[shapely.Polygon], per_m2: float, radius: tuple[float, float], rng: np.random.Generator
) -> Trees:
    """Trees at random places in polygons."""
    spots = []
    for shape in shapes:
        west, north, east, south = shape.bounds
        count = rng.poisson(per_m2 * (east - west) * (south - north))
        xy = rng.uniform((west, north), (east, south), (count, 2))
        spots.append(xy[shapely.contains_xy(shape, xy[:, 0], xy[:, 1])])
    xy = np.concatenate([np.empty((0, 2)), *spots])
    size = rng.uniform(*radius, len(xy))
    species = np.where(rng.random(len(xy)) < 0.15, CONIFER, BROADLEAF)
    return Trees(xy, size, size * rng.uniform(1.8, 2.7, len(xy)), species)


def along(
    lines: list[shapely.Geometry],
    step_m: float,
    radius: tuple[float, float],
    jitter_m: float,
    species: int,
    rng: np.random.Generator,
    skip: float = 0.12,
) -> Trees:
    """Trees or shrubs at steps along lines, some missing."""
    spots = [
        shapely.get_coordinates(line.interpolate(np.arange(step_m / 2, line.length, step_m)))
        for line in lines
        if line.length > step_m
    ]
    xy = np.concatenate([np.empty((0, 2)), *spots])
    xy = xy[rng.random(len(xy)) > skip]
    xy = xy + rng.normal(0, jitter_m, xy.shape)
    size = rng.uniform(*radius, len(xy))
    return Trees(xy, size, size * (1.5 if species == SHRUB else 2.4), np.full(len(xy), species))


def orchard_trees(shapes: list[shapely.Polygon], angles: list[float], rng: np.random.Generator) -> Trees:
    """Fruit trees in rows."""
    spots = []
    for shape, angle in zip(shapes, angles, strict=True):
        reach = np.hypot(shape.bounds[2] - shape.bounds[0], shape.bounds[3] - shape.bounds[1]) / 2
        u, v = np.meshgrid(np.arange(-reach, reach, 8.5), np.arange(-reach, reach, 8.5))
        x = u * np.cos(angle) - v * np.sin(angle) + shape.centroid.x
        y = u * np.sin(angle) + v * np.cos(angle) + shape.centroid.y
        inside = shapely.contains_xy(shape.buffer(-3), x, y)
        spots.append(np.c_[x[inside], y[inside]])
    xy = np.concatenate([np.empty((0, 2)), *spots])
    xy = xy[rng.random(len(xy)) > 0.1] if len(xy) else xy
    xy = xy + rng.normal(0, 0.4, xy.shape)
    size = rng.uniform(1.7, 2.9, len(xy))
    return Trees(xy, size, size * 1.7, np.full(len(xy), BROADLEAF))


def crown_field(
    trees: Trees, frame: Frame, size: int, pad_px: int, rough: FloatArray
) -> tuple[FloatArray, NDArray[np.int32]]:
    """Stamp every crown into a z-buffer.

    Args:
        rough: [size, size] noise of deviation 1 that frays outlines and lifts leaf clumps.

    Returns:
        Height of the canopy in metres [size, size], 0 where there is none; and each pixel's tree, -1 for none.
    """
    gsd_x, gsd_y = frame.gsd
    gsd = (gsd_x + gsd_y) / 2
    col, row = trees.xy_m[:, 0] / gsd_x + pad_px, trees.xy_m[:, 1] / gsd_y + pad_px
    reach = np.ceil(trees.radius_m / gsd * 1.15).astype(int)
    buffer = np.zeros(size * size, np.int64)
    flat_rough = rough.ravel()
    number = np.arange(len(col))
    margin = int(reach.max(initial=0)) + 1
    visible = (col > margin) & (row > margin) & (col < size - margin - 1) & (row < size - margin - 1)
    for span in np.unique(reach[visible]):
        pick = number[visible & (reach == span)]
        base_col, base_row = np.floor(col[pick]).astype(int), np.floor(row[pick]).astype(int)
        inverse = (gsd / trees.radius_m[pick]) ** 2
        tall, cone = trees.height_m[pick], trees.species[pick] == CONIFER
        for dy in range(-span, span + 1):
            off_y = (base_row + dy + 0.5 - row[pick]) ** 2
            for dx in range(-span, span + 1):
                place = (base_row + dy) * size + base_col + dx
                fray = flat_rough[place]
                share = (off_y + (base_col + dx + 0.5 - col[pick]) ** 2) * inverse * (1 + 0.22 * fray)
                hit = share < 1
                if not hit.any():
                    continue
                share = np.maximum(share[hit], 0)
                dome = np.where(cone[hit], 1 - 0.62 * np.sqrt(share), 0.55 + 0.45 * np.sqrt(1 - share))
                level = tall[hit] * dome + 0.30 * fray[hit]
                key = (np.maximum(level, 0.3) * 1000).astype(np.int64) << 24 | (pick[hit] + 1)
                np.maximum.at(buffer, place[hit], key)
    tree = (buffer & 0xFFFFFF).astype(np.int32) - 1
    buffer >>= 24
    height = buffer.astype(np.float32) * np.float32(0.001)
    return height.reshape(size, size), tree.reshape(size, size)
