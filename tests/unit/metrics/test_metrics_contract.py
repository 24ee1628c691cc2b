"""What every metric promises, whatever its file.

Constants of a metric's own file: NEEDS (what it is given), BEST (its scores of a perfect prediction, 1 where it says
nothing), SMALL (parameters for this test).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import metrics, variants
from pipeline.errors import ConfigError
from pipeline.metrics.confusion import confusion_counts
from pipeline.metrics.histograms import ExactProbabilities

NAMES = variants.names("metrics")
CLASSES = ("forest", "fields", "urban", "water")
GSD_M = 0.5

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def maps(seed: int = 0, right: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """A chip of blocks of all classes, some ignored pixels, and a prediction with the share `right` right."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.arange(16) % 4).reshape(4, 4).repeat(5, 0).repeat(4, 1).astype(np.uint8)
    predicted = np.where(rng.random(truth.shape) < right, truth, rng.integers(0, 4, truth.shape)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = 255
    return truth, predicted


def probabilities(truth: np.ndarray, predicted: np.ndarray, classes: int) -> torch.Tensor:
    """Probabilities [1, C, H, W] that favour the predicted class, more so where it is right."""
    sure = np.where(truth == predicted, 0.8, 0.5)
    stacked = [np.where(predicted == index, sure, (1 - sure) / (classes - 1)) for index in range(classes)]
    return torch.from_numpy(np.stack(stacked)[None])


def score(name: str, truth: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...] = CLASSES) -> dict[str, float]:
    metric = metrics.create(name, **variants.declared("metrics", name, "SMALL", {}))
    needs = metrics.needs(name)
    if needs == "counts":
        return metric(confusion_counts(truth, predicted, len(classes)), classes)
    if needs == "histograms":
        exact = ExactProbabilities(len(classes))
        exact.update(probabilities(truth, predicted, len(classes)), torch.from_numpy(truth)[None])
        return metric(exact.compute(), classes)
    return metric(truth, predicted, classes, GSD_M)


def own(scores: dict[str, float]) -> dict[str, float]:
    """The scores that are no single class's."""
    return {key: value for key, value in scores.items() if not key.endswith(tuple(f"_{label}" for label in CLASSES))}


def same(left: dict[str, float], right: dict[str, float]) -> bool:
    return left.keys() == right.keys() and all(
        math.isclose(left[key], right[key], rel_tol=1e-12, abs_tol=1e-15) or math.isnan(left[key] + right[key])
        for key in left
    )


def test_says_what_it_needs(name: str) -> None:
    assert metrics.needs(name) in metrics.NEEDS


def test_named_numbers_its_own_first(name: str) -> None:
    scores = score(name, *maps())
    assert all(isinstance(key, str) and isinstance(value, float) for key, value in scores.items())
    assert all(math.isfinite(value) for value in scores.values())
    mine = list(own(scores))
    assert mine and list(scores)[: len(mine)] == mine and mine[0].startswith(name)
    assert all(key.startswith(tuple(f"{part}_" for part in _stems(scores))) for key in scores if key not in mine)


def _stems(scores: dict[str, float]) -> set[str]:
    """Per-class scores come for every class."""
    stems = [{key.removesuffix(f"_{label}") for key in scores if key.endswith(f"_{label}")} for label in CLASSES]
    assert all(part == stems[0] for part in stems)
    return stems[0]


def test_perfect_is_best_and_worse_is_worse(name: str) -> None:
    best = variants.declared("metrics", name, "BEST", 1.0)
    truth, _ = maps()
    whole = np.where(truth == 255, 0, truth).astype(np.uint8)
    perfect = own(score(name, truth, whole))
    good, bad = (own(score(name, *maps(1, right))) for right in (0.9, 0.2))
    for key, value in perfect.items():
        assert value == pytest.approx(best, abs=1e-12)
        assert abs(value - best) <= abs(good[key] - best) + 1e-12, key
    first = next(iter(perfect))
    assert 1e-6 < abs(good[first] - best) < abs(bad[first] - best)


def test_what_is_ignored_has_no_say(name: str) -> None:
    truth, predicted = maps()
    other = np.where(truth == 255, (predicted + 1) % 4, predicted).astype(np.uint8)
    scores = score(name, truth, predicted)
    assert same(scores, score(name, truth, other))
    margin = [np.pad(array, 3, constant_values=fill) for array, fill in ((truth, 255), (predicted, 2))]
    assert same(scores, score(name, *margin))


def test_mirrored_and_turned_maps_score_alike(name: str) -> None:
    truth, predicted = maps()
    for turn in (np.fliplr, np.transpose, np.rot90):
        turned = [np.ascontiguousarray(turn(array)) for array in (truth, predicted)]
        assert same(score(name, truth, predicted), score(name, *turned))


def test_the_order_of_classes_is_no_matter(name: str) -> None:
    truth, predicted = maps()
    order = np.array([2, 0, 3, 1, *range(4, 255), 255], np.uint8)
    classes = tuple(CLASSES[int(np.flatnonzero(order == index)[0])] for index in range(4))
    scores, other = score(name, truth, predicted), score(name, order[truth], order[predicted], classes)
    assert same(scores, {key: other[key] for key in scores}) and len(scores) == len(other)


def test_a_class_that_is_absent_is_undefined(name: str) -> None:
    truth, predicted = maps()
    truth[truth == 3] = 0
    predicted[predicted == 3] = 1
    scores = score(name, truth, predicted)
    assert scores.keys() == score(name, *maps()).keys()
    assert all(math.isnan(scores[key]) for key in scores if key.endswith("_water"))
    assert all(math.isfinite(value) for key, value in scores.items() if not key.endswith("_water"))


def test_nothing_but_ignored_is_undefined(name: str) -> None:
    _, predicted = maps()
    scores = score(name, np.full_like(predicted, 255), predicted)
    assert scores.keys() == score(name, *maps()).keys() and all(map(math.isnan, scores.values()))


def test_keeps_no_state_and_alters_nothing(name: str) -> None:
    truth, predicted = maps()
    before = truth.copy(), predicted.copy()
    first = score(name, truth, predicted)
    assert np.array_equal(truth, before[0]) and np.array_equal(predicted, before[1])
    metric = metrics.create(name, **variants.declared("metrics", name, "SMALL", {}))
    if metrics.needs(name) == "chip":
        metric(*maps(5), CLASSES, None)
        assert same(metric(truth, predicted, CLASSES, GSD_M), first)


def test_unknown_names_and_parameters_are_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no metric 'kapa'; did you mean 'kappa'\? choices: ") as caught:
        metrics.create("kapa")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=f"metric '{name}' has no parameter 'no_such'; ") as caught:
        metrics.create(name, no_such=1)
    assert "\n" not in str(caught.value)


@given(name=st.sampled_from(NAMES), seed=st.integers(0, 2**16), ignored=st.floats(0, 1), few=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_any_maps_give_numbers_or_nan(name: str, seed: int, ignored: float, few: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 9, 2))
    truth, predicted = (rng.integers(0, few, shape).astype(np.uint8) for _ in range(2))
    truth[rng.random(shape) < ignored] = 255
    scores = score(name, truth, predicted)
    assert all(isinstance(value, float) and not math.isinf(value) for value in scores.values())
    if metrics.needs(name) == "chip":
        without = metrics.create(name)(truth, predicted, CLASSES, None)
        assert without.keys() <= score(name, truth, predicted).keys()
