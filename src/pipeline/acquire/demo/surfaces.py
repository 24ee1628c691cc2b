"""Seasons and materials of the demo: crops, crowns, roofs, asphalt, water, as 8-bit RGB before light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RGB = tuple[float, float, float]
CROPS = ("cereal", "maize", "bare", "meadow", "rape", "beet", "fallow")
MEADOW_CROP, BARE_CROP = 3, 2


@dataclass(frozen=True)
class CropLook:
    """A crop in one season: colour, variation between fields, row spacing (metres) and contrasts (8-bit levels)."""

    colour: RGB
    spread: float
    row_m: float
    row_level: float
    tram_level: float
    mottle: float


@dataclass(frozen=True)
class Season:
    """Light and colours of one flight.

    Attributes:
        azimuth_deg: the sun's direction, clockwise from north; `elevation_deg` above the horizon.
        crops: look of each of `CROPS`.
        broadleaf: colours that crowns are drawn from; `conifer` likewise.
        haze: share of `haze_rgb` mixed in; `relief` caps the light on sunward crowns.
        blur_px: the sensor's blur; `noise_level` its noise, 8-bit levels; `glint` the brightness of sun on water.
    """

    name: str
    azimuth_deg: float
    elevation_deg: float
    crops: tuple[CropLook, ...]
    broadleaf: tuple[RGB, ...]
    conifer: tuple[RGB, ...]
    grass: RGB
    lawn: RGB
    forest_floor: RGB
    water_deep: tuple[RGB, ...]
    water_shallow: RGB
    shadow: RGB
    haze: float
    haze_rgb: RGB
    gain: RGB
    blur_px: float
    noise_level: float
    glint: float
    relief: float


SUMMER = Season(
    name="summer",
    azimuth_deg=148.0,
    elevation_deg=54.0,
    crops=(
        CropLook((178, 160, 112), 11, 3.4, 3.0, 11, 8),
        CropLook((76, 94, 56), 8, 3.0, 5.0, 3, 7),
        CropLook((148, 126, 104), 13, 4.2, 4.5, 2, 10),
        CropLook((103, 122, 70), 12, 7.5, 3.0, 0, 9),
        CropLook((132, 138, 78), 11, 3.2, 2.5, 12, 8),
        CropLook((84, 110, 58), 9, 3.0, 4.5, 10, 8),
        CropLook((160, 152, 118), 11, 6.0, 5.0, 4, 11),
    ),
    broadleaf=((72, 92, 50), (80, 98, 52), (64, 84, 46), (90, 104, 60), (74, 86, 56)),
    conifer=((50, 68, 46), (54, 72, 52), (46, 62, 44)),
    grass=(114, 126, 78),
    lawn=(106, 124, 74),
    forest_floor=(58, 66, 42),
    water_deep=((40, 58, 58), (52, 72, 56), (46, 56, 46), (66, 84, 78)),
    water_shallow=(104, 106, 78),
    shadow=(0.42, 0.47, 0.55),
    haze=0.03,
    haze_rgb=(176, 190, 204),
    gain=(1.02, 1.02, 1.0),
    blur_px=0.62,
    noise_level=2.6,
    glint=16.0,
    relief=1.5,
)
AUTUMN = Season(
    name="autumn",
    azimuth_deg=212.0,
    elevation_deg=31.0,
    crops=(
        CropLook((156, 138, 104), 12, 5.0, 5.0, 5, 10),
        CropLook((134, 118, 84), 10, 3.0, 5.0, 2, 9),
        CropLook((112, 90, 72), 11, 3.6, 5.0, 2, 10),
        CropLook((110, 114, 68), 11, 8.0, 2.5, 0, 9),
        CropLook((122, 124, 64), 13, 3.4, 3.0, 7, 9),
        CropLook((96, 104, 62), 11, 3.2, 4.5, 9, 9),
        CropLook((128, 112, 88), 11, 4.4, 5.5, 3, 11),
    ),
    broadleaf=((132, 102, 56), (142, 118, 60), (116, 82, 52), (98, 96, 54), (122, 112, 66), (94, 76, 54), (84, 92, 52)),
    conifer=((52, 66, 44), (58, 70, 48), (48, 60, 44)),
    grass=(112, 112, 72),
    lawn=(104, 112, 66),
    forest_floor=(92, 72, 50),
    water_deep=((50, 56, 58), (60, 66, 56), (48, 50, 44), (72, 80, 80)),
    water_shallow=(110, 100, 78),
    shadow=(0.40, 0.43, 0.51),
    haze=0.09,
    haze_rgb=(186, 182, 178),
    gain=(1.10, 1.06, 1.0),
    blur_px=0.72,
    noise_level=3.2,
    glint=10.0,
    relief=1.3,
)
SEASONS = (SUMMER, AUTUMN)

ROOFS: tuple[RGB, ...] = (
    (158, 92, 72), (172, 108, 84), (140, 82, 66), (120, 84, 70), (106, 94, 88), (92, 90, 92),
    (132, 116, 102), (150, 98, 82), (112, 78, 66),
)  # fmt: skip
FLAT_ROOFS: tuple[RGB, ...] = ((150, 148, 144), (118, 116, 112), (172, 170, 166), (134, 128, 120), (104, 108, 92))
CARS: tuple[RGB, ...] = ((222, 222, 222), (60, 62, 66), (128, 130, 134), (150, 46, 42), (52, 70, 110), (190, 188, 180))
ASPHALT: dict[str, RGB] = {
    "motorway": (146, 144, 142),
    "trunk": (132, 131, 130),
    "primary": (126, 125, 124),
    "secondary": (130, 128, 125),
    "tertiary": (136, 133, 128),
    "residential": (134, 131, 128),
    "living_street": (150, 136, 124),
    "unclassified": (140, 135, 128),
    "track": (164, 152, 134),
}


def varied(rng: np.random.Generator, palette: tuple[RGB, ...], count: int, spread: float) -> NDArray[np.float32]:
    """`count` colours drawn from a palette, each brighter or darker by a deviation of `spread`, [N, 3]."""
    colours = np.asarray(palette, np.float32)[rng.integers(len(palette), size=count)]
    return (colours * (1 + spread * rng.standard_normal((count, 1))) + rng.normal(0, 3, (count, 3))).astype(np.float32)
