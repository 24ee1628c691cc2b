"""What moves pixels moves image, mask and targets by one map: exactly, folded or not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import augment, variants
from pipeline.augment import _geometry as geometry
from pipeline.errors import ConfigError, RunError
from tests.unit.augment.conftest import traced

ALL = torch.ones(1, dtype=torch.bool)


def random_batch(chips: int, side: int, top: float = 255.0) -> dict[str, torch.Tensor]:
    mask = torch.randint(0, 4, (chips, side, side))
    mask[:, :3, :2] = 255
    return {
        "image": torch.rand(chips, 3, side, side) * top,
        "mask": mask,
        "boundary": torch.rand(chips, 4, side, side),
        "signed_distance": torch.randn(chips, 4, side, side),
    }


def warped(batch: dict[str, torch.Tensor], centre: tuple[float, float], degrees: float, zoom: float) -> Any:
    numbers = [torch.tensor([value], dtype=torch.float64) for value in (degrees, zoom)]
    maps = geometry.turned(torch.tensor([centre], dtype=torch.float64), *numbers)
    return geometry.warp(batch, maps, ALL)


def reference_places(
    centre: tuple[float, float], degrees: float, zoom: float, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """x and y [H, W] float64 of the equation, folded by a triangle wave; counter-clockwise with y pointing down."""
    y, x = np.mgrid[:height, :width].astype(float)
    angle = math.radians(degrees)
    dx, dy = x - centre[0], y - centre[1]
    found = (
        centre[0] + (math.cos(angle) * dx - math.sin(angle) * dy) / zoom,
        centre[1] + (math.sin(angle) * dx + math.cos(angle) * dy) / zoom,
    )
    folded = [
        np.arccos(np.cos(place * math.pi / (size - 1))) * (size - 1) / math.pi
        for place, size in zip(found, (width, height), strict=True)
    ]
    return folded[0], folded[1]


@pytest.mark.parametrize("side", [8, 13, 32, 100])
@pytest.mark.parametrize("turns", [0, 1, 2, 3, -1])
def test_quarter_turns_about_the_middle_are_those_of_rot90(side: int, turns: int) -> None:
    batch = random_batch(1, side)
    found = warped(batch, ((side - 1) / 2, (side - 1) / 2), 90.0 * turns, 1.0)
    expected = {name: torch.rot90(tensor, turns, (-2, -1)) for name, tensor in batch.items()}
    for name in ("mask", "boundary", "signed_distance"):
        assert torch.equal(found[name], expected[name]), name
    if side & (side - 1) == 0:  # grid_sample's places within -1 to 1 are exact where the side is a power of two
        assert torch.equal(found["image"], expected["image"])
    assert (found["image"] - expected["image"]).abs().max() / 255 < 1e-4


@given(
    height=st.integers(2, 17),
    width=st.integers(2, 17),
    across=st.floats(0, 1),
    down=st.floats(0, 1),
    degrees=st.floats(-180, 180),
    zoom=st.floats(0.1, 4),
)
@settings(max_examples=150, deadline=None)
def test_any_map_takes_mask_and_targets_from_one_pixel_and_the_image_from_there(
    height: int, width: int, across: float, down: float, degrees: float, zoom: float
) -> None:
    centre = (across * width - 0.5, down * height - 0.5)
    found = warped(traced(1, height, width), centre, degrees, zoom)
    y, x, chip = found["boundary"][0].long()
    assert torch.equal(found["mask"][0], y * width + x) and not chip.any()  # whole numbers of one and the same pixel
    torch.testing.assert_close(found["signed_distance"][0, 0], (x + 1).float() * zoom)
    near = (found["image"][0] - torch.stack([x, y])).abs()
    assert near.max() <= 0.5 + 1e-4
    places = np.stack(reference_places(centre, degrees, zoom, height, width))
    assert np.abs(found["image"][0].numpy() - places).max() < 2e-3  # the equation, mirrored parts included


def test_the_mirror_image_is_numpys_reflect() -> None:
    batch = random_batch(1, 9)
    found = warped(batch, (4.0, 4.0), 0.0, 1 / 3)  # every third pixel of the chip and its mirror images around it
    expected = np.pad(batch["mask"][0].numpy(), 8, mode="reflect")[::3, ::3]
    assert np.array_equal(found["mask"][0].numpy(), expected)
    image = np.pad(batch["image"][0].numpy(), ((0, 0), (8, 8), (8, 8)), mode="reflect")[:, ::3, ::3]
    np.testing.assert_allclose(found["image"][0].numpy(), image, atol=2e-3)


def test_a_zoom_above_one_sees_less_and_signed_distances_grow_with_it() -> None:
    found = warped(traced(1, 17, 17), (8.0, 8.0), 0.0, 2.0)
    seen = found["boundary"][0, :2]
    assert seen.min() == 4 and seen.max() == 12
    assert torch.equal(found["signed_distance"][0, 0], (found["boundary"][0, 1] + 1) * 2)


def test_the_image_is_the_bilinear_mean_of_its_four_neighbours() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    batch, centre, degrees, zoom = random_batch(1, 16), (3.2, 9.1), 37.0, 0.6
    x, y = reference_places(centre, degrees, zoom, 16, 16)
    expected = [ndimage.map_coordinates(band.astype(float), [y, x], order=1) for band in batch["image"][0].numpy()]
    found = warped(batch, centre, degrees, zoom)["image"][0]
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)


def test_chips_that_are_not_picked_stay_to_the_bit() -> None:
    batch = random_batch(4, 13)
    maps = geometry.turned(torch.full((4, 2), 3.3).double(), torch.full((4,), 20.0).double(), torch.ones(4).double())
    pick = torch.tensor([True, False, True, False])
    some, every = geometry.warp(batch, maps, pick), geometry.warp(batch, maps, pick | True)
    for name in batch:
        assert torch.equal(some[name][~pick], batch[name][~pick])
        assert torch.equal(some[name][pick], every[name][pick])
        assert not torch.equal(some[name][pick], batch[name][pick])


# --- rotation and scale jitter --------------------------------------------------------------------------------------


def drawn(monkeypatch: pytest.MonkeyPatch, name: str, chips: int = 4000, **params: Any) -> dict[str, torch.Tensor]:
    """What augmentation `name` hands to `turned` for many chips."""
    seen: dict[str, torch.Tensor] = {}

    def turned(centre: torch.Tensor, degrees: torch.Tensor, zoom: torch.Tensor) -> torch.Tensor:
        seen.update(centre=centre, degrees=degrees, zoom=zoom)
        return torch.zeros(0)

    module = variants.load("augment", name)
    monkeypatch.setattr(module, "turned", turned)
    monkeypatch.setattr(module, "warp", lambda batch, maps, pick: seen.update(pick=pick))
    augment.create(name, **params)({"mask": torch.zeros(chips, 5, 10)})
    return seen


def spread(values: torch.Tensor, low: float, high: float) -> bool:
    """Whether many numbers lie evenly between two."""
    quarters = torch.histc(values, 4, low, high) / len(values)
    return bool(values.min() >= low and values.max() <= high and (quarters - 0.25).abs().max() < 0.04)


def test_rotation_draws_resunet_as_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = drawn(monkeypatch, "rotation")
    assert spread(seen["degrees"], -85, 85) and spread(seen["zoom"], 0.25, 1.25) and seen["pick"].all()
    assert spread(seen["centre"][:, 0], -0.5, 9.5) and spread(seen["centre"][:, 1], -0.5, 4.5)


def test_rotation_draws_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = drawn(monkeypatch, "rotation", max_degrees=180, zoom_min=1, zoom_max=1, centre="middle", probability=0.3)
    assert spread(seen["degrees"], -180, 180) and (seen["zoom"] == 1).all()
    assert (seen["centre"] == torch.tensor([4.5, 2.0])).all()
    assert 0.27 < seen["pick"].double().mean() < 0.33


def test_scale_jitter_never_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = drawn(monkeypatch, "scale_jitter", scale_min=0.5, scale_max=1.5)
    assert spread(seen["zoom"], 0.5, 1.5) and not seen["degrees"].any() and seen["pick"].all()


def test_scale_jitter_that_enlarges_shows_one_window_of_the_chip() -> None:
    batch = traced(200, 16, 16)
    found = augment.create("scale_jitter", scale_min=2, scale_max=2)(batch)["boundary"]
    corners = found[:, :2, 0, 0]
    assert (found[:, :2, -1, -1] - corners - 7.5).abs().max() <= 0.5  # half of the side, no mirror image
    assert corners.min() == 0 and corners.max() == 8 and len(corners.unique()) == 9


def test_scale_jitter_that_reduces_shows_all_of_the_chip() -> None:
    found = augment.create("scale_jitter", scale_min=0.5, scale_max=0.5)(traced(20, 16, 16))["boundary"]
    assert all(len(chip[0].unique()) >= 8 and len(chip[1].unique()) >= 8 for chip in found)


# --- flips ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("quarter_turns", "kinds"), [(False, 4), (True, 8)])
def test_flips_are_the_symmetries_each_as_often(quarter_turns: bool, kinds: int) -> None:
    batch = traced(1600, 3, 3)
    default = (kinds - 1) / kinds
    found = augment.create("flips", quarter_turns=quarter_turns, probability=default)(batch)
    square = torch.arange(9).view(3, 3)
    known = [square, square.flip(0), square.flip(1), square.flip((0, 1))]
    known += [one.T for one in known] if quarter_turns else []
    counts = torch.tensor([(found["mask"] == one).all(dim=(1, 2)).sum() for one in known])
    assert counts.sum() == 1600 and len(counts) == kinds
    assert (counts / 1600 - 1 / kinds).abs().max() < 0.04
    y, x, chip = found["boundary"].long().unbind(1)
    assert torch.equal(found["mask"], y * 3 + x) and torch.equal(chip, batch["boundary"][:, 2].long())
    assert torch.equal(found["image"], torch.stack([x, y], 1).float())
    assert torch.equal(found["signed_distance"][:, 0], (x + 1).float())


def test_flips_with_certainty_leave_no_chip_as_it_was() -> None:
    batch = traced(200, 3, 3)
    found = augment.create("flips", quarter_turns=True, probability=1)(batch)
    assert (found["mask"] != batch["mask"]).any(dim=(1, 2)).all()


def test_reflections_take_chips_of_any_shape_and_quarter_turns_square_ones() -> None:
    batch = traced(20, 4, 6)
    assert augment.create("flips")(batch)["mask"].shape == (20, 4, 6)
    with pytest.raises(RunError, match="square chips, got 4 x 6 px"):
        augment.create("flips", quarter_turns=True)(batch)


# --- random crop ------------------------------------------------------------------------------------------------------


def test_a_crop_is_a_window_of_every_tensor_at_the_same_place() -> None:
    batch = traced(300, 9, 12)
    found = augment.create("random_crop", px=7)(batch)
    y, x, chip = found["boundary"].long().unbind(1)
    rows, columns = y[:, 0, 0], x[:, 0, 0]
    for name, tensor in batch.items():
        windows = [one[..., r : r + 7, c : c + 7] for one, r, c in zip(tensor, rows, columns, strict=True)]
        assert torch.equal(found[name], torch.stack(windows)), name
    assert torch.equal(chip[:, 0, 0], torch.arange(300))
    assert rows.unique().tolist() == [0, 1, 2] and columns.unique().tolist() == [0, 1, 2, 3, 4, 5]


def test_a_crop_of_the_chips_own_size_is_the_chip_and_a_larger_one_a_line() -> None:
    batch = traced(2, 6, 6)
    same = augment.create("random_crop", px=6)(batch)
    assert all(torch.equal(same[name], batch[name]) for name in batch)
    with pytest.raises(ConfigError, match="px 7 is more than the chips' 6 px; take a smaller px") as caught:
        augment.create("random_crop", px=7)(batch)
    assert "\n" not in str(caught.value)


# --- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("flips", {"probability": 1.5}, "flips: probability must be 0 to 1, got 1.5"),
        ("flips", {"quarter_turns": 1}, "quarter_turns must be true or false"),
        ("rotation", {"max_degrees": 181}, "max_degrees must be 0 to 180, got 181"),
        ("rotation", {"max_degrees": -1}, "max_degrees must be 0 to 180, got -1"),
        ("rotation", {"zoom_min": 0}, "zoom_min and zoom_max must be above 0 and in order, got 0.0 and 1.25"),
        ("rotation", {"zoom_min": 2}, "zoom_min and zoom_max must be above 0 and in order, got 2.0 and 1.25"),
        ("rotation", {"centre": "corner"}, "centre must be one of random, middle; got 'corner'"),
        ("rotation", {"probability": -0.1}, "probability must be 0 to 1"),
        ("scale_jitter", {"scale_max": 0.4}, "scale_min and scale_max must be above 0 and in order, got 0.5 and 0.4"),
        ("scale_jitter", {"probability": 2}, "probability must be 0 to 1"),
        ("random_crop", {"px": 0}, "px must be 1 or more, got 0"),
    ],
)
def test_wrong_parameters_are_one_line_while_the_snakefile_is_parsed(
    name: str, params: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        variants.check("augment", name, params, "config/studies/a.yaml: train.augment")
    assert str(caught.value).startswith("config/studies/a.yaml: train.augment: ") and "\n" not in str(caught.value)
