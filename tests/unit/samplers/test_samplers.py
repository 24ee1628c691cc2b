"""Uniform, positives and class-balanced: which chips an epoch shows, against their definitions."""

from __future__ import annotations

import re
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline import samplers
from pipeline.errors import ConfigError, RunError
from pipeline.runs import expand_runs
from pipeline.samplers._chips import Chips

ROOT = Path(__file__).resolve().parents[3]


def chips(counts: Any, errors: Any = None, classes: list[str] | None = None) -> Chips:
    counts = np.asarray(counts, np.int64)
    known = np.full(len(counts), np.nan, np.float32) if errors is None else np.asarray(errors, np.float32)
    return Chips(counts, classes or ["background", "road", "water"][: counts.shape[1]], known)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng([3, seed])


# --- uniform -----------------------------------------------------------------------------------------------------


def test_uniform_permutes_all_chips_as_it_always_has() -> None:
    """Trainings of earlier versions showed their chips in this order."""
    for count in (1, 2, 7, 500):
        found = samplers.create("uniform")(chips(np.ones((count, 2))), rng())
        assert np.array_equal(found, rng().permutation(count))
    order = samplers.create("uniform")(chips(np.ones((8, 2))), np.random.default_rng([3, 0]))
    assert order.tolist() == [6, 7, 2, 1, 4, 5, 3, 0]


def test_uniform_with_a_length_shows_other_chips_in_every_epoch() -> None:
    sampler, known = samplers.create("uniform", chips=10), chips(np.ones((40, 2)))
    epochs = [sampler(known, rng(epoch)) for epoch in range(200)]
    assert all(len(shown) == len(set(shown.tolist())) == 10 for shown in epochs)
    assert len({tuple(sorted(shown)) for shown in epochs}) == 200
    times = np.bincount(np.concatenate(epochs), minlength=40)
    assert times.sum() == 2000 and np.abs(times - 50).max() < 4 * np.sqrt(200 * 0.25 * 0.75)


@given(count=st.integers(1, 12), length=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_a_longer_epoch_shows_no_chip_again_before_all_others(count: int, length: int) -> None:
    shown = samplers.create("uniform", chips=length)(chips(np.ones((count, 2))), rng(length))
    assert len(shown) == length
    for start in range(0, length, count):
        part = shown[start : start + count].tolist()
        assert len(set(part)) == len(part)


# --- positives ---------------------------------------------------------------------------------------------------

SLIDE = [[16, 0, 0], [15, 1, 0], [8, 0, 8], [0, 0, 0], [12, 2, 2], [0, 3, 0]]


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({}, {1, 2, 4, 5}),
        ({"min_px": 4}, {2, 4}),
        ({"min_share": 0.25}, {2, 4, 5}),
        ({"min_share": 0.26}, {2, 5}),
        ({"min_px": 4, "min_share": 0.5}, {2}),
        ({"classes": ["water"]}, {2, 4}),
        ({"classes": ["road", "water"], "min_px": 4}, {2, 4}),
        ({"classes": ["road"], "min_px": 3}, {5}),
        ({"classes": ["background"], "min_px": 9}, {0, 1, 4}),
    ],
)
def test_positives_keeps_chips_with_enough_pixels(params: dict[str, Any], kept: set[int]) -> None:
    shown = samplers.create("positives", **params)(chips(SLIDE), rng())
    assert sorted(shown.tolist()) == sorted(kept)


def test_positives_show_each_kept_chip_once_in_an_order_of_the_epoch() -> None:
    known = chips([[1, number % 2] for number in range(60)])
    one, other = (samplers.create("positives")(known, rng(epoch)).tolist() for epoch in range(2))
    assert sorted(one) == sorted(other) == list(range(1, 60, 2)) and one != other
    few = samplers.create("positives", chips=4)(known, rng())
    assert len(set(few.tolist())) == 4 and set(few.tolist()) <= set(one)


@pytest.mark.parametrize(
    ("params", "counts", "words"),
    [
        ({}, [[5, 0, 0]] * 3, "none of 3 training chips has 1 px of road, water; lower min_px or min_share, or name"),
        ({"min_px": 9, "classes": ["water"]}, SLIDE, "none of 6 training chips has 9 px of water;"),
        ({"min_share": 0.9, "classes": ["water"]}, SLIDE, "has 1 px and 90% of the labelled pixels of water;"),
        ({}, [[5]], "has 1 px of any class but the first;"),
    ],
)
def test_no_positive_chip_is_one_line(params: dict[str, Any], counts: Any, words: str) -> None:
    with pytest.raises(RunError, match=re.escape(words)) as caught:
        samplers.create("positives", **params)(chips(counts), rng())
    assert "\n" not in str(caught.value)


def test_a_class_that_is_none_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"train.sampler: no class 'roads'; did you mean 'road'\?"):
        samplers.create("positives", classes=["roads"])(chips(SLIDE), rng())


# --- class_balanced ----------------------------------------------------------------------------------------------


def expected_shares(counts: list[list[int]], power: float) -> list[float]:
    """p_i by the definition, drawing by drawing: a class is asked for, then a chip by its pixels of the class."""
    totals = [sum(row[c] for row in counts) for c in range(len(counts[0]))]
    present = [c for c, total in enumerate(totals) if total]
    asked = {c: float(Fraction(totals[c], sum(totals))) ** (1 - power) for c in present}
    whole = sum(asked.values())
    return [sum(asked[c] / whole * row[c] / totals[c] for c in present) for row in counts]


