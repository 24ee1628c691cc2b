"""Metrics of confusion counts against scikit-learn and exact rational arithmetic."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import metrics, variants
from pipeline.errors import ConfigError, RunError
from pipeline.metrics import _counts, from_confusion

CLASSES = ("background", "car", "tree")
COUNTS = np.array([[50, 3, 7], [2, 20, 1], [9, 0, 30]])


def pixels(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth, predicted = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape))
    return truth, predicted


def exact_mcc(counts: np.ndarray) -> tuple[Decimal, Decimal]:
    """R_K and kappa by their definitions, in 100 digits."""
    table = [[int(cell) for cell in row] for row in counts]
    right = sum(table[k][k] for k in range(len(table)))
    truth, predicted = [sum(row) for row in table], [sum(column) for column in zip(*table, strict=True)]
    total = sum(truth)
    both = sum(t * p for t, p in zip(truth, predicted, strict=True))
    with localcontext() as context:
        context.prec = 100
        spread = Decimal((total**2 - sum(p * p for p in predicted)) * (total**2 - sum(t * t for t in truth))).sqrt()
        return (
            Decimal(total * right - both) / spread,
            Decimal(total * right - both) / Decimal(total**2 - both),
        )


@given(hnp.arrays(np.int64, st.integers(2, 5).map(lambda c: (c, c)), elements=st.integers(0, 30)))
@settings(max_examples=50, deadline=None)
def test_mcc_and_kappa_equal_scikit_learn(counts: np.ndarray) -> None:
    scores = from_confusion(counts)
    truth, predicted = pixels(counts)
    single = len(set(truth)) <= 1 or len(set(predicted)) <= 1
    assert math.isnan(scores["mcc"]) == single
    assert math.isnan(scores["kappa"]) == (len({*truth, *predicted}) <= 1)
    if not single:
        assert scores["mcc"] == pytest.approx(sk.matthews_corrcoef(truth, predicted), abs=1e-12)
        assert scores["kappa"] == pytest.approx(sk.cohen_kappa_score(truth, predicted), abs=1e-12)
    for index in range(len(counts)):
        single = len(set(truth == index)) <= 1 or len(set(predicted == index)) <= 1
        assert math.isnan(scores[f"mcc_{index}"]) == single
        if not single:
            expected = sk.matthews_corrcoef(truth == index, predicted == index)
            assert scores[f"mcc_{index}"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "counts",
    [
        [[10**12, 3], [5, 10**12]],
        [[10**12, 1, 0], [0, 2, 1], [1, 0, 1]],
        [[10**18, 7], [11, 10**3]],
        [[10**12, 10**12], [10**12, 10**12 + 1]],
        [[0, 10**17], [10**17, 0]],
        [[3 * 10**9] * 4] * 3 + [[0, 0, 0, 9]],
    ],
)
def test_huge_counts_lose_no_digits(counts: list[list[int]]) -> None:
    """Squares of totals are beyond 64 bits; the definitions' differences would cancel in float64."""
    scores = from_confusion(np.array(counts))
    mcc, kappa = exact_mcc(np.array(counts))
    assert scores["mcc"] == pytest.approx(float(mcc), abs=4e-15)
    assert scores["kappa"] == pytest.approx(float(kappa), abs=4e-15)


def test_two_classes_are_equation_11() -> None:
    tn, fp, fn, tp = 40, 7, 5, 23
    expected = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    scores = from_confusion(np.array([[tn, fp], [fn, tp]]))
    assert [scores[key] for key in ("mcc", "mcc_0", "mcc_1")] == pytest.approx([expected] * 3, abs=1e-15)


def test_one_class_alone_has_no_correlation() -> None:
    scores = from_confusion(np.array([[9, 0], [4, 0]]))
    assert math.isnan(scores["mcc"]) and math.isnan(scores["mcc_0"]) and scores["kappa"] == 0
    assert math.isnan(from_confusion(np.array([[9, 0], [0, 0]]))["kappa"])


def test_keys_come_in_the_promised_order() -> None:
    keys = list(from_confusion(COUNTS))
    assert keys[:6] == ["accuracy", "balanced_accuracy", "mean_iou", "mean_f1", "absent", "pixels"]
    parts = [f"{part}_{index}" for part in ("precision", "recall", "f1", "iou") for index in range(3)]
    assert keys[6:] == [*parts, "mcc", "kappa", "mcc_0", "mcc_1", "mcc_2"]


