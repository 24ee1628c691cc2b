"""Distances between pixels against SciPy's exact transform and against every pair of pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from pipeline.errors import RunError
from pipeline.losses._distance import ROWS, signed_distance, split_target, squared_distance


def by_pairs(mask: np.ndarray, index: int) -> np.ndarray:
    """Signed distance to the nearest pixel of the other side, pixel by pixel."""
    inside, outside = np.argwhere(mask == index), np.argwhere((mask != index) & (mask != 255))
    found = np.zeros(mask.shape)
    for own, other, sign in ((inside, outside, -1), (outside, inside, 1)):
        if len(other):
            for y, x in own:
                found[y, x] = sign * np.sqrt(((other - (y, x)) ** 2).sum(axis=1).min())
    return found


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    classes=st.integers(1, 4),
    ignored=st.sampled_from([0, 0.3, 1]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
def test_signed_distance_by_every_pair(height: int, width: int, classes: int, ignored: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, max(2, classes), (height, width)).astype(np.uint8)
    mask[rng.random(mask.shape) < ignored] = 255
    maps = signed_distance(mask, classes)
    assert maps.dtype == np.float32 and maps.shape == (classes, height, width)
    for channel, index in enumerate(range(classes) if classes > 1 else [1]):
        np.testing.assert_allclose(maps[channel], by_pairs(mask, index), rtol=1e-6)


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.5, 0.999])
def test_squared_distance_is_scipys(share: float) -> None:
    """More rows than are computed at a time, so that parts are joined too."""
    there = np.random.default_rng(0).random((12, 70, 55)) < share
    assert ROWS < 12 * 70
    there[0] = False
    found = squared_distance(torch.from_numpy(there))
    assert torch.isinf(found[0]).all()
    for got, one in zip(found[1:].numpy(), there[1:], strict=True):
        expected = distance_transform_edt(~one) ** 2 if one.any() else np.full(one.shape, np.inf)
        np.testing.assert_array_equal(got, np.round(expected))


def test_far_corners_are_exact() -> None:
    there = torch.zeros(3, 2896, dtype=torch.bool)
    there[0, 0] = True
    assert squared_distance(there)[2, -1].item() == 2895**2 + 4


def test_both_sides_of_an_edge_are_one_pixel_away() -> None:
    mask = np.array([[0, 0, 0, 1, 1]], np.uint8)
    assert signed_distance(mask, 1).tolist() == [[[3, 2, 1, -1, -2]]]
    assert signed_distance(mask, 2).tolist() == [[[-3, -2, -1, 1, 2]], [[3, 2, 1, -1, -2]]]


@pytest.mark.parametrize("value", [0, 1, 255])
def test_without_a_boundary_there_is_no_distance(value: int) -> None:
    assert not signed_distance(np.full((4, 3), value, np.uint8), 3).any()


def test_ignored_pixels_lie_on_neither_side() -> None:
    """The nearest pixel of the other side counts, and not the ignored ones before it."""
    mask = np.array([[1, 255, 255, 0, 255]], np.uint8)
    assert signed_distance(mask, 1).tolist() == [[[-3, 0, 0, 3, 0]]]


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_turning_the_mask_turns_the_maps(turns: int, flip: bool) -> None:
    mask = np.random.default_rng(1).integers(0, 3, (7, 5)).astype(np.uint8)
    mask[2, :3] = 255

    def turned(array: np.ndarray) -> np.ndarray:
        array = np.rot90(array, turns, axes=(-2, -1))
        return array[..., ::-1] if flip else array

    np.testing.assert_array_equal(signed_distance(turned(mask), 3), turned(signed_distance(mask, 3)))


def test_maps_of_another_shape() -> None:
    target = {"mask": torch.zeros(1, 4, 4, dtype=torch.int64), "signed_distance": torch.zeros(1, 1, 4, 4)}
    with pytest.raises(RunError, match=r"signed_distance \[1, 1, 4, 4\]") as caught:
        split_target("boundary_distance", torch.zeros(1, 3, 4, 4), target)
    assert "\n" not in str(caught.value)
