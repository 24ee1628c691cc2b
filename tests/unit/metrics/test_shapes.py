"""BF1 and Hausdorff distances against plain loops, SciPy, and MONAI."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.spatial.distance import cdist, directed_hausdorff

from pipeline import metrics, variants
from pipeline.errors import ConfigError, RunError
from pipeline.metrics import _shapes

FORMS = ["hausdorff", "hausdorff_95", "average_hausdorff", "balanced_average_hausdorff", "modified_average_hausdorff"]
TWO = ("other", "own")


def edges(mask: np.ndarray, known: np.ndarray, neighbours: int = 8) -> np.ndarray:
    """Boundary pixels by a loop over pixels and their neighbours."""
    found = []
    for r, c in np.argwhere(mask):
        around = [(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if neighbours == 8 or not i * j]
        inside = [(i, j) for i, j in around if 0 <= i < mask.shape[0] and 0 <= j < mask.shape[1]]
        if any(known[place] and not mask[place] for place in inside):
            found.append((r, c))
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def sets(truth: np.ndarray, predicted: np.ndarray, index: int = 1, whole: bool = False, neighbours: int = 8):
    """X of the prediction and Y of the truth."""
    known = truth != 255
    masks = (predicted == index) & known, truth == index
    return [np.argwhere(mask) if whole else edges(mask, known, neighbours) for mask in masks]


def reference_bf1(truth: np.ndarray, predicted: np.ndarray, theta: float, index: int = 1) -> list[float]:
    guessed, true = sets(truth, predicted, index)
    apart = cdist(guessed, true) if len(guessed) and len(true) else np.full((len(guessed), len(true)), np.inf)
    precision = np.mean([min(row, default=math.inf) < theta for row in apart]) if len(guessed) else math.nan
    recall = np.mean([min(row, default=math.inf) < theta for row in apart.T]) if len(true) else math.nan
    total = precision + recall
    return [0.0 if total == 0 else 2 * precision * recall / total, precision, recall]


def reference_hausdorff(guessed: np.ndarray, true: np.ndarray) -> dict[str, float]:
    if not len(guessed) or not len(true):
        return dict.fromkeys(FORMS, math.nan)
    apart = cdist(guessed, true)
    there, back = apart.min(axis=1), apart.min(axis=0)
    values = (
        max(there.max(), back.max()),
        max(np.percentile(there, 95), np.percentile(back, 95)),
        0.5 * (there.sum() / len(there) + back.sum() / len(back)),
        0.5 * (there.sum() / len(back) + back.sum() / len(back)),
        0.5 * (np.percentile(apart, 5, axis=1).mean() + np.percentile(apart, 5, axis=0).mean()),
    )
    return dict(zip(FORMS, map(float, values), strict=True))


def blob(seed: int, size: tuple[int, int] = (40, 33), smooth: float = 2.0) -> np.ndarray:
    return (ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(size), smooth) > 0.02).astype(np.uint8)


def shapes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Truth and prediction of two classes, adversarial ones among them."""
    empty, full = np.zeros((12, 15), np.uint8), np.ones((12, 15), np.uint8)
    pixel, corner, line, other_line, hole = (empty.copy() for _ in range(5))
    pixel[5, 6] = corner[0, 0] = line[3] = 1
    other_line[:, 14] = 1
    hole[2:10, 2:13] = 1
    hole[5:7, 5:7] = 0
    checker = (np.indices((12, 15)).sum(axis=0) % 2).astype(np.uint8)
    ignored = hole.copy()
    ignored[4:8, 3:9] = 255
    return {
        "one pixel each": (pixel, corner),
        "lines at the border": (line, other_line),
        "hole against full": (hole, full),
        "checkerboard": (checker, 1 - checker),
        "checkerboard and hole": (checker, hole),
        "ignored inside": (ignored, checker),
        "empty truth": (empty, hole),
        "empty prediction": (hole, empty),
        "both empty": (empty, empty),
        "both full": (full, full),
        "all ignored": (np.full_like(full, 255), hole),
        "blobs": (blob(0), blob(1)),
        "noise": (blob(2, smooth=0.3), blob(3, smooth=0.3)),
        "far apart": (np.pad(blob(4, (9, 9)), ((0, 40), (0, 0))), np.pad(blob(5, (9, 9)), ((40, 0), (0, 0)))),
    }