@pytest.mark.parametrize("name", [*_counts.OVERALL, "precision", "recall"])
def test_metrics_say_what_from_confusion_says(name: str) -> None:
    both = from_confusion(COUNTS)
    both |= {"precision": np.mean([both[f"precision_{i}"] for i in range(3)]), "recall": both["balanced_accuracy"]}
    for key, value in metrics.create(name)(COUNTS, CLASSES).items():
        for index, label in enumerate(CLASSES):
            key = key.replace(f"_{label}", f"_{index}")
        assert value == pytest.approx(both[key], rel=1e-14), key


def test_means_leave_classes_out_but_keep_their_pixels() -> None:
    truth, predicted = pixels(COUNTS)
    f1 = metrics.create("mean_f1", leave_out=["background"])(COUNTS, CLASSES)
    assert list(f1) == ["mean_f1_without_background", "f1_background", "f1_car", "f1_tree"]
    expected = sk.f1_score(truth, predicted, labels=[1, 2], average="macro")
    assert f1["mean_f1_without_background"] == pytest.approx(expected)
    iou = metrics.create("mean_iou", leave_out=["tree", "background"])(COUNTS, CLASSES)
    assert iou["mean_iou_without_tree_background"] == pytest.approx(sk.jaccard_score(truth, predicted, average=None)[1])
    for name, theirs in (("precision", sk.precision_score), ("recall", sk.recall_score)):
        got = metrics.create(name, leave_out=["car"])(COUNTS, CLASSES)[f"{name}_without_car"]
        assert got == pytest.approx(theirs(truth, predicted, labels=[0, 2], average="macro"))


@pytest.mark.parametrize("name", ["mean_iou", "mean_f1", "precision", "recall"])
@pytest.mark.parametrize(
    ("names", "message"), [([1], "names of classes"), ([""], "names of"), (["a", "a"], "'a' twice")]
)
def test_leave_out_is_checked_before_any_job(name: str, names: list, message: str) -> None:
    with pytest.raises(ConfigError, match=f"study: metric {name}: leave_out .*{message}") as caught:
        variants.check("metrics", name, {"leave_out": names}, "study")
    assert "\n" not in str(caught.value)


def test_a_class_left_out_that_there_is_not() -> None:
    with pytest.raises(RunError, match=r"mean_iou: leave_out: no class 'trea'; did you mean 'tree'\?"):
        metrics.create("mean_iou", leave_out=["trea"])(COUNTS, CLASSES)
    with pytest.raises(RunError, match="leave one at least"):
        metrics.create("mean_iou", leave_out=list(CLASSES))(COUNTS, CLASSES)


@pytest.mark.parametrize("name", ["accuracy", "mcc", "kappa", "mean_iou"])
def test_names_and_counts_must_fit(name: str) -> None:
    with pytest.raises(RunError, match=r"2 names of classes for counts \[3, 3\]"):
        metrics.create(name)(COUNTS, CLASSES[:2])
    with pytest.raises(RunError, match="integer counts"):
        metrics.create(name)(COUNTS.astype(float), CLASSES)


@given(hnp.arrays(np.int64, (3, 2, 3, 3), elements=st.integers(0, 20)))
@settings(max_examples=15, deadline=None)
def test_scores_of_many_tables_at_once(counts: np.ndarray) -> None:
    """What the bootstrap does: leading axes, and float64 of whole numbers."""
    for name in (*_counts.OVERALL, "iou_2", "mcc_0", "precision_1"):
        at_once = _counts.named(name)(counts)
        assert at_once.shape == (3, 2)
        assert np.array_equal(at_once, _counts.named(name)(counts.astype(np.float64)), equal_nan=True)
        each = [[from_confusion(counts[i, j])[name] for j in range(2)] for i in range(3)]
        assert np.array_equal(at_once, each, equal_nan=True), name


def test_unknown_scores_are_named() -> None:
    with pytest.raises(ConfigError, match=r"no score 'mean_io' of .* did you mean 'mean_iou'"):
        _counts.named("mean_io")
    with pytest.raises(ConfigError, match="no score 'iou_3': there are only the classes 0 to 2"):
        _counts.named("iou_3")(COUNTS)
