"""Copy-paste: every pasted pixel is one donor's, image, mask and targets alike; the rest stays; the shape is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy import ndimage

from pipeline import augment
from pipeline.augment import _objects
from pipeline.augment._transform import Batch, Source, Transform
from pipeline.errors import ConfigError, RunError
from pipeline.train.engine import train
from tests.support.tiny import a_spec, write_region

Array = np.ndarray[Any, np.dtype[Any]]
NAMES = ["ground", "sand", "rock"]
HEIGHT, WIDTH = 12, 18


class Chips:
    """Training chips; the image and the target say of each pixel which chip, row and column it is of."""

    def __init__(self, masks: Array, bands: int = 3) -> None:
        self.masks, self.bands = masks, bands
        self.counts = np.stack([(masks == index).sum(axis=(1, 2)) for index in range(3)], axis=1).astype(np.int64)
        self.calls: list[Array] = []

    def batch(self, at: Array) -> Batch:
        height, width = self.masks.shape[1:]
        number = np.arange(height * width).reshape(height, width) + 1000.0 * np.asarray(at)[:, None, None]
        image = np.repeat(number[:, None], self.bands, axis=1) + 100_000 * np.arange(self.bands)[:, None, None]
        target = np.stack([number, -number], axis=1)
        return {
            "image": torch.from_numpy(image).float(),
            "mask": torch.from_numpy(self.masks[at].astype(np.int64)),
            "signed_distance": torch.from_numpy(target).float(),
        }

    def take(self, at: Array) -> Batch:
        self.calls.append(at)
        return self.batch(at)

    def transform(self, **params: Any) -> Transform:
        transform = augment.create("copy_paste", **params)
        transform.begin(Source(self.counts, NAMES, 255.0, self.take))
        return transform


def blobs(chips: int, seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Array:
    """Masks of ground with a few squares of sand and, in every other chip, of rock, and some ignored pixels."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((chips, height, width), np.uint8)
    for number, mask in enumerate(masks):
        for name in [1, 1, *([2, 2] if number % 2 else [])]:
            y, x = rng.integers(0, height - 2), rng.integers(0, width - 3)
            mask[y : y + 2, x : x + 3] = name
        mask[rng.random(mask.shape) < 0.05] = 255
    return masks