@pytest.mark.parametrize("what", shapes())
@pytest.mark.parametrize("theta", [1, 2.5, 3, 5])
def test_bf1_equals_the_equation(what: str, theta: float) -> None:
    truth, predicted = shapes()[what]
    scores = metrics.create("boundary_f1", theta=[theta])(truth, predicted, TWO)
    for index, label in enumerate(TWO):
        got = [scores[f"boundary_{part}_{theta:g}_{label}"] for part in ("f1", "precision", "recall")]
        assert got == pytest.approx(reference_bf1(truth, predicted, theta, index), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("what", shapes())
@pytest.mark.parametrize("on", ["boundary", "mask"])
@pytest.mark.parametrize("neighbours", [4, 8])
def test_hausdorff_equals_the_equations(what: str, on: str, neighbours: int) -> None:
    truth, predicted = shapes()[what]
    metric = metrics.create("hausdorff", forms=FORMS, on=on, neighbours=neighbours)
    scores = metric(truth, predicted, TWO, 0.3)
    each = [reference_hausdorff(*sets(truth, predicted, index, on == "mask", neighbours)) for index in range(2)]
    for form in FORMS:
        values = np.array([expected[form] for expected in each])
        got = [scores[f"{form}_px_{label}"] for label in TWO]
        assert got == pytest.approx(values, rel=1e-12, nan_ok=True), form
        assert [scores[f"{form}_m_{label}"] for label in TWO] == pytest.approx(values * 0.3, rel=1e-12, nan_ok=True)
        mean = values[~np.isnan(values)].mean() if not np.isnan(values).all() else math.nan
        assert scores[f"{form}_px"] == pytest.approx(mean, rel=1e-12, nan_ok=True)
        assert scores[f"{form}_m"] == pytest.approx(mean * 0.3, rel=1e-12, nan_ok=True)


masks = hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 1, 255]))


@given(masks, st.integers(0, 2**16), st.sampled_from([4, 8]))
@settings(max_examples=80, deadline=None)
def test_any_mask(truth: np.ndarray, seed: int, neighbours: int) -> None:
    predicted = np.random.default_rng(seed).integers(0, 2, truth.shape).astype(np.uint8)
    known = truth != 255
    assert np.array_equal(_shapes.boundary(truth == 1, known, neighbours), edges(truth == 1, known, neighbours))
    bf1 = metrics.create("boundary_f1", theta=[2])(truth, predicted, TWO)
    got = [bf1[f"boundary_{part}_2_own"] for part in ("f1", "precision", "recall")]
    assert got == pytest.approx(reference_bf1(truth, predicted, 2), abs=1e-12, nan_ok=True)
    found = metrics.create("hausdorff", forms=FORMS)(truth, predicted, TWO)
    expected = reference_hausdorff(*sets(truth, predicted))
    assert [found[f"{form}_px_own"] for form in FORMS] == pytest.approx(list(expected.values()), nan_ok=True)
    assert not [key for key in found if "_m" in key.replace("_modified", "")]


@pytest.mark.parametrize("seed", range(4))
def test_hausdorff_equals_scipy(seed: int) -> None:
    truth, predicted = blob(seed), blob(seed + 10)
    guessed, true = sets(truth, predicted)
    expected = max(directed_hausdorff(guessed, true)[0], directed_hausdorff(true, guessed)[0])
    assert metrics.create("hausdorff")(truth, predicted, TWO)["hausdorff_px_own"] == expected
    edt = ndimage.distance_transform_edt(truth != 1)[predicted == 1]
    whole = metrics.create("hausdorff", on="mask")(truth, predicted, TWO)["hausdorff_px_own"]
    assert whole == max(edt.max(), ndimage.distance_transform_edt(predicted != 1)[truth == 1].max())


@pytest.mark.parametrize("seed", range(3))
def test_equals_monai(seed: int) -> None:
    """MONAI's edges touch along pixels' edges, and the image's edge is one: so the shapes keep off it."""
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    truth, predicted = (np.pad(blob(seed + add), 2) for add in (0, 20))
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (predicted, truth)]
    scores = metrics.create("hausdorff", neighbours=4)(truth, predicted, TWO)
    for form, percentile in (("hausdorff", None), ("hausdorff_95", 95)):
        theirs = compute_hausdorff_distance(*tensors, include_background=True, percentile=percentile)
        assert scores[f"{form}_px_own"] == pytest.approx(float(theirs), rel=1e-6)
    there, back = (
        float(compute_average_surface_distance(*pair, include_background=True)) for pair in (tensors, tensors[::-1])
    )
    assert scores["average_hausdorff_px_own"] == pytest.approx((there + back) / 2, rel=1e-6)


