"""Photographs of the demo: a scene under one season's light, as an aerial camera would record it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from pipeline.acquire.demo.frame import FloatArray
from pipeline.acquire.demo.landscape import Parcel
from pipeline.acquire.demo.scene import BUILDING, FOREST, GARDEN, PAD_PX, ROAD, WATER, YARD, Scene, depth_of
from pipeline.acquire.demo.surfaces import ASPHALT, CARS, CROPS, FLAT_ROOFS, RGB, ROOFS, Season, varied
from pipeline.acquire.demo.trees import CONIFER

Colour = NDArray[np.float32]


def render(scene: Scene, season: Season, seed: int) -> NDArray[np.uint8]:
    """The region as 8-bit RGB, [H, W, 3] without padding."""
    rng = np.random.default_rng([seed, 31])
    image = field_colours(scene, season, np.random.default_rng([seed, 32]))
    mix(image, scene.dirt, (168, 150, 124), 9 * scene.octaves[4])
    mix(image, scene.ditch, (74, 78, 60))
    mix(image, scene.cover[FOREST], season.forest_floor, 8 * scene.octaves[4])
    paint_settlements(image, scene, season, np.random.default_rng([seed, 33]))
    paint_water(image, scene, season, np.random.default_rng([seed, 34]))
    paint_roads(image, scene, np.random.default_rng([seed, 35]))
    light = np.ones((scene.size, scene.size), np.float32)
    paint_roofs(image, scene, season, np.random.default_rng([seed, 36]))
    paint_crowns(image, light, scene, season, np.random.default_rng([seed, 37]))
    shade = shadows(scene, season)
    for band, left in enumerate(season.shadow):
        image[..., band] *= light * (1 - shade * np.float32(1 - left))
    return sensor(image, scene, season, rng)


def mix(image: Colour, share: FloatArray, colour: RGB, level: FloatArray | None = None) -> None:
    """Blend `colour`, made brighter by `level` [H, W], over `image` where `share` [H, W] is above 0, in place."""
    spots = np.nonzero(share > 0)
    painted = np.array(colour, np.float32) + (0 if level is None else level[spots][:, None])
    image[spots] += share[spots][:, None] * (painted - image[spots])


def field_colours(scene: Scene, season: Season, rng: np.random.Generator) -> Colour:
    """Grass everywhere, and parcels with rows, tramlines, headlands and patches, [H, W, 3]."""
    octaves = scene.octaves
    image = np.empty((scene.size, scene.size, 3), np.float32)
    patches = 5 * octaves[22] + 4 * octaves[9] + 3 * octaves[60] + 3 * octaves[2]
    hue = 5 * octaves[60] + 3 * octaves[22]
    for band, level in enumerate(season.grass):
        np.add(patches, level, out=image[..., band])
    image[..., 0] += hue
    if scene.land.parcels:
        table = FieldTable(scene.land.parcels, season, rng)
        for top in range(0, scene.size, 256):  # slabs, to keep memory low
            paint_fields(image, scene, table, slice(top, min(top + 256, scene.size)))
    return image


class FieldTable:
    """What each parcel looks like, arrays over parcels: colours [N, 3], geometry in metres, contrasts in levels."""

    def __init__(self, parcels: list[Parcel], season: Season, rng: np.random.Generator) -> None:
        looks, count = [season.crops[p.crop] for p in parcels], len(parcels)
        spread = np.array([look.spread for look in looks])[:, None]
        tint = rng.normal(0, 1, (count, 1)) + rng.normal(0.1, 0.25, (count, 1)) * np.array([1.0, 0.0, -0.6])
        self.colour = (np.array([look.colour for look in looks]) + tint * spread).astype(np.float32)
        angle = np.array([p.angle for p in parcels])
        self.cos, self.sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        self.centre = np.array([p.centre for p in parcels])
        self.half = np.array([p.half_m for p in parcels], np.float32)
        spacing = np.array([look.row_m for look in looks]) * rng.uniform(0.85, 1.25, count)
        self.frequency = (2 * np.pi / spacing).astype(np.float32)
        strength = np.array([look.row_level for look in looks]) * rng.uniform(0.3, 1.5, count)
        self.strength = strength.astype(np.float32)
        self.working = rng.choice(np.array([18, 21, 24, 27], np.float32), count)
        sign = rng.choice([-1.0, 1.0], count, p=[0.35, 0.65])
        self.tram = (np.array([look.tram_level for look in looks]) * sign).astype(np.float32)
        self.bout = rng.normal(0, 2.2, (count, 16)).astype(np.float32)
        self.mottle = np.array([look.mottle for look in looks], np.float32)
        green = np.array([CROPS[p.crop] not in ("bare", "fallow") for p in parcels])
        self.redden = np.where(green, 0.35 * self.mottle, 0).astype(np.float32)


def paint_fields(image: Colour, scene: Scene, table: FieldTable, rows: slice) -> None:
    """Paint the parcels of some rows of pixels, in place."""
    row, col = np.nonzero(scene.parcel[rows])
    row += rows.start
    which = scene.parcel[row, col].astype(np.int64) - 1
    tone = {cell: scene.octaves[cell][row, col] for cell in (1, 2, 9, 22, 60, 170)}
    level = rows_and_tramlines(scene, table, row, col, which, tone)
    slow = 0.75 * tone[60] + 0.6 * tone[22] + 0.5 * tone[170] + 0.4 * tone[9]
    level += table.mottle[which] * slow + np.float32(2.2) * tone[2] + np.float32(1.6) * tone[1]
    image[row, col] = table.colour[which] + level[:, None]
    image[row, col, 0] += table.redden[which] * tone[170]


def rows_and_tramlines(
    scene: Scene,
    table: FieldTable,
    row: NDArray[np.int64],
    col: NDArray[np.int64],
    which: NDArray[np.int64],
    tone: dict[int, FloatArray],
) -> FloatArray:
    """Brightness of crop rows, wheel tracks and headlands at the given pixels, 8-bit levels."""
    gsd_x, gsd_y = scene.land.frame.gsd
    x = ((col + 0.5 - PAD_PX) * gsd_x - table.centre[which, 0]).astype(np.float32)
    y = ((row + 0.5 - PAD_PX) * gsd_y - table.centre[which, 1]).astype(np.float32)
    along = x * table.cos[which] + y * table.sin[which]
    across = y * table.cos[which] - x * table.sin[which] + np.float32(0.5) * tone[60]
    headland = table.half[which, 0] - np.abs(along) < 13.0
    wave = np.sin(np.where(headland, along, across) * table.frequency[which])
    level = table.strength[which] * wave * (1 + np.float32(0.45) * tone[22])
    working = table.working[which]
    place = np.mod(across, working) - working / 2
    level += ((np.abs(np.abs(place) - 0.95) < 0.42) & ~headland) * table.tram[which]
    level += table.bout[which, np.mod(np.floor(across / (working / 3)), 16).astype(np.int64)]
    rim = table.half[which, 1] - np.abs(across)
    level -= np.float32(3.0) * ((rim < 2.5) | headland)
    return np.asarray(level, np.float32)


def paint_settlements(image: Colour, scene: Scene, season: Season, rng: np.random.Generator) -> None:
    """Plots round the nearest building: lawns, beds, paving, hedges; and yards of concrete or gravel, in place."""
    octaves, homes = scene.octaves, scene.land.buildings
    gsd_x, gsd_y = scene.land.frame.gsd
    row, col = np.nonzero(scene.cover[GARDEN] > 0)
    xy = np.c_[(col + 0.5 - PAD_PX) * gsd_x, (row + 0.5 - PAD_PX) * gsd_y]
    centre = np.array([b.centre for b in homes])
    distance, nearest = cKDTree(centre).query(xy, k=2)
    plot = nearest[:, 0]
    lawns = (season.lawn, season.grass, season.lawn, (128, 124, 86), (92, 106, 64))
    fine = (5 * octaves[4][row, col] + 4 * octaves[2][row, col] + 4 * octaves[9][row, col])[:, None]
    colour = varied(rng, lawns, len(homes), 0.10)[plot] + fine
    beds = octaves[4][row, col] + 0.8 * octaves[22][row, col] > 1.9
    colour[beds] = np.array([116, 92, 70], np.float32) + 1.5 * fine[beds]
    fence = (distance[:, 1] - distance[:, 0] < 1.5) & (rng.random(len(homes)) < 0.65)[plot]
    colour[fence] = 0.35 * colour[fence] + np.array([48, 54, 34], np.float32) + fine[fence]
    tones = ((150, 144, 136), (128, 124, 120), (162, 150, 134), (142, 124, 112), (138, 136, 134))
    paving = varied(rng, tones, len(homes), 0.07)
    angle = np.array([b.angle for b in homes])[plot]
    off = xy - centre[plot] - rng.normal(0, 4.0, (len(homes), 2))[plot]
    u = np.abs(off[:, 0] * np.cos(angle) + off[:, 1] * np.sin(angle))
    v = np.abs(off[:, 1] * np.cos(angle) - off[:, 0] * np.sin(angle))
    reach = rng.gamma(6.0, 1.15, (len(homes), 2))[plot]
    paved = np.clip(np.minimum(reach[:, 0] - u, reach[:, 1] - v) / gsd_x + 0.5, 0, 1).astype(np.float32)
    paved = np.maximum(paved, scene.drive[row, col])[:, None]
    colour += paved * (paving[plot] + 0.6 * fine - colour)
    share = scene.cover[GARDEN][row, col][:, None]
    image[row, col] += share * (colour.astype(np.float32) - image[row, col])
    grain = 5 * octaves[22] + 4 * octaves[4] + 3 * octaves[1]
    mix(image, scene.cover[YARD], (150, 142, 130), grain)


def paint_water(image: Colour, scene: Scene, season: Season, rng: np.random.Generator) -> None:
    """Water from its shallow, reedy rim to its depth, with ripples, glint and algae, in place."""
    share, octaves = scene.cover[WATER], scene.octaves
    depth = depth_of(share)
    reeds = np.clip(3.2 * gaussian_filter(share, 4.0), 0, 1) * (scene.cover[ROAD] + scene.cover[YARD] == 0)
    mix(image, reeds.astype(np.float32), season.grass, 6 * octaves[4] + 5 * octaves[9] - 13)
    numbered = [(w.shape.buffer(1.5), n) for n, w in enumerate(scene.land.waters, 1)]
    numbered.sort(key=lambda pair: scene.land.waters[pair[1] - 1].kind != "stream")  # rivers over their tributaries
    bodies = scene.land.frame.burn(numbered, pad_px=PAD_PX, dtype="uint16")
    row, col = np.nonzero(share > 0)
    which = bodies[row, col]
    deep = varied(rng, season.water_deep, len(scene.land.waters) + 1, 0.10)
    river = np.array([0] + [w.kind == "river" for w in scene.land.waters])
    deep[river > 0] = np.array(season.water_deep[1], np.float32) + np.array([18, 18, 4], np.float32)
    d = depth[row, col] * (1 + 0.18 * octaves[22][row, col]) + 0.12 * octaves[60][row, col]
    blend = np.clip(0.60 + 0.6 * d, 0, 1)[:, None].astype(np.float32)
    colour = np.array(season.water_shallow, np.float32) + blend * (
        deep[which] - np.array(season.water_shallow, np.float32)
    )
    wind = (octaves[170][row, col] > 0.2) * 1.0 + 0.5
    ripple = 1.3 * octaves[2][row, col] + 0.8 * octaves[1][row, col]
    sheen = season.glint * np.clip(octaves[170][row, col] + 0.4 * octaves[60][row, col] - 0.7, 0, 2) * depth[row, col]
    algae = np.clip(octaves[60][row, col] + 0.5 * octaves[9][row, col] - 1.1, 0, 1.5) * (1 - depth[row, col])
    colour += (wind * ripple + 1.8 * octaves[60][row, col] + sheen)[:, None].astype(np.float32)
    colour += algae[:, None].astype(np.float32) * np.array([8, 22, -4], np.float32)
    weight = share[row, col][:, None]
    image[row, col] += weight * (colour.astype(np.float32) - image[row, col])
    rim = gaussian_filter(share, 1.6)
    bank = np.clip(1 - np.abs(rim - 0.42) / 0.3, 0, 1) * np.clip(0.6 + 0.4 * octaves[9], 0, 1)
    mix(image, (0.36 * bank * (scene.cover[ROAD] == 0)).astype(np.float32), (86, 84, 60))


def paint_roads(image: Colour, scene: Scene, rng: np.random.Generator) -> None:
    """Asphalt and concrete with patches, worn lanes, verges, markings and cars, in place."""
    octaves, roads = scene.octaves, scene.land.roads
    verge = np.clip(gaussian_filter(scene.cover[ROAD], 1.8) * 1.6, 0, 0.55) * np.clip(0.7 + 0.5 * octaves[9], 0, 1)
    verge *= 1 - np.minimum(1, scene.cover[WATER])
    mix(image, verge.astype(np.float32), (142, 134, 108))
    base = np.array([ASPHALT.get(r.kind.removesuffix("_link"), (136, 133, 128)) for r in roads], np.float32)
    base += rng.normal(0, 9, (len(roads), 1)) + rng.normal(0, 2.5, (len(roads), 3))
    grain = 3.0 * octaves[22] + 2.5 * octaves[4] + 2.0 * octaves[1] + 2.5 * octaves[60]
    flat, which = scene.road_fine
    average_in(image, flat, base[which] + grain.ravel()[flat][:, None])
    mix(image, 0.7 * scene.paint, (214, 212, 204))
    flat, which = scene.car_fine
    colours = np.asarray(CARS, np.float32)[rng.integers(len(CARS), size=int(which.max(initial=0)) + 1)]
    average_in(image, flat, colours[which])


def average_in(image: Colour, flat: NDArray[np.int64], colour: Colour) -> None:
    """Lay subpixel colours over `image`, a quarter of a pixel each, in place."""
    size = image.shape[0] * image.shape[1]
    share = np.bincount(flat, minlength=size).astype(np.float32) / 4
    touched = np.flatnonzero(share)
    pixels = image.reshape(-1, 3)
    for band in range(3):
        total = np.bincount(flat, colour[:, band], minlength=size).astype(np.float32)[touched] / 4
        pixels[touched, band] = pixels[touched, band] * (1 - share[touched]) + total


def sun(season: Season) -> tuple[float, float, float]:
    """Unit vector to the sun: east, south, up."""
    azimuth, elevation = np.radians(season.azimuth_deg), np.radians(season.elevation_deg)
    return (
        float(np.sin(azimuth) * np.cos(elevation)),
        float(-np.cos(azimuth) * np.cos(elevation)),
        float(np.sin(elevation)),
    )


def paint_roofs(image: Colour, scene: Scene, season: Season, rng: np.random.Generator) -> None:
    """Roofs with a lit and a shaded side, ridges, tile courses, and fittings on flat ones, in place."""
    homes = scene.land.buildings
    flat, which, xy = scene.roof_fine
    flat_roof = np.array([b.roof == "flat" for b in homes])
    colours = np.where(
        flat_roof[:, None], varied(rng, FLAT_ROOFS, len(homes), 0.08), varied(rng, ROOFS, len(homes), 0.09)
    )
    angle, centre = np.array([b.angle for b in homes]), np.array([b.centre for b in homes])
    half_l = np.array([b.length_m / 2 for b in homes])[which]
    half_w = np.array([b.width_m / 2 for b in homes])[which]
    cos, sin = np.cos(angle)[which], np.sin(angle)[which]
    x, y = xy[:, 0] - centre[which, 0], xy[:, 1] - centre[which, 1]
    u, v = x * cos + y * sin, y * cos - x * sin
    east, south, up = sun(season)
    slope = np.tan(np.radians(rng.uniform(28, 46, len(homes))))[which]
    hip = np.array([b.roof == "hip" for b in homes])[which] & (half_l - np.abs(u) < half_w - np.abs(v))
    fall_u, fall_v = np.where(hip, np.sign(u), 0.0), np.where(hip, 0.0, np.sign(v))
    tilt = slope * ((fall_u * cos - fall_v * sin) * east + (fall_u * sin + fall_v * cos) * south)
    lit = np.clip((tilt + up) / np.sqrt(1 + slope**2) / up, 0.12, 1.7)
    lit = np.where(flat_roof[which], 1.0, 0.42 + 0.60 * lit)
    ridge = ~flat_roof[which] & ~hip & (np.abs(v) < 0.35)
    course = 0.02 * np.sin(v * 2 * np.pi / 1.9)
    grain = scene.octaves[2].ravel()[flat] * 0.03 + scene.octaves[4].ravel()[flat] * 0.025
    fittings = flat_roof[which] & (np.sin(u * 0.9 + angle[which] * 40) * np.sin(v * 0.8 + 2) > 0.86)
    bright = lit + course + grain + 0.14 * ridge + 0.20 * fittings
    rim = flat_roof[which] & (np.minimum(half_l - np.abs(u), half_w - np.abs(v)) < 0.6)
    average_in(image, flat, (colours[which] * (bright + 0.12 * rim)[:, None]).astype(np.float32))


def paint_crowns(image: Colour, light: FloatArray, scene: Scene, season: Season, rng: np.random.Generator) -> None:
    """Crown colours in `image`, and their relief under the sun in `light`, both in place."""
    octaves, trees = scene.octaves, scene.trees
    row, col = np.nonzero(scene.crown >= 0)
    tree = scene.crown[row, col]
    colours = varied(rng, season.broadleaf, len(trees.species), 0.11)
    conifer = trees.species == CONIFER
    colours[conifer] = varied(rng, season.conifer, int(conifer.sum()), 0.09)
    colour = colours[tree] * (1 + 0.07 * octaves[2][row, col] + 0.06 * octaves[60][row, col])[:, None]
    image[row, col] = colour
    relief = gaussian_filter(scene.crown_m, 0.55)
    gsd_x, gsd_y = scene.land.frame.gsd
    slope_y, slope_x = np.gradient(relief, gsd_y, gsd_x)
    east, south, up = sun(season)
    slope_x, slope_y = 0.42 * slope_x[row, col], 0.42 * slope_y[row, col]
    facing = (up - slope_x * east - slope_y * south) / np.sqrt(1 + slope_x**2 + slope_y**2)
    inner = np.clip(scene.crown_m[row, col] / np.maximum(trees.height_m[tree], 1), 0.3, 1.0)
    light[row, col] = (0.34 + 0.66 * np.clip(facing / up, 0.0, season.relief)) * (0.62 + 0.42 * inner)


def shadows(scene: Scene, season: Season) -> FloatArray:
    """Share of direct sun that is blocked by canopy, roofs, decks and cars, [H, W] 0 to 1."""
    height = np.maximum(scene.crown_m, scene.built_m)
    east, south, up = sun(season)
    flat = float(np.hypot(east, south))
    gsd = sum(scene.land.frame.gsd) / 2
    drop = gsd * up / flat
    blocked = np.zeros_like(height)
    size = scene.size
    for step in range(1, min(PAD_PX, int(height.max() / drop) + 2)):
        dx, dy = round(step * east / flat), round(step * south / flat)
        to_y, from_y = slice(max(0, -dy), size - max(0, dy)), slice(max(0, dy), size - max(0, -dy))
        to_x, from_x = slice(max(0, -dx), size - max(0, dx)), slice(max(0, dx), size - max(0, -dx))
        view = blocked[to_y, to_x]
        np.maximum(view, height[from_y, from_x] - np.float32(step * drop), out=view)
    shade = np.clip((blocked - height) / 1.2, 0, 1)
    shade[scene.cover[BUILDING] > 0.5] *= 0.8
    return np.asarray(gaussian_filter(shade, 0.6), np.float32)


def sensor(image: Colour, scene: Scene, season: Season, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Uneven light, haze, blur, noise and clipping; drops the padding."""
    size = scene.size
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    uneven = 1 + 0.035 * ramp[None, :] - 0.03 * ramp[:, None] + 0.022 * scene.octaves[500]
    inner = slice(PAD_PX, size - PAD_PX)
    haze = season.haze * (1 + 0.25 * scene.octaves[500][inner, inner])
    out = np.empty((size - 2 * PAD_PX, size - 2 * PAD_PX, 3), np.uint8)
    grey = rng.standard_normal(out.shape[:2], np.float32) * season.noise_level
    for band in range(3):
        plane = gaussian_filter(image[..., band] * uneven * season.gain[band], season.blur_px)[inner, inner]
        plane += haze * (season.haze_rgb[band] - plane)
        plane += grey + rng.standard_normal(grey.shape, np.float32) * (0.6 * season.noise_level)
        out[..., band] = np.clip(plane + 0.5, 0, 255)
    return out