def origins(batch: Batch) -> Array:
    """Chip, row and column [N, 3, H, W] of each pixel, once image and target agree and the mask is there too."""
    number = batch["signed_distance"][:, 0].numpy().astype(int)
    assert np.array_equal(-number, batch["signed_distance"][:, 1])
    for band in range(batch["image"].shape[1]):
        assert np.array_equal(batch["image"][:, band].numpy(), number + 100_000.0 * band)
    width = number.shape[-1]
    return np.stack([number // 1000, number % 1000 // width, number % 1000 % width], axis=1)


@pytest.mark.parametrize("bands", [1, 3, 5])
@pytest.mark.parametrize("objects", ["one", "all"])
@pytest.mark.parametrize("reach", [0, 2])
def test_what_is_pasted_is_the_donors_object_and_its_surroundings(bands: int, objects: str, reach: int) -> None:
    chips = Chips(blobs(12), bands)
    transform = chips.transform(classes=["rock"], surroundings_px=reach, probability=1.0, objects=objects)
    at = np.arange(0, 12, 2)  # without rock
    for seed in range(10):
        torch.manual_seed(seed)
        chips.calls.clear()
        found = transform(chips.batch(at))
        (donors,) = chips.calls
        came = origins(found)
        for place, (own, donor) in enumerate(zip(at, donors, strict=True)):
            chip, rows, columns = came[place]
            assert np.array_equal(rows, np.indices(rows.shape)[0]) and np.array_equal(
                columns, np.indices(rows.shape)[1]
            )
            pasted = chip == donor
            assert (pasted | (chip == own)).all() and donor % 2
            rock = chips.masks[donor] == 2
            structure = np.ones((2 * reach + 1, 2 * reach + 1))
            labels, count = ndimage.label(rock, np.ones((3, 3)))
            pieces = [labels == number for number in range(1, count + 1)] if objects == "one" else [rock]
            shapes = [ndimage.binary_dilation(one, structure) & (chips.masks[donor] != 255) for one in pieces]
            assert any(np.array_equal(pasted, shape) for shape in shapes)
            expected = np.where(pasted, chips.masks[donor], chips.masks[own])
            assert np.array_equal(found["mask"][place].numpy(), expected)


def test_an_object_is_drawn_by_its_area_and_a_donor_evenly() -> None:
    masks = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    masks[1, 1:4, 1:4], masks[1, 8, 8:11] = 2, 2  # 9 and 3 pixels
    masks[2, 5, 5] = 2
    chips = Chips(masks)
    transform = chips.transform(surroundings_px=0, probability=1.0)
    torch.manual_seed(0)
    pasted = transform(chips.batch(np.zeros(4000, int)))["mask"].flatten(1).sum(dim=1) // 2
    shares = [float((pasted == size).float().mean()) for size in (1, 3, 9)]
    np.testing.assert_allclose(shares, [1 / 2, 1 / 8, 3 / 8], atol=0.03)


def test_probability_and_nothing_of_the_given_batch_altered() -> None:
    masks = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    masks[1, 4:6, 4:6] = 1
    chips = Chips(masks)
    transform = chips.transform(classes=["sand"], probability=0.3)
    torch.manual_seed(1)
    batch = chips.batch(np.zeros(3000, int))
    before = {name: tensor.clone() for name, tensor in batch.items()}
    found = transform(batch)
    assert all(torch.equal(batch[name], before[name]) for name in batch)
    changed = (found["mask"] == 1).flatten(1).any(dim=1)
    assert abs(changed.float().mean() - 0.3) < 0.03
    assert all(torch.equal(found[name][~changed], before[name][~changed]) for name in batch)
    assert len(chips.calls) == 1 and len(chips.calls[0]) == changed.sum()
    for name in batch:
        assert found[name].dtype == batch[name].dtype
    chips.calls.clear()
    none = chips.transform(classes=["sand"], probability=0.0)(batch)
    assert not chips.calls and all(torch.equal(none[name], before[name]) for name in batch)


def test_the_rarest_class_that_occurs_is_pasted_by_default_and_of_several_each_as_often() -> None:
    masks = np.zeros((4, HEIGHT, WIDTH), np.uint8)
    masks[1, 4:6, 4:6], masks[2, 3, 3:10] = 1, 2
    chips = Chips(masks)
    torch.manual_seed(0)
    found = chips.transform(probability=1.0)(chips.batch(np.zeros(50, int)))["mask"]
    assert set(found.unique().tolist()) == {0, 1}
    masks[1] = 0
    rarest = Chips(masks).transform(probability=1.0)(chips.batch(np.zeros(50, int)))["mask"]
    assert set(rarest.unique().tolist()) == {0, 2}
    masks[1, 4:6, 4:6] = 1
    both = Chips(masks).transform(classes=["rock", "sand"], probability=1.0)(chips.batch(np.zeros(2000, int)))["mask"]
    assert abs((both == 1).flatten(1).any(dim=1).float().mean() - 0.5) < 0.04
    assert torch.equal((both == 1).flatten(1).any(dim=1), ~(both == 2).flatten(1).any(dim=1))


def test_donors_are_the_chips_with_the_most_pixels_of_the_class() -> None:
    masks = np.zeros((6, HEIGHT, WIDTH), np.uint8)
    for number, size in enumerate([3, 0, 9, 1, 9, 2]):
        masks[number, 2, :size] = 2
    for donors, expected in ((1, {2}), (2, {2, 4}), (3, {0, 2, 4}), (50, {0, 2, 3, 4, 5}), (None, {0, 2, 3, 4, 5})):
        chips = Chips(masks)
        chips.transform(probability=1.0, donors=donors)(chips.batch(np.full(200, 1)))
        assert set(chips.calls[0].tolist()) == expected


@pytest.mark.parametrize(("height", "width", "symmetries"), [(12, 12, 8), (12, 18, 4)])
def test_a_donor_is_flipped_and_shifted_as_a_whole(height: int, width: int, symmetries: int) -> None:
    masks = blobs(4, 5, height, width)
    masks[0] = 0
    chips = Chips(masks)
    transform = chips.transform(
        classes=["rock"], probability=1.0, objects="all", flips=True, shift_px=3, surroundings_px=1
    )
    torch.manual_seed(0)
    at = np.zeros(400, int)
    found = transform(chips.batch(at))
    came = origins(found)
    seen = set()
    for place, donor in enumerate(chips.calls[0]):
        chip, rows, columns = came[place]
        y, x = np.nonzero(chip == donor)
        assert np.array_equal(found["mask"][place][y, x].numpy(), masks[donor][rows[y, x], columns[y, x]])
        if len(y) < 6:
            continue
        matrix, *_ = np.linalg.lstsq(np.stack([y, x, np.ones(len(y))], 1), np.stack([rows[y, x], columns[y, x]], 1))
        matrix = np.round(matrix, 6)
        turn = tuple(matrix[:2].ravel())
        assert sorted(np.abs(turn)) == [0, 0, 1, 1]
        back = np.array([height - 1, width - 1]) / 2  # about the chip's centre a symmetry shifts nothing
        shift = back @ matrix[:2] + matrix[2] - back
        assert np.abs(shift).max() <= 3
        np.testing.assert_allclose(
            np.stack([rows[y, x], columns[y, x]], 1), np.stack([y, x], 1) @ matrix[:2] + matrix[2]
        )
        seen.add((turn, tuple(np.round(shift).astype(int))))
    assert len({turn for turn, _ in seen}) == symmetries
    assert {abs(value) for _, shift in seen for value in shift} == {0, 1, 2, 3}


def test_what_leaves_the_chip_is_lost_not_wrapped() -> None:
    masks = np.zeros((2, 4, 4), np.uint8)
    masks[1, 0, 0] = 2
    chips = Chips(masks)
    found = chips.transform(probability=1.0, shift_px=4, surroundings_px=0)(chips.batch(np.zeros(300, int)))["mask"]
    assert (found == 2).flatten(1).sum(dim=1).unique().tolist() == [0, 1]
    assert (found == 2).any(dim=0).all()  # to the right and below, it arrives everywhere


def test_a_donor_without_imagery_where_its_index_has_the_class_pastes_nothing() -> None:
    masks = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    masks[1, 2:5, 2:5] = 2
    chips = Chips(masks)
    chips.masks = np.where(masks == 2, 255, masks)
    for objects in ("one", "all"):
        found = chips.transform(probability=1.0, objects=objects)(chips.batch(np.zeros(3, int)))
        assert not found["mask"].any() and (origins(found)[:, 0] == 0).all()


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95), st.integers(1, 24), st.integers(1, 24))
@settings(max_examples=60, deadline=None)
def test_objects_are_scipys(seed: int, share: float, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    there = ndimage.zoom(rng.random((6, height, width)), (1, 1, 1), order=1) < share * rng.uniform(0, 1.1)
    place = rng.random(6)
    found = _objects.one_object(torch.from_numpy(there), torch.from_numpy(place)).numpy()
    for chip in range(6):
        labels, _ = ndimage.label(there[chip], np.ones((3, 3)))
        pixels = np.flatnonzero(there[chip])
        if not len(pixels):
            assert not found[chip].any()
            continue
        wanted = labels == labels.flat[pixels[int(place[chip] * len(pixels))]]
        if not np.array_equal(found[chip], wanted):  # it winds too much
            assert (found[chip] <= wanted).all() and max(height, width) > _objects.SWEEPS


def test_a_winding_object_is_found_whole_and_the_last_pixel_can_be_drawn() -> None:
    spiral = torch.zeros(1, 15, 15, dtype=torch.bool)
    y, x, dy, dx = 0, 0, 0, 1
    spiral[0, 0, 0] = True
    for length in (14, 14, 14, 12, 12, 10, 10, 8, 8, 6, 6, 4, 4, 2, 2):
        for _ in range(length):
            y, x = y + dy, x + dx
            spiral[0, y, x] = True
        dy, dx = dx, -dy
    _, count = ndimage.label(spiral[0].numpy(), np.ones((3, 3)))
    assert count == 1
    for share in (0.0, 0.5, np.nextafter(1, 0)):
        found = _objects.one_object(spiral, torch.tensor([share], dtype=torch.float64))
        assert torch.equal(found, spiral)


def test_errors_are_one_line() -> None:
    chips = Chips(np.zeros((2, 4, 4), np.uint8))
    for params, words in (
        ({"classes": ["rock"]}, "copy_paste: no training chip has a pixel of class 'rock'"),
        ({"classes": ["rocks"]}, "copy_paste: no class 'rocks'; did you mean 'rock'"),
        ({"classes": []}, "classes must be names of different classes"),
        ({"classes": ["rock", "rock"]}, "classes must be names of different classes"),
        ({"classes": [4]}, "classes must be names of different classes"),
        ({"probability": -1.0}, "probability must be 0 to 1, got -1"),
        ({"surroundings_px": -1}, "surroundings_px -1 must be 0 or more"),
        ({"shift_px": -2}, "shift_px -2 must be 0 or more"),
        ({"donors": 0}, "donors 0 must be 1 or more"),
        ({"objects": "some"}, "objects must be one of one, all"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            chips.transform(**params)
        assert "\n" not in str(caught.value)
    ignored = Chips(np.full((2, 4, 4), 255, np.uint8))
    with pytest.raises(ConfigError, match="no training chip has a pixel of class 'ground'"):
        ignored.transform()


def test_chips_that_no_longer_have_the_training_chips_size_are_one_line() -> None:
    chips = Chips(blobs(4))
    small = {name: tensor[..., :6, :6] for name, tensor in chips.batch(np.arange(4)).items()}
    with pytest.raises(RunError, match=r"meets chips of 6 × 6 px where training chips have 12 × 18 px; let it stand"):
        chips.transform(probability=1.0)(small)


class Killed(Exception):
    """Stands for SIGKILL."""


def test_a_killed_training_with_augmentation_ends_with_the_weights_of_an_undisturbed_one(tmp_path: Path) -> None:
    data = write_region(tmp_path / "data", invalid=True)
    entries = [
        {"name": "copy_paste", "params": {"classes": ["bright"], "surroundings_px": 2, "flips": True, "shift_px": 4}},
        {"name": "colour", "params": {}},
        {"name": "noise", "params": {"salt_and_pepper": 0.01}},
        {"name": "blur", "params": {}},
    ]
    loss = {"name": "weighted_sum", "params": {"terms": ["focal", "boundary_distance"]}}
    spec = a_spec(epochs=2, augment=entries) | {"loss": loss}

    def run(folder: str, stop: str = "never") -> dict[str, Array]:
        def log(line: str) -> None:
            if line.startswith(stop):
                raise Killed

        place = tmp_path / folder
        train("tiny-run", spec, "code", data=data, out=place / "out", work=place / "work", log=log)
        return load_file(place / "out" / "checkpoints" / "last.safetensors")

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", "epoch 1/2")
    resumed = run("killed")
    assert whole.keys() == resumed.keys() and all(np.array_equal(whole[name], resumed[name]) for name in whole)
    spec = a_spec(epochs=2) | {"loss": loss}
    plain = run("plain")
    assert not all(np.array_equal(whole[name], plain[name]) for name in whole)
