"""What every augmentation promises, whatever its file.

A file's SMALL holds parameters for this test. Every chip here has a unique number per pixel in an extra target, so that
it shows where each pixel of the result was taken from: mask and extra targets must tell of the same pixel.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import augment, variants
from pipeline.augment._transform import Batch, Source, Transform
from pipeline.errors import ConfigError

NAMES = variants.names("augment")
CHIPS, PX, CLASSES, IGNORE = 10, 16, 4, 255


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


class Chips:
    """Training chips [CHIPS] of random blobs; remembers which were asked for."""

    def __init__(self, bands: int = 3, top: float = 255.0) -> None:
        rng = np.random.default_rng([bands, int(top)])
        blobs = rng.integers(0, CLASSES, (CHIPS, PX // 4, PX // 4))
        mask = np.kron(blobs, np.ones((4, 4), int))
        mask[:, :2] = IGNORE
        mask[3] = IGNORE
        number = np.arange(CHIPS * PX * PX).reshape(CHIPS, PX, PX)
        values = rng.random((CHIPS, bands, PX, PX))
        self.image = torch.from_numpy(np.floor(values * (top + 1)) if top > 1 else values).float()
        self.mask = torch.from_numpy(mask)
        self.origin = torch.from_numpy(np.stack([number, mask], axis=1)).float()
        self.asked: list[int] = []
        counts = np.stack([(mask == k).sum(axis=(1, 2)) for k in range(CLASSES)], axis=1).astype(np.int64)
        self.source = Source(counts, [f"class_{k}" for k in range(CLASSES)], top, self.take)

    def take(self, at: np.ndarray) -> Batch:
        self.asked += at.tolist()
        return self.batch(at.tolist())

    def batch(self, at: list[int]) -> Batch:
        whole = {"image": self.image, "mask": self.mask, "boundary": self.origin}
        if self.image.shape[1] >= 3:
            whole["colour"] = self.image[:, :3] / self.source.top
        return {key: tensor[at].clone() for key, tensor in whole.items()}


def made(name: str, chips: Chips, **params: Any) -> Transform:
    """Augmentation `name` with its SMALL, of a probability of one half where it has one, ready for `chips`."""
    small = variants.declared("augment", name, "SMALL", {})
    half = {"probability": 0.5} if "probability" in variants.parameters("augment", name) else {}
    transform = augment.create(name, **{**small, **half, **params})
    transform.begin(chips.source)
    return transform


def result(transform: Transform, batch: Batch, seed: int = 0) -> Batch:
    torch.manual_seed(seed)
    return transform(batch)


def same(one: Batch, other: Batch) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("bands", [1, 3, 5])
@pytest.mark.parametrize("top", [255.0, 65535.0, 1.0])
def test_shapes_dtypes_and_units(name: str, bands: int, top: float) -> None:
    chips = Chips(bands, top)
    transform = made(name, chips)
    for at in ([2], [0, 1, 2, 3, 4]):
        batch = chips.batch(at)
        found = result(transform, batch)
        side = found["mask"].shape[-1]
        assert found.keys() == batch.keys() and side <= PX
        for key, tensor in batch.items():
            assert found[key].shape == (*tensor.shape[:-2], side, side), key
            assert found[key].dtype == tensor.dtype and found[key].device == tensor.device, key
            assert torch.isfinite(found[key]).all() and not found[key].requires_grad, key
        assert found["image"].min() >= 0 and found["image"].max() <= top


def test_the_given_batch_is_left_as_it_is(name: str) -> None:
    chips = Chips()
    batch = chips.batch([0, 1, 2, 3, 4])
    transform = made(name, chips)
    for seed in range(3):
        result(transform, batch, seed)
    assert same(batch, chips.batch([0, 1, 2, 3, 4]))


def test_a_function_of_torchs_seed(name: str) -> None:
    chips = Chips()
    batch = chips.batch([0, 1, 2, 4, 5])
    first, second = made(name, chips), made(name, chips)
    one = result(first, batch)
    assert same(one, result(first, batch)) and same(one, result(second, batch))
    assert not torch.equal(one["image"], result(first, batch, seed=1)["image"])


def test_chips_are_changed_each_in_its_own_way(name: str) -> None:
    chips = Chips()
    image = result(made(name, chips), chips.batch([2] * 20))["image"]
    assert len({one.numpy().tobytes() for one in image}) > 2


def test_mask_and_extra_targets_come_from_the_same_pixel(name: str) -> None:
    """Of the chip itself or of one that was asked for: so no class and no ignored pixel comes from nowhere."""
    chips = Chips()
    transform, at = made(name, chips), [0, 1, 2, 3, 4]
    known = chips.mask.flatten()
    for seed in range(10):
        chips.asked = []
        found = result(transform, chips.batch(at), seed)
        origin = found["boundary"][:, 0].long()
        assert torch.equal(found["boundary"][:, 0], origin.float())  # nothing in between
        assert torch.equal(found["mask"], known[origin])
        assert torch.equal(found["mask"].float(), found["boundary"][:, 1])
        owner = origin // PX**2
        own = owner == torch.tensor(at).view(-1, 1, 1)
        assert (own | torch.isin(owner, torch.tensor(chips.asked, dtype=torch.int64))).all()


def test_the_image_stays_with_its_mask(name: str) -> None:
    """Bright where the mask is 1 and dark where it is 0, before and after, whatever becomes of the colours."""
    chips = Chips()
    chips.mask = torch.randint(0, 2, (CHIPS, 4, 4)).repeat_interleave(8, -1).repeat_interleave(8, -2)
    chips.image = (chips.mask.unsqueeze(1) * 120 + 60).float().expand(-1, 3, -1, -1)
    chips.origin = chips.mask.unsqueeze(1).float()
    chips.source.counts[:] = torch.stack([(chips.mask == k).sum(dim=(1, 2)) for k in range(CLASSES)], dim=1).numpy()
    transform, found = made(name, chips), []
    for seed in range(10):
        moved = result(transform, chips.batch(list(range(CHIPS))), seed)
        for image, mask in zip(moved["image"].mean(dim=1), moved["mask"].float(), strict=True):
            if image.std() > 0 and mask.std() > 0:
                found.append(torch.corrcoef(torch.stack([image.flatten(), mask.flatten()]))[0, 1].abs())
    assert (
        len(found) > 5 * CHIPS and torch.stack(found).mean() > 0.8
    )  # 0.67 where half of the images are mirrored alone


def test_batches_without_extra_targets(name: str) -> None:
    chips = Chips()
    transform, batch = made(name, chips), chips.batch([0, 1, 2])
    found = result(transform, {"image": batch["image"], "mask": batch["mask"]})
    whole = result(transform, batch)
    assert found.keys() == {"image", "mask"} and all(torch.equal(found[key], whole[key]) for key in found)


def test_channels_last(name: str) -> None:
    chips = Chips()
    transform, batch = made(name, chips), chips.batch([0, 1, 2, 4])
    last = batch | {"image": batch["image"].contiguous(memory_format=torch.channels_last)}
    found, usual = result(transform, last), result(transform, batch)
    assert found["image"].shape == usual["image"].shape and torch.isfinite(found["image"]).all()
    assert torch.equal(found["mask"], usual["mask"]) and torch.equal(found["boundary"], usual["boundary"])


def test_a_probability_runs_from_never_to_always(name: str) -> None:
    if "probability" not in variants.parameters("augment", name):
        return
    chips = Chips()
    batch = chips.batch([0, 1, 2, 4])
    assert same(result(made(name, chips, probability=0.0), batch), batch)
    some = result(made(name, chips, probability=0.5), chips.batch([2] * 40))["image"]
    unchanged = sum(torch.equal(one, batch["image"][2]) for one in some)
    assert 0 < unchanged < 40
    for wrong in (-0.1, 1.1):
        with pytest.raises(ConfigError, match="probability") as caught:
            made(name, chips, probability=wrong)
        assert "\n" not in str(caught.value)


def test_unknown_parameters_list_the_choices(name: str) -> None:
    with pytest.raises(ConfigError, match=f"augmentation '{name}' has no parameter 'no_such'"):
        augment.create(name, no_such=1)


def test_all_in_a_row() -> None:
    """Those that change the size come last."""
    chips = Chips()
    batch = chips.batch([0, 1, 2, 4])
    every = [made(name, chips) for name in NAMES]
    chain = sorted(every, key=lambda transform: -result(transform, batch)["mask"].shape[-1])

    def all_of_them() -> Batch:
        torch.manual_seed(0)
        return functools.reduce(lambda given, transform: transform(given), chain, batch)

    found = all_of_them()
    assert same(found, all_of_them()) and torch.isfinite(found["image"]).all()
    assert torch.equal(found["mask"].float(), found["boundary"][:, 1])
