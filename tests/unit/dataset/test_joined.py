"""What a run sees of its chip stores: subsets of the splits, and chips shrunk by a whole factor."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.dataset.joined import IGNORE, Joined, Rows, band_statistics, class_counts, enlarged, join, shrunk
from pipeline.dataset.store import ChipStore, chip_id, writing
from pipeline.dataset.targets import ExtraTargets, store_targets
from pipeline.errors import DataError
from pipeline.files import read_json
from tests.support.tiny import PX, write_region

SPEC = {"region": "tiny", "imagery": "rgb", "recipe": "osm", "split": "columns"}


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_region(tmp_path_factory.mktemp("data"), invalid=True)


def joined(region: Path, **data: Any) -> Joined:
    return join(region, SPEC | data)


# --- subsets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("size", [1, 5])
def test_a_subset_is_fixed_part_of_its_split_and_in_its_order(region: Path, split: str, size: int) -> None:
    whole, part, again = joined(region), *(joined(region, **{f"{split}_subset": size}) for _ in range(2))
    ids = list(whole.rows[split].chip_ids)
    chosen = list(part.rows[split].chip_ids)
    assert len(chosen) == len(set(chosen)) == size
    assert chosen == sorted(chosen, key=ids.index) and set(chosen) <= set(ids)
    assert chosen == list(again.rows[split].chip_ids)
    for store, rows in ((part.images, part.rows[split].image), (part.labels, part.rows[split].label)):
        assert list(store.index["chip_id"][rows]) == chosen
    for other in {"train", "val", "test"} - {split}:
        assert list(part.rows[other].chip_ids) == list(whole.rows[other].chip_ids)


def test_a_subset_is_the_same_whatever_else_the_run_says_and_no_prefix(region: Path) -> None:
    one = joined(region, train_subset=12).rows["train"].chip_ids
    other = joined(region, train_subset=12, val_subset=3, normalize="unit", resize_px=8).rows["train"].chip_ids
    assert list(one) == list(other)
    assert list(one) != list(joined(region).rows["train"].chip_ids[:12])


def test_a_subset_larger_than_the_split_is_the_split(region: Path) -> None:
    whole, large = joined(region), joined(region, train_subset=10_000, val_subset=8)
    for split in whole.rows:
        assert list(large.rows[split].chip_ids) == list(whole.rows[split].chip_ids)


# --- shrunk chips ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("px", [16, 8, 1])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_chips_are_shrunk_to_the_pixel_at_the_centre_of_each_cell(region: Path, split: str, px: int) -> None:
    whole, small = joined(region), joined(region, resize_px=px)
    rows = whole.rows[split].take(np.array([3, 0, 5]))
    images, masks = whole.batch(rows)
    got_images, got_masks = small.batch(rows)
    assert small.px == px and got_images.dtype == np.uint8 and got_masks.dtype == np.uint8
    for chip in range(3):
        mask = np.asarray(Image.fromarray(masks[chip]).resize((px, px), Image.Resampling.NEAREST))
        assert np.array_equal(got_masks[chip], mask)
        for band in range(3):
            image = np.asarray(Image.fromarray(images[chip, band]).resize((px, px), Image.Resampling.NEAREST))
            assert np.array_equal(got_images[chip, band], image)
    if px == 16:
        assert (masks[:, :4] == IGNORE).all() and (got_masks[:, :2] == IGNORE).all()  # validity shrinks with them
        assert not (got_masks[:, 2:] == IGNORE).any()


def test_an_equal_size_changes_nothing(region: Path) -> None:
    whole, same = joined(region), joined(region, resize_px=PX)
    for one, other in zip(whole.batch(whole.rows["val"]), same.batch(same.rows["val"]), strict=True):
        assert np.array_equal(one, other)
    assert band_statistics(whole) == band_statistics(same)


@pytest.mark.parametrize("px", [5, 24, 33, 64])
def test_a_size_that_does_not_divide_the_chips_is_one_line(region: Path, px: int) -> None:
    with pytest.raises(DataError, match=rf"^data.resize_px {px} does not divide the 32 px of the chips; take a div"):
        joined(region, resize_px=px)


@given(factor=st.integers(1, 5), height=st.integers(1, 4), width=st.integers(1, 4), lead=st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_shrinking_takes_what_enlarging_repeated(factor: int, height: int, width: int, lead: int) -> None:
    small = np.random.default_rng(height).integers(0, 256, (*range(2, 2 + lead), height, width), dtype=np.uint8)
    large = enlarged(small, factor)
    assert large.shape == (*small.shape[:-2], height * factor, width * factor)
    for row in range(height * factor):
        for col in range(width * factor):
            assert np.array_equal(large[..., row, col], small[..., row // factor, col // factor])
    assert np.array_equal(shrunk(large, factor), small)


def test_statistics_are_of_the_pixels_that_a_network_sees(region: Path) -> None:
    small = joined(region, resize_px=8)
    images, masks = small.batch(small.rows["train"])
    seen = np.stack([images[:, band][masks != IGNORE].astype(np.float64) for band in range(3)])
    mean, deviation = band_statistics(small)
    assert mean == pytest.approx(seen.mean(axis=1), rel=1e-12)
    assert deviation == pytest.approx(seen.std(axis=1), rel=1e-9)
    assert mean != band_statistics(joined(region))[0]


def test_class_counts_stay_those_of_the_chips_as_cut(region: Path) -> None:
    small = joined(region, resize_px=8)
    labels = np.asarray(small.labels.chips[small.rows["train"].label][:, 0])
    expected = [[int((label == index).sum()) for index in range(2)] for label in labels]
    assert class_counts(small).tolist() == expected and sum(expected[0]) == PX * PX


def test_extra_targets_are_derived_from_the_shrunk_masks(region: Path, tmp_path: Path) -> None:
    small = joined(region, resize_px=8)
    derive = {"twice": lambda image, mask, classes: mask[None].astype(np.float32) * 2}
    stored = store_targets(tmp_path / "targets", small, derive, 2, "made for", lambda _: None)
    at = np.array([4, 1])
    for extra in (stored, ExtraTargets(derive, 2)):
        images, masks = small.batch(small.rows["train"].take(at))
        found = extra.batch("train", at, images, masks)["twice"]
        assert found.shape == (2, 1, 8, 8) and np.array_equal(found[:, 0], masks * 2.0)
    assert read_json(tmp_path / "targets" / "targets.json") == {"fingerprint": "made for"}


def test_no_store_is_read_whole(tmp_path: Path) -> None:
    """A batch of two chips of a store of 24 MB takes a small part of that."""
    px, chips = 128, 512
    chip, label = np.zeros((3, px, px), np.uint8), np.zeros((1, px, px), np.uint8)
    with (
        writing(tmp_path / "rgb", 3, np.uint8, px, {}) as images,
        writing(tmp_path / "osm", 1, np.uint8, px, {}) as osm,
    ):
        for number in range(chips):
            for store, pixels in ((images, chip), (osm, label)):
                store.append(pixels, np.ones((px, px), bool), chip_id=chip_id(number, 0, px))
    stores = [ChipStore.open(tmp_path / name) for name in ("rgb", "osm")]
    whole = join_by_hand(*stores)
    tracemalloc.start()
    got, _ = whole.batch(whole.rows["train"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got.shape == (2, 3, 64, 64) and peak < stores[0].chips.nbytes / 50


def join_by_hand(images: ChipStore, labels: ChipStore) -> Joined:
    at = np.array([500, 3])
    return Joined(images, labels, {"train": Rows(images.index["chip_id"][at], at, at)}, factor=2)
