"""The demo seen from above, before light and season: which surface, parcel, roof and crown lies in each pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter
from shapely.geometry import Point, Polygon
from shapely.ops import substring

from pipeline.acquire.demo.frame import FloatArray, coverage, noise
from pipeline.acquire.demo.landscape import Landscape, Road
from pipeline.acquire.demo.settle import rectangle
from pipeline.acquire.demo.surfaces import BARE_CROP, MEADOW_CROP
from pipeline.acquire.demo.trees import Trees, crown_field, plant

PAD_PX = 56  # painted beyond the region and cropped: trees outside cast their shadows in
FOREST, GRASS, ARABLE, BARE, GARDEN, YARD, ROAD, BUILDING, WATER = range(9)
CLASS_OF_SURFACE = np.array([0, 1, 1, 1, 2, 2, 2, 2, 3], np.uint8)  # FOREST 0, FIELDS 1, URBAN 2, WATER 3
LEAST_STREAM_M = 1.5


def surface_shapes(land: Landscape) -> list[tuple[shapely.Geometry, int]]:
    """(geometry, surface code) in painting order; whatever they leave is GRASS."""
    shapes: list[tuple[shapely.Geometry, int]] = []
    for parcel in land.parcels:
        code = GRASS if parcel.crop == MEADOW_CROP else BARE if parcel.crop == BARE_CROP else ARABLE
        shapes.append((parcel.shape, code))
    shapes += [(verge, GRASS) for verge in verges(land)]
    shapes += [(shape, FOREST) for shape in land.forests]
    shapes += [(shape, GARDEN) for shape in land.settlements]
    shapes += [(shape, GRASS) for shape in land.parks]
    shapes += [(shape, YARD) for shape in land.yards]
    shapes += [(w.shape, WATER) for w in land.waters if w.kind != "stream" or w.width_m > LEAST_STREAM_M]
    shapes += [(road.area, ROAD) for road in sorted(land.roads, key=lambda r: r.level) if road.urban]
    shapes += [(b.shape, BUILDING) for b in land.buildings]
    return shapes


def verges(land: Landscape) -> list[Polygon]:
    """Grass along roads, wider along motorways, so that no crop touches the asphalt."""
    margin = {"motorway": 6.5, "trunk": 4.0, "primary": 3.0, "secondary": 2.5}
    return [r.line.buffer(r.width_m / 2 + margin.get(r.kind, 1.5)) for r in land.roads if r.urban]


def driveways(land: Landscape) -> list[Polygon]:
    """A paved strip of 3 m from each house to its street."""
    streets = [r.line for r in land.roads if r.urban and r.kind not in ("motorway", "track")]
    spots = [Point(b.centre[0] + 0.3 * b.length_m, b.centre[1]) for b in land.buildings]
    nearest = shapely.STRtree(streets).nearest(spots)
    lines = [shapely.shortest_line(spot, streets[n]) for spot, n in zip(spots, nearest, strict=True)]
    return [line.buffer(1.5, cap_style="flat") for line in lines if 4 < line.length < 32]


def truth_classes(land: Landscape, pad_px: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(classes, surfaces), both uint8 [H, W] on the region's grid padded by `pad_px`."""
    surface = land.frame.burn(surface_shapes(land), pad_px=pad_px, fill=GRASS)
    return CLASS_OF_SURFACE[surface], surface


@dataclass
class Scene:
    """Rasters of [H, W] on the padded grid; `*_fine` are (flat pixel, value) pairs of 2 × 2 subpixels."""

    land: Landscape
    size: int
    cover: dict[int, FloatArray]  # share of each surface code, 0 to 1
    parcel: NDArray[np.uint16]  # number of the parcel + 1
    dirt: FloatArray  # share of unpaved track and path
    paint: FloatArray  # share of road marking
    ditch: FloatArray
    drive: FloatArray  # share of driveways
    roof_fine: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]  # flat pixel, building, [N, 2] metres
    road_fine: tuple[NDArray[np.int64], NDArray[np.int64]]
    car_fine: tuple[NDArray[np.int64], NDArray[np.int64]]
    trees: Trees
    crown_m: FloatArray
    crown: NDArray[np.int32]
    built_m: FloatArray  # height of roofs, decks and cars, metres
    octaves: dict[int, FloatArray]  # noise by feature size in pixels