@pytest.mark.parametrize("count", [1, 7, 400, 2000])
def test_tree_and_transform_are_equal_to_the_last_bit(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(count)
    points, others = rng.integers(0, 50, (count, 2)), rng.integers(-20, 90, (max(1, count // 2), 2))
    expected = cdist(points, others).min(axis=1)
    for share in (0, 10**9):
        monkeypatch.setattr(_shapes, "TREE_SHARE", share)
        assert np.array_equal(_shapes.distances(points, others), expected)
    nearer = _shapes.distances(points, others, within=5)
    assert np.array_equal(nearer < 5, expected < 5) and np.array_equal(nearer[nearer < 5], expected[expected < 5])


def test_percentiles_take_any_memory() -> None:
    rng = np.random.default_rng(0)
    points, others = rng.integers(0, 99, (23, 2)), rng.integers(0, 99, (41, 2))
    for share in (0, 0.05, 0.5, 1):
        expected = np.quantile(cdist(points, others), share, axis=1)
        for memory in (1, 100, 10**6):
            assert _shapes.percentile_distances(points, others, share, memory) == pytest.approx(expected, rel=1e-14)
    assert np.isinf(_shapes.percentile_distances(points, others[:0], 0.05)).all()


def test_closer_than_theta_is_strict() -> None:
    """Two lines 3 px apart: not closer than 3, closer than 3.01."""
    truth, predicted = np.zeros((2, 20, 9), np.uint8)
    truth[4], predicted[7] = 1, 1
    scores = metrics.create("boundary_f1", theta=[3, 3.01])(truth, predicted, TWO)
    assert scores["boundary_f1_3_own"] == 0.0 and scores["boundary_f1_3.01_own"] == 1.0


def test_boundaries_are_those_of_the_papers_pooling() -> None:
    """Equation 1 at θ0 = 3: maxpool(1 − y) − (1 − y), within the image."""
    for truth, _ in shapes().values():
        mask = truth == 1
        known = np.ones_like(mask)
        inverted = torch.from_numpy(~mask).float()[None, None]
        pooled = torch.nn.functional.max_pool2d(inverted, 3, 1, 1) - inverted
        assert np.array_equal(_shapes.boundary(mask, known), np.argwhere(pooled[0, 0].numpy() > 0))


def test_a_class_that_is_missed_costs_if_asked_to() -> None:
    truth = np.pad(np.ones((6, 6), np.uint8), 5)
    predicted = np.zeros_like(truth)
    lenient = metrics.create("boundary_f1", theta=[3])(truth, predicted, TWO)
    assert math.isnan(lenient["boundary_f1_3_own"]) and lenient["boundary_recall_3_own"] == 0
    assert math.isnan(lenient["boundary_precision_3_own"])
    strict = metrics.create("boundary_f1", theta=[3], empty="zero")
    assert strict(truth, predicted, TWO)["boundary_f1_3_own"] == 0 == strict(predicted, truth, TWO)["boundary_f1_3_own"]
    assert all(math.isnan(value) for key, value in strict(predicted, predicted, TWO).items() if "f1" in key)


def test_an_ignored_strip_makes_no_boundary() -> None:
    truth = np.ones((10, 10), np.uint8)
    truth[:, 5] = 255
    predicted = np.ones_like(truth)
    assert all(map(math.isnan, metrics.create("boundary_f1")(truth, predicted, TWO).values()))
    predicted[:, 5] = 0
    assert all(map(math.isnan, metrics.create("hausdorff")(truth, predicted, TWO).values()))
    assert metrics.create("hausdorff", on="mask")(truth, predicted, TWO)["hausdorff_px_own"] == 0


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("boundary_f1", {"theta": []}, "theta must list"),
        ("boundary_f1", {"theta": [3, 0]}, "above 0"),
        ("boundary_f1", {"theta": [3, 3.0]}, "each once"),
        ("boundary_f1", {"theta": ["3"]}, "theta must list"),
        ("boundary_f1", {"theta": [True]}, "theta must list"),
        ("boundary_f1", {"theta": 3}, "a list"),
        ("boundary_f1", {"empty": "one"}, "nan, zero"),
        ("boundary_f1", {"neighbours": 6}, "4, 8"),
        ("hausdorff", {"forms": ["hausdorf"]}, r"no form 'hausdorf'; did you mean 'hausdorff'\? choices: "),
        ("hausdorff", {"forms": [3]}, "no form 3"),
        ("hausdorff", {"forms": [["hausdorff"]]}, "no form"),
        ("hausdorff", {"forms": []}, "one or more"),
        ("hausdorff", {"forms": ["hausdorff"] * 2}, "each once"),
        ("hausdorff", {"on": "edge"}, "boundary, mask"),
    ],
)
def test_parameters_are_checked_before_any_job(name: str, params: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        variants.check("metrics", name, params, "config/studies/mine.yaml: metrics")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("config/studies/mine.yaml: metrics")


@pytest.mark.parametrize("name", ["boundary_f1", "hausdorff"])
def test_maps_that_do_not_fit_are_named(name: str) -> None:
    metric, good = metrics.create(name), np.zeros((4, 5), np.uint8)
    for truth, predicted, message in (
        (good, good.T, "not both"),
        (good[None], good[None], "not both"),
        (good + 2, good, "truth has classes 2 to 2"),
        (good, good + 9, "prediction has classes 9 to 9"),
        (good.astype(float), good, "class indices"),
    ):
        with pytest.raises(RunError, match=message):
            metric(truth, predicted, TWO)
    metric(np.full_like(good, 255), good + 9, TWO)
