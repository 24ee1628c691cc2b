"""Means over chips, and the count of chips without a score."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline import metrics
from pipeline.errors import RunError
from pipeline.metrics.chips import ChipMean, score_chips


def test_nan_is_left_out_and_counted() -> None:
    mean = ChipMean()
    for value in (1.0, math.nan, 4.0, math.nan, math.nan):
        mean.update({"a": value, "b": math.nan, "c": 2.0})
    scores = mean.compute()
    assert list(scores) == ["a", "a_undefined", "b", "b_undefined", "c", "c_undefined"]
    assert (scores["a"], scores["a_undefined"]) == (2.5, 3)
    assert math.isnan(scores["b"]) and scores["b_undefined"] == 5
    assert (scores["c"], scores["c_undefined"]) == (2.0, 0)
    assert ChipMean().compute() == {}


def test_the_order_of_chips_is_no_matter() -> None:
    values = np.random.default_rng(0).random(999) * 10.0 ** np.random.default_rng(1).integers(-9, 9, 999)
    forth, back = ChipMean(), ChipMean()
    for value, other in zip(values, values[::-1], strict=True):
        forth.update({"a": value})
        back.update({"a": other})
    assert forth.compute() == back.compute()


def test_chips_of_unlike_scores_are_named() -> None:
    mean = ChipMean()
    mean.update({"a": 1.0})
    with pytest.raises(RunError, match="differ in their scores: a, b"):
        mean.update({"b": 1.0})


def test_a_metric_over_chips() -> None:
    truth = np.zeros((3, 20, 20), np.uint8)
    truth[:2, 5:15, 5:15] = 1
    predicted = truth.copy()
    predicted[0] = np.roll(truth[0], 2, axis=0)
    metric, chips = metrics.create("hausdorff", forms=["hausdorff"]), zip(truth, predicted, strict=True)
    scores = score_chips(metric, chips, ("land", "house"), 0.25)
    assert scores["hausdorff_px_house"] == 1.0 and scores["hausdorff_m_house"] == 0.25
    assert scores["hausdorff_px_house_undefined"] == 1 == scores["hausdorff_px_undefined"]
    assert score_chips(metric, [], ("land", "house")) == {}
