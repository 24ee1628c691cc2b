"""The numbers behind ResUNet-a's figures 3 to 5, against derivatives written out by hand and what the paper says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.losses._flow import Flow, flow

SIDE = 41


def closed(form: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """1 − D, its gradient and its Laplacian by hand at truth (1, 0), where D1 = 2x / (x + y + 1) and so on."""
    if form == "d1":
        s = x + y + 1
        return 1 - 2 * x / s, -2 * (y + 1) / s**2, 2 * x / s**2, 4 * (y + 1) / s**3 - 4 * x / s**3
    if form == "d2":
        s = x**2 + y**2 + 1
        slopes = -2 / s + 4 * x**2 / s**2, 4 * x * y / s**2
        return 1 - 2 * x / s, *slopes, 16 * x / s**2 - 16 * x * (x**2 + y**2) / s**3
    s = x**2 + y**2 + 1 - x
    slopes = -(s - x * (2 * x - 1)) / s**2, 2 * x * y / s**2
    along_x = (6 * x - 2) / s**2 - 2 * x * (2 * x - 1) ** 2 / s**3
    return 1 - x / s, *slopes, along_x + 2 * x / s**2 - 8 * x * y**2 / s**3


def planes(got: Flow) -> tuple[np.ndarray, ...]:
    return got.loss, got.slope_x, got.slope_y, got.laplacian


@pytest.mark.parametrize("form", ["d1", "d2", "d3"])
@pytest.mark.parametrize("complement", [False, True])
def test_derivatives_by_hand(form: str, complement: bool) -> None:
    """With complement: 1 − p and 1 − l at truth (1, 0) are the same plane with its axes turned and swapped."""
    got = flow(form, complement, (1.0, 0.0), SIDE)
    x, y = np.meshgrid(got.axis, got.axis)
    expected = closed(form, x, y)
    if complement:
        loss, along_x, along_y, laplacian = closed(form, 1 - y, 1 - x)
        other = (loss, -along_y, -along_x, laplacian)
        expected = tuple((own + dual) / 2 for own, dual in zip(expected, other, strict=True))
    for plane, wanted in zip(planes(got), expected, strict=True):
        np.testing.assert_allclose(plane, wanted, atol=1e-9)


@pytest.mark.parametrize(("form", "complement"), [("d1", False), ("d2", False), ("d3", True)])
def test_derivatives_by_differences(form: str, complement: bool) -> None:
    got = flow(form, complement, (0.5, 0.5), 401)
    step = got.axis[1]
    slope_y, slope_x = np.gradient(got.loss, step)
    inner = slice(2, -2)
    np.testing.assert_allclose(got.slope_x[inner, inner], slope_x[inner, inner], atol=2e-3)
    np.testing.assert_allclose(got.slope_y[inner, inner], slope_y[inner, inner], atol=2e-3)
    laplacian = np.gradient(slope_x, step)[1] + np.gradient(slope_y, step)[0]
    np.testing.assert_allclose(got.laplacian[inner, inner], laplacian[inner, inner], atol=0.02)


def angles(got: Flow, truth: tuple[float, float]) -> np.ndarray:
    """Degrees between the flow and the straight way to the truth, everywhere but next to it."""
    x, y = np.meshgrid(got.axis, got.axis)
    x, y = truth[0] - x, truth[1] - y
    length = np.hypot(x, y)
    far = length > 0.03
    cosine = -(got.slope_x * x + got.slope_y * y)[far] / (np.hypot(got.slope_x, got.slope_y) * length)[far]
    return np.degrees(np.arccos(cosine.clip(-1, 1)))


@pytest.mark.parametrize("truth", [(1.0, 0.0), (0.25, 0.85), (0.5, 0.5)])
@pytest.mark.parametrize("form", ["d2", "d3"])
def test_squares_lead_to_the_truth_and_with_complement_nearly_straight(form: str, truth: tuple[float, float]) -> None:
    """The paper calls the lines straight: they are within 16 degrees, and within 11 for the Tanimoto."""
    plain, both = (flow(form, complement, truth, SIDE) for complement in (False, True))
    for got in (plain, both):
        row, column = np.unravel_index(got.loss.argmin(), got.loss.shape)
        assert (got.axis[column], got.axis[row]) == pytest.approx(truth, abs=0.5 / (SIDE - 1) + 1e-9)
    assert 25 < angles(plain, truth).max() < 46
    assert 5 < angles(both, truth).max() < (16 if form == "d2" else 11)


def test_d1_leads_past_a_soft_truth() -> None:
    """Figure 5 a: the flow of D1 runs through (0.5, 0.5) towards (1, 1)."""
    got = flow("d1", False, (0.5, 0.5), SIDE)
    middle = SIDE // 2
    assert got.slope_x[middle, middle] < -0.2 and got.slope_y[middle, middle] < -0.2
    assert np.unravel_index(got.loss.argmin(), got.loss.shape) == (SIDE - 1, SIDE - 1)


def test_tanimoto_with_complement_is_symmetric_around_one_half() -> None:
    """Figure 5 c; D2 of figure 5 b is not."""
    got = flow("d3", True, (0.5, 0.5), SIDE)
    np.testing.assert_allclose(got.loss, got.loss[::-1, ::-1], atol=1e-12)
    np.testing.assert_allclose(got.slope_x, -got.slope_x[::-1, ::-1], atol=1e-12)
    skew = flow("d2", False, (0.5, 0.5), SIDE)
    assert np.abs(skew.loss - skew.loss[::-1, ::-1]).max() > 0.1


def test_the_laplacian_is_highest_near_the_truth_and_not_on_it() -> None:
    """The paper's text puts it on the truth for the Tanimoto with complement; it is nearest there, 0.2 away."""

    def distance(form: str, complement: bool) -> float:
        got = flow(form, complement, (1.0, 0.0), 201)
        row, column = np.unravel_index(got.laplacian.argmax(), got.laplacian.shape)
        return float(np.hypot(1 - got.axis[column], got.axis[row]))

    away = {key: distance(*key) for key in itertools.product(("d1", "d2", "d3"), (False, True))}
    assert min(away, key=lambda key: away[key]) == ("d3", True)
    assert away["d3", True] == pytest.approx(0.2, abs=0.01)
    assert away["d3", False] < away["d2", False]
