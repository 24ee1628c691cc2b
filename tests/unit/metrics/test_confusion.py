"""Confusion counts and scores against scikit-learn and torchmetrics."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
import torchmetrics.functional.classification as tm
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.errors import RunError
from pipeline.metrics import from_confusion
from pipeline.metrics.confusion import confusion_counts, confusion_counts_torch


def maps(seed: int = 0, classes: int = 4, shape: tuple[int, ...] = (5, 16, 12)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, shape).astype(np.uint8)
    predicted = np.where(rng.random(shape) < 0.6, truth, rng.integers(0, classes, shape)).astype(np.uint8)
    truth[rng.random(shape) < 0.1] = 255
    return truth, predicted


def test_counts_equal_scikit_learn() -> None:
    truth, predicted = maps()
    valid = truth != 255
    expected = sk.confusion_matrix(truth[valid], predicted[valid], labels=range(4))
    counts = confusion_counts(truth, predicted, 4)
    assert counts.dtype == np.int64 and np.array_equal(counts, expected)


def test_rows_are_the_truth() -> None:
    assert confusion_counts(np.array([0, 0, 1]), np.array([1, 1, 1]), 2).tolist() == [[0, 2], [0, 1]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_counts_of_chips_equal_torchmetrics_and_numpy(dtype: torch.dtype) -> None:
    truth, predicted = maps(3)
    counts = confusion_counts_torch(torch.tensor(truth).to(dtype), torch.tensor(predicted).to(dtype), 4)
    assert counts.dtype == torch.int64 and counts.shape == (5, 4, 4)
    for chip in range(5):
        expected = tm.multiclass_confusion_matrix(
            torch.tensor(predicted[chip]).long(), torch.tensor(truth[chip]).long(), 4, ignore_index=255
        )
        assert torch.equal(counts[chip], expected)
        assert np.array_equal(counts[chip].numpy(), confusion_counts(truth[chip], predicted[chip], 4))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("classes", [1, 2, 14, 15, 100])
@pytest.mark.parametrize("shape", [(3, 16, 12), (200, 3, 2), (2, 70, 60)])
def test_counts_of_any_number_of_classes_chips_and_type(dtype: torch.dtype, classes: int, shape: tuple) -> None:
    """Small tables fit into 8 bits, others not; small chips are counted many at a time, large ones one by one."""
    generator = torch.Generator().manual_seed(classes)
    truth, predicted = (torch.randint(0, classes, shape, generator=generator).to(dtype) for _ in range(2))
    ignore = 127 if dtype == torch.int8 else 255
    truth[torch.rand(shape, generator=generator) < 0.1] = ignore
    before = truth.clone(), predicted.clone()
    counts = confusion_counts_torch(truth, predicted, classes, ignore)
    assert torch.equal(truth, before[0]) and torch.equal(predicted, before[1]) and counts.dtype == torch.int64
    for chip in (0, 1, shape[0] - 1):
        expected = confusion_counts(truth[chip].numpy(), predicted[chip].numpy(), classes, ignore)
        assert np.array_equal(counts[chip].numpy(), expected)


@pytest.mark.parametrize("ignore", [255, -100, 0, 7])
def test_any_value_may_be_ignored(ignore: int) -> None:
    truth, predicted = maps(5)
    signed = np.where(truth == 255, ignore, truth.astype(np.int64))
    expected = confusion_counts(signed, predicted, 4, ignore)
    tensors = torch.from_numpy(signed), torch.from_numpy(predicted).transpose(1, 2).transpose(1, 2)
    assert np.array_equal(confusion_counts_torch(*tensors, 4, ignore).sum(0).numpy(), expected)


@pytest.mark.parametrize("value", [-1, 4, 5, 14, 256, 260, 65536, 2**32, -(2**40)])
@pytest.mark.parametrize("which", ["truth", "prediction"])
def test_no_value_wraps_into_a_class(value: int, which: str) -> None:
    """Values whose low bits look like a class or like 255 are named as what they are."""
    pair = {"truth": torch.zeros(2, 5, 5, dtype=torch.int64), "prediction": torch.zeros(2, 5, 5, dtype=torch.int64)}
    pair[which][1, 2, 3] = value
    low, high = min(0, value), max(0, value)
    with pytest.raises(RunError, match=f"confusion: {which} has classes {low} to {high}, but there are only 0 to 3"):
        confusion_counts_torch(pair["truth"], pair["prediction"], 4)
    pair["truth"][1, 2, 3] = 255
    if which == "prediction":
        assert confusion_counts_torch(pair["truth"], pair["prediction"], 4).sum() == 49


def test_scores_equal_scikit_learn_and_torchmetrics() -> None:
    truth, predicted = maps(1)
    valid = truth != 255
    t, p = truth[valid], predicted[valid]
    scores = from_confusion(confusion_counts(truth, predicted, 4))
    assert scores["pixels"] == valid.sum() and scores["absent"] == 0
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(t, p))
    assert scores["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(t, p))
    assert scores["mean_iou"] == pytest.approx(sk.jaccard_score(t, p, average="macro"))
    assert scores["mean_f1"] == pytest.approx(sk.f1_score(t, p, average="macro"))
    precision, recall, f1, _ = sk.precision_recall_fscore_support(t, p)
    iou = tm.multiclass_jaccard_index(torch.tensor(p).long(), torch.tensor(t).long(), 4, average=None)
    for i in range(4):
        got = [scores[f"{name}_{i}"] for name in ("precision", "recall", "f1", "iou")]
        assert got == pytest.approx([precision[i], recall[i], f1[i], float(iou[i])], rel=1e-6)


def test_absent_classes_do_not_count() -> None:
    """Class 2 is in neither, class 1 is predicted alone, class 3 is in the truth alone."""
    truth = np.array([0, 0, 0, 3])
    predicted = np.array([0, 0, 1, 0])
    scores = from_confusion(confusion_counts(truth, predicted, 4))
    assert scores["absent"] == 1
    assert scores["mean_iou"] == pytest.approx(sk.jaccard_score(truth, predicted, labels=[0, 1, 3], average="macro"))
    assert scores["mean_f1"] == pytest.approx(sk.f1_score(truth, predicted, labels=[0, 1, 3], average="macro"))
    assert scores["balanced_accuracy"] == pytest.approx((2 / 3 + 0) / 2)
    assert all(math.isnan(scores[f"{name}_2"]) for name in ("precision", "recall", "f1", "iou"))
    assert math.isnan(scores["recall_1"]) and scores["precision_1"] == 0 and scores["iou_1"] == 0
    assert math.isnan(scores["precision_3"]) and scores["recall_3"] == 0 and scores["f1_3"] == 0


def test_without_a_single_pixel_everything_is_undefined() -> None:
    scores = from_confusion(confusion_counts(np.full((4, 4), 255), np.zeros((4, 4), int), 3))
    assert scores.pop("pixels") == 0 and scores.pop("absent") == 3
    assert len(scores) == 6 + 5 * 3 and all(math.isnan(value) for value in scores.values())
    empty = confusion_counts_torch(torch.full((2, 3, 3), 255), torch.zeros(2, 3, 3, dtype=torch.long), 3)
    assert empty.shape == (2, 3, 3) and not empty.any()
    assert confusion_counts_torch(*[torch.zeros(0, 4, 4, dtype=torch.long)] * 2, 3).shape == (0, 3, 3)


def test_counts_beyond_32_bits() -> None:
    scores = from_confusion(np.array([[3_000_000_000, 1], [1, 3_000_000_000]]))
    assert scores["pixels"] == 6_000_000_002 and scores["f1_0"] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        ([0, 4], [0, 0], "truth has classes 0 to 4"),
        ([0, 0], [0, 9], "prediction has classes 0 to 9"),
        ([0], [0, 1], "shape"),
    ],
)
def test_values_that_do_not_fit_are_named(truth: list[int], predicted: list[int], message: str) -> None:
    with pytest.raises(RunError, match=message):
        confusion_counts(np.array(truth), np.array(predicted), 4)
    tensors = (torch.tensor(values).view(1, 1, -1) for values in (truth, predicted))
    with pytest.raises(RunError, match=message if "has" in message else r"\[N, H, W\]"):
        confusion_counts_torch(*tensors, 4)


def test_prediction_under_an_ignored_pixel_may_be_anything() -> None:
    assert confusion_counts(np.array([255, 1]), np.array([77, 1]), 2).sum() == 1
    assert confusion_counts_torch(torch.tensor([[[255, 1]]]), torch.tensor([[[77, 1]]]), 2).sum() == 1


@pytest.mark.parametrize(
    "counts", [np.zeros((2, 3), int), np.zeros((2, 2)), np.array([[1, -1], [0, 1]]), np.zeros(4, int)]
)
def test_what_is_no_confusion_matrix(counts: np.ndarray) -> None:
    with pytest.raises(RunError, match="confusion"):
        from_confusion(counts)


@given(hnp.arrays(np.int64, st.integers(1, 5).map(lambda c: (c, c)), elements=st.integers(0, 50)))
@settings(max_examples=80, deadline=None)
def test_scores_of_any_counts(counts: np.ndarray) -> None:
    truth, predicted = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape))
    scores = from_confusion(counts)
    present = sorted({*truth, *predicted})
    assert scores["absent"] == len(counts) - len(present)
    if present:
        assert scores["accuracy"] == pytest.approx(sk.accuracy_score(truth, predicted))
        assert scores["mean_iou"] == pytest.approx(sk.jaccard_score(truth, predicted, labels=present, average="macro"))
    defined = [value for key, value in scores.items() if key not in ("absent", "pixels") and not math.isnan(value)]
    assert all(-1 <= value <= 1 for value in defined)
    assert all(scores[key] >= 0 or math.isnan(scores[key]) for key in scores if "mcc" not in key and key != "kappa")


def test_scores_do_not_load_torch() -> None:
    """The report reads them."""
    code = (
        "import sys, numpy; from pipeline import metrics, variants;"
        "import pipeline.metrics.chips, pipeline.metrics.statistics, pipeline.metrics.histograms;"
        "metrics.from_confusion(numpy.eye(2, dtype=int));"
        "[metrics.create(name) for name in variants.names('metrics')];"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