def build_scene(land: Landscape, seed: int) -> Scene:
    """Rasterise `land` and plant its trees."""
    frame, rng = land.frame, np.random.default_rng([seed, 21])
    size = frame.size_px + 2 * PAD_PX
    fine = frame.burn(surface_shapes(land), pad_px=PAD_PX, factor=2, fill=GRASS)
    cover = {code: coverage(fine == code) for code in (FOREST, GARDEN, YARD, WATER, ROAD, BUILDING)}
    del fine
    octaves = {cell: noise(rng, size, cell) for cell in (1, 2, 4, 9, 22, 60, 170, 500)}
    forest = uniform_filter(cover[FOREST], 5)
    solid = cover[WATER] + cover[ROAD] + cover[BUILDING]
    trees = plant(land, forest, uniform_filter(solid, 3) < 0.25, PAD_PX, [seed, 22])
    crown_m, crown = crown_field(trees, frame, size, PAD_PX, octaves[2])
    cars = park_cars(land, np.random.default_rng([seed, 23]))
    roofs = [(b.shape, number) for number, b in enumerate(land.buildings, 1)]
    roads = [(road, number) for number, road in enumerate(land.roads, 1) if road.urban]
    roads.sort(key=lambda pair: (pair[0].level, pair[0].width_m))
    roof_fine = fine_pixels(land, roofs, size)
    built = np.zeros(size * size, np.float32)
    tall = np.array([b.height_m for b in land.buildings])
    np.maximum.at(built, roof_fine[0], tall[roof_fine[1]].astype(np.float32))
    deck = frame.burn([step for r in land.roads if r.level == 1 for step in deck_steps(r)], pad_px=PAD_PX)
    car_fine = fine_pixels(land, [(car, n) for n, car in enumerate(cars, 1)], size)
    np.maximum.at(built, car_fine[0], np.float32(1.3))
    fields = [(p.shape, n) for n, p in enumerate(land.parcels, 1)]
    fields += [(Polygon(w.shape.exterior).buffer(4), 0) for w in land.waters]
    fields += [(shape, 0) for shape in [*verges(land), *land.parks]]
    return Scene(
        land=land,
        size=size,
        cover=cover,
        parcel=frame.burn(fields, pad_px=PAD_PX, dtype="uint16"),
        dirt=unpaved(land, octaves),
        paint=share_of(land, [stripe for road, _ in roads for stripe in markings(road)]),
        ditch=share_of(land, [w.shape.buffer(0.3) for w in land.waters if w.kind == "stream"]),
        drive=share_of(land, driveways(land)),
        roof_fine=roof_fine,
        road_fine=fine_pixels(land, [(road.area, number) for road, number in roads], size)[:2],
        car_fine=car_fine[:2],
        trees=trees,
        crown_m=crown_m,
        crown=crown,
        built_m=np.maximum(built.reshape(size, size), deck.astype(np.float32)),
        octaves=octaves,
    )


def deck_steps(bridge: Road) -> list[tuple[Polygon, int]]:
    """A bridge's deck, rising from its ends to 5 m gently enough not to shade itself: (area, height in metres)."""
    line = bridge.line
    spans = [(substring(line, 2.6 * height, line.length - 2.6 * height), height) for height in range(1, 6)]
    return [(span.buffer(bridge.width_m / 2, cap_style="flat"), height) for span, height in spans if span.length > 4]


