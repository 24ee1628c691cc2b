"""The extra targets of multi-task learning against SciPy, colorsys, and a Canny detector written from its steps."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.errors import RunError
from pipeline.losses._tasks import boundary, colour, distance

CROSS = ndimage.generate_binary_structure(2, 1)


def blobs(seed: int, classes: int = 3, ignored: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.integers(0, classes, (6, 5)), np.ones((4, 4), int)).astype(np.uint8)
    mask[rng.random(mask.shape) < ignored] = 255
    return mask


def canny_outline(own: np.ndarray) -> np.ndarray:
    """Canny of a binary image, both sides of a step kept: Sobel, then pixels no weaker than both neighbours across."""
    image = own.astype(float)
    x, y = (ndimage.sobel(image, axis=axis, mode="nearest") for axis in (1, 0))
    strength = np.abs(x) + np.abs(y)
    padded = np.pad(strength, 1)
    kept = np.zeros_like(own)
    for row, col in zip(*np.nonzero(strength), strict=True):
        gx, gy = x[row, col], y[row, col]
        if abs(gy) < abs(gx) * np.tan(np.pi / 8):
            step = (0, 1)
        elif abs(gy) > abs(gx) * np.tan(3 * np.pi / 8):
            step = (1, 0)
        else:
            step = (1, 1) if gx * gy > 0 else (1, -1)
        sides = (padded[row + 1 + s * step[0], col + 1 + s * step[1]] for s in (-1, 1))
        kept[row, col] = all(strength[row, col] >= side for side in sides)
    return kept


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_boundary_is_the_outline_dilated_by_a_cross(classes: int) -> None:
    mask = blobs(3, max(2, classes))
    found = boundary(mask, classes)
    assert found.shape == (classes, *mask.shape) and found.dtype == np.uint8
    for channel, index in zip(found, [1] if classes == 1 else range(classes), strict=True):
        own = mask == index
        # eroding by the cross takes off what touches anything else; the frame and ignored pixels take off nothing
        outline = own & ~ndimage.binary_erosion(own | (mask == 255), CROSS, border_value=1)
        assert np.array_equal(channel, ndimage.binary_dilation(outline, CROSS)) and channel.any()


def test_the_outline_is_cannys_on_the_classs_own_side() -> None:
    mask = np.zeros((24, 24), np.uint8)
    mask[5:17, 7:19] = 1
    candidates = canny_outline(mask == 1)
    assert candidates.sum() > 80  # both sides of all four steps
    own = candidates & (mask == 1)
    ring = np.zeros_like(own)
    ring[5:17, 7:19] = True
    ring[6:16, 8:18] = False
    corners = np.zeros_like(own)
    corners[np.ix_([5, 16], [7, 18])] = True
    assert np.array_equal(own | corners, ring)  # a Canny may round corners off
    assert np.array_equal(boundary(mask, 1)[0], ndimage.binary_dilation(ring, CROSS))


def test_a_straight_boundary_is_three_pixels_wide_on_both_sides_alike() -> None:
    mask = np.zeros((6, 10), np.uint8)
    mask[:, 5:] = 1
    zero, one = boundary(mask, 2)
    assert np.array_equal(np.flatnonzero(zero[2]), [3, 4, 5]) and np.array_equal(np.flatnonzero(one[2]), [4, 5, 6])
    assert (zero == zero[0]).all() and (one == one[0]).all()  # the chip's frame is no boundary


def test_ignored_areas_and_frames_make_no_boundary_and_no_distance() -> None:
    mask = np.full((8, 8), 255, np.uint8)
    mask[2:6, 2:6] = 1
    assert not boundary(mask, 3).any()
    assert np.array_equal(distance(mask, 3)[1], mask == 1) and not distance(mask, 3)[[0, 2]].any()


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_distance_is_scipys_over_its_largest(classes: int) -> None:
    mask = blobs(7, max(2, classes))
    found = distance(mask, classes)
    assert found.shape == (classes, *mask.shape) and found.dtype == np.float16
    for channel, index in zip(found, [1] if classes == 1 else range(classes), strict=True):
        own = mask == index
        away = ndimage.distance_transform_edt(own | (mask == 255)) * own
        assert np.allclose(channel, away / away.max(), atol=5e-4) and channel.max() == 1


@given(
    values=st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=30),
)
def test_colour_is_colorsyss(values: list[tuple[int, int, int]]) -> None:
    image = np.array(values, np.uint8).T.reshape(3, 1, -1)
    expected = np.array([colorsys.rgb_to_hsv(*(v / 255 for v in pixel)) for pixel in values]).T
    assert np.allclose(colour(image)[:, 0], expected, atol=5e-4)


def test_colour_of_other_types_and_more_bands() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 65536, (2, 5, 3, 3)).astype(np.uint16)
    expected = [
        colorsys.rgb_to_hsv(*(v / 65535 for v in pixel)) for pixel in np.moveaxis(image[1, :3], 0, -1).reshape(-1, 3)
    ]
    assert np.allclose(np.moveaxis(colour(image)[1], 0, -1).reshape(-1, 3), expected, atol=5e-4)
    floats = np.array([np.nan, -1.0, 7.0]).reshape(3, 1, 1)
    assert colour(floats).ravel().tolist() == pytest.approx([2 / 3, 1, 1], abs=5e-4)
    with pytest.raises(RunError, match="needs red, green and blue: the images have 2 of three bands"):
        colour(image[:, :2])


@given(seed=st.integers(0, 2**16), turns=st.integers(0, 3), mirror=st.booleans())
@settings(max_examples=30, deadline=None)
def test_deriving_commutes_with_the_symmetries_of_the_square(seed: int, turns: int, mirror: bool) -> None:
    def moved(array: np.ndarray) -> np.ndarray:
        array = np.rot90(array, turns, (-2, -1))
        return array[..., ::-1] if mirror else array

    mask = blobs(seed)
    image = np.random.default_rng(seed).integers(0, 256, (3, *mask.shape)).astype(np.uint8)
    assert np.array_equal(boundary(moved(mask), 3), moved(boundary(mask, 3)))
    assert np.array_equal(distance(moved(mask), 3), moved(distance(mask, 3)))
    assert np.array_equal(colour(moved(image)), moved(colour(image)))