MIXED = [[16, 0, 0], [15, 1, 0], [8, 0, 8], [0, 0, 0], [12, 2, 2], [1, 0, 0], [16, 0, 0], [16, 0, 0]]
ONE_CLASS_EACH = [[16, 0, 0]] * 9 + [[0, 16, 0]] * 2 + [[0, 0, 4]]


@pytest.mark.parametrize("power", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("counts", [MIXED, ONE_CLASS_EACH, [[16, 0, 0], [15, 1, 0]]])
def test_class_balanced_draws_chips_as_often_as_its_definition_says(counts: list[list[int]], power: float) -> None:
    draws = 40_000
    shown = samplers.create("class_balanced", power=power, chips=draws)(chips(counts), rng())
    times, shares = np.bincount(shown, minlength=len(counts)), np.array(expected_shares(counts, power))
    assert len(shown) == draws and shares.sum() == pytest.approx(1)
    assert (times[shares == 0] == 0).all()
    some = shares > 0
    deviation = (times - draws * shares)[some] / np.sqrt(draws * shares * (1 - shares))[some]
    assert np.abs(deviation).max() < 4


def test_classes_come_equally_often_where_chips_hold_one_each() -> None:
    shown = samplers.create("class_balanced", chips=30_000)(chips(ONE_CLASS_EACH), rng(1))
    drawn = np.array([0] * 9 + [1] * 2 + [2])[shown]
    assert np.bincount(drawn) == pytest.approx([10_000] * 3, rel=0.03)
    even = samplers.create("class_balanced", chips=30_000, power=0.0)(chips(ONE_CLASS_EACH[:11]), rng(1))
    assert np.bincount(even) == pytest.approx([30_000 / 11] * 11, rel=0.1)  # as they are


def test_class_balanced_is_as_long_as_the_split_and_draws_with_replacement() -> None:
    known = chips([[100, 0]] * 63 + [[0, 1]])
    shown = samplers.create("class_balanced")(known, rng())
    assert len(shown) == 64 and (shown == 63).sum() > 20
    assert len(samplers.create("class_balanced", chips=5)(known, rng())) == 5


@given(
    counts=st.lists(st.lists(st.integers(0, 10**9), min_size=3, max_size=3), min_size=1, max_size=6),
    power=st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_class_balanced_never_shows_a_chip_without_labels(counts: list[list[int]], power: float) -> None:
    sampler, known = samplers.create("class_balanced", power=power, chips=50), chips(counts)
    if not known.counts.any():
        with pytest.raises(RunError, match="no training chip has a labelled pixel"):
            sampler(known, rng())
        return
    assert known.counts[sampler(known, rng())].any(axis=1).all()


# --- the config --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        ({"uniform": {"chips": 0}}, "train.sampler: sampler uniform: chips 0 must be 1 or more"),
        ({"positives": {"classes": ["lava"]}}, "train: positives.classes: no class 'lava'; choices: "),
        ({"positives": {"classes": []}}, "sampler positives: classes must name one class or more, none twice; got []"),
        ({"positives": {"classes": ["water", "water"]}}, "must name one class or more, none twice; got"),
        ({"positives": {"min_px": 0}}, "sampler positives: min_px 0 must be 1 or more"),
        ({"positives": {"min_share": 1.5}}, "sampler positives: min_share 1.5 must be 0 to 1"),
        ({"class_balanced": {"power": -0.1}}, "sampler class_balanced: power -0.1 must be 0 to 1"),
        ({"class_balanced": {"chips": True}}, "chips must be a whole number or null, got True"),
        ({"hard_example": {"share": 2}}, "sampler hard_example: share 2.0 must be 0 to 1"),
        ({"hard_example": {"hardest": 0}}, "sampler hard_example: hardest 0.0 must be above 0, at most 1"),
        ({"hard_example": {"chips": -1}}, "sampler hard_example: chips -1 must be 1 or more"),
    ],
)
def test_mistakes_stop_the_parsing_in_one_line(tmp_path: Path, sampler: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        study(tmp_path, sampler)
    assert "\n" not in str(caught.value) and "mine.yaml: train" in str(caught.value)


def test_samplers_are_an_axis(tmp_path: Path) -> None:
    some = ["uniform", {"uniform": {"chips": 6}}, {"positives": {"classes": ["water"]}}, "class_balanced"]
    runs = [run for run in study(tmp_path, [*some, "hard_example"]).runs if run.kind == "run"]
    assert {run.varied["train.sampler"] for run in runs} == {"uniform", "positives", "class_balanced", "hard_example"}
    assert len({run.id for run in runs}) == 5 * 4


def study(tmp_path: Path, sampler: Any) -> Any:
    config = tmp_path / "config"
    shutil.copytree(ROOT / "config", config)
    yaml = YAML(typ="safe", pure=True)
    content = yaml.load((config / "studies" / "demo.yaml").read_text())
    content["train"]["sampler"] = sampler
    with open(config / "studies" / "mine.yaml", "w") as handle:
        yaml.dump(content, handle)
    return expand_runs("mine", config, ROOT / "rules" / "variants")