def fine_pixels(
    land: Landscape, shapes: list[tuple[shapely.Geometry, int]], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Subpixels (a quarter pixel each) covered by shapes: flat pixel, shape number - 1, ground metres [N, 2]."""
    burnt = land.frame.burn(shapes, pad_px=PAD_PX, factor=2, dtype="uint16")
    row, col = np.nonzero(burnt)
    gsd_x, gsd_y = land.frame.gsd
    xy = np.c_[(col / 2 + 0.25 - PAD_PX) * gsd_x, (row / 2 + 0.25 - PAD_PX) * gsd_y]
    return (row // 2) * size + col // 2, burnt[row, col].astype(np.int64) - 1, xy


def share_of(land: Landscape, shapes: list[shapely.Geometry]) -> FloatArray:
    """Share of each pixel covered by shapes, from 2 × 2 subpixels."""
    return coverage(land.frame.burn([(s, 1) for s in shapes], pad_px=PAD_PX, factor=2) > 0)


def unpaved(land: Landscape, octaves: dict[int, FloatArray]) -> FloatArray:
    """Share of bare ground on farm tracks (two ruts on the poor ones) and paths, worn unevenly."""
    shapes = []
    for road in land.roads:
        grade = road.tags.get("tracktype")
        if road.urban or road.level < 0:
            continue
        if grade in ("grade4", "grade5"):
            shapes += [road.line.offset_curve(side).buffer(0.45) for side in (-0.8, 0.8)]
        else:
            shapes.append(road.line.buffer(road.width_m / 2 * (0.8 if grade else 1.0)))
    worn = np.clip(0.75 + 0.25 * octaves[9], 0.2, 1)
    return np.asarray(share_of(land, shapes) * worn, np.float32)


def markings(road: Road) -> list[Polygon]:
    """Dashed centre lines and solid edge lines of wide roads, 0.45 m wide polygons."""
    line, width = road.line, road.width_m
    if width < 7.0:
        return []
    stripes = []
    offsets = (-width / 6, width / 6) if width in (10.5, 14.0) else (0.0,)
    for offset in offsets:
        lane = line.offset_curve(offset)
        for start in np.arange(0, lane.length - 4, 12.0):
            stripes.append(substring(lane, start, start + 5).buffer(0.22, cap_style="flat"))
    if width >= 9:
        stripes += [line.offset_curve(side * (width / 2 - 0.6)).buffer(0.2) for side in (-1, 1)]
    return stripes


def park_cars(land: Landscape, rng: np.random.Generator) -> list[Polygon]:
    """Cars on roads and in rows on car parks, 4.4 × 1.8 m."""
    cars = []
    for road in land.roads:
        if not road.urban or road.width_m < 5:
            continue
        mean_gap = 55 if road.kind in ("residential", "living_street") else 120
        for place in np.cumsum(rng.exponential(mean_gap, int(road.line.length / mean_gap) + 1)):
            if place + 2 < road.line.length:
                a, b = road.line.interpolate(place), road.line.interpolate(place + 2)
                angle = float(np.arctan2(b.y - a.y, b.x - a.x))
                side = rng.choice([-1, 1]) * road.width_m * 0.27
                spot = (a.x - np.sin(angle) * side, a.y + np.cos(angle) * side)
                cars.append(rectangle(spot, 4.4, 1.9, angle))
    for yard in land.yards[:2]:
        west, north, east, south = yard.bounds
        for y in np.arange(north + 8, south - 6, 11.5):
            for x in np.arange(west + 8, east - 6, 2.9):
                if rng.random() < 0.55:
                    cars.append(rectangle((x, y), 1.9, 4.4, 0.03))
    standing = shapely.union_all([b.shape.buffer(3) for b in land.buildings if b.kind in ("industrial", "civic")])
    return [car for car in cars if not car.intersects(standing)]


def depth_of(cover: FloatArray) -> FloatArray:
    """0 at the shore to 1 some 25 m out: a cheap stand-in for water depth."""
    small = cover[::2, ::2]
    depth = np.clip((gaussian_filter(small, 7.0) - 0.5) * 2.0, 0, 1)
    return np.repeat(np.repeat(depth, 2, 0), 2, 1)[: cover.shape[0], : cover.shape[1]]
