"""Extra targets: derived once per chip, aligned with image and mask, used again only where they fit."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import losses
from pipeline.dataset import targets
from pipeline.dataset.joined import Joined, join
from pipeline.dataset.targets import store_targets
from pipeline.errors import RunError
from pipeline.train.step import flip
from tests.support.tiny import a_spec, write_region


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Joined:
    return join(write_region(tmp_path_factory.mktemp("data"), invalid=True), a_spec()["data"])


def all_kinds() -> dict:
    return losses.derivations("weighted_sum", terms=["boundary_distance", "multi_task"])


def test_stored_targets_are_those_derived_from_the_chip(joined: Joined, tmp_path: Path) -> None:
    lines: list[str] = []
    stored = store_targets(tmp_path / "targets", joined, all_kinds(), 2, "a", lines.append)
    assert len(lines) == 1 and "signed_distance, boundary, distance, colour of 56 chips in " in lines[0]
    fresh = store_targets(tmp_path / "none", joined, {}, 2, "a", lines.append)
    assert fresh.batch("train", np.arange(3), *joined.batch(joined.rows["train"].take(np.arange(3)))) == {}
    assert not (tmp_path / "none").exists() and len(lines) == 1
    for split, at in (("train", np.array([40, 3, 33])), ("val", np.array([7, 0]))):
        images, masks = joined.batch(joined.rows[split].take(at))
        assert (masks[:, :4] == 255).all()  # no imagery: ignored before anything is derived
        found = stored.batch(split, at, images, masks)
        assert found["signed_distance"].shape == (len(at), 2, 32, 32) and not found["signed_distance"][:, :, :4].any()
        for kind, function in all_kinds().items():
            expected = np.stack([function(image, mask, 2) for image, mask in zip(images, masks, strict=True)])
            assert np.array_equal(found[kind], expected) and found[kind].dtype == expected.dtype, kind
            assert found[kind].any()
    test = stored.batch("test", np.arange(2), *joined.batch(joined.rows["test"].take(np.arange(2))))
    assert {kind: array.shape for kind, array in test.items()} == {
        "signed_distance": (2, 2, 32, 32),
        "boundary": (2, 2, 32, 32),
        "distance": (2, 2, 32, 32),
        "colour": (2, 3, 32, 32),
    }


def test_what_lies_there_is_used_again_only_where_it_fits(joined: Joined, tmp_path: Path) -> None:
    kinds = losses.derivations("boundary_distance")
    lines: list[str] = []
    for fingerprint, derived in (("a", 1), ("a", 1), ("b", 2)):
        store_targets(tmp_path / "targets", joined, kinds, 2, fingerprint, lines.append)
        assert len(lines) == derived
    left = tmp_path / ".targets.1.part"
    left.mkdir()
    (left / "train-signed_distance.npy").write_bytes(b"half, of a killed process")
    store_targets(tmp_path / "targets", joined, kinds, 2, "c", lines.append)
    assert not left.exists()


def test_a_function_of_ones_own_that_gives_another_shape_is_named(joined: Joined, tmp_path: Path) -> None:
    for function, words in (
        (lambda image, mask, classes: mask, r"'mine' is \[32, 32\], not \[K, 32, 32\]"),
        (lambda image, mask, classes: np.zeros((1 + mask[9, 9], 32, 32)), r"'mine' is \[\d, 32, 32\] for one chip, "),
    ):
        with pytest.raises(RunError, match=words):
            store_targets(tmp_path / "targets", joined, {"mine": function}, 2, "a", print)
        assert not (tmp_path / "targets").exists()


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(
    joined: Joined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A memory map on a full disk would kill the process without a word."""
    kinds = losses.derivations("boundary_distance")
    size = (48 + 8) * 2 * 32 * 32 * 4  # float32 distances of both classes
    for free in (size - 1, size):
        monkeypatch.setattr(targets.shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        if free < size:
            with pytest.raises(
                RunError, match=r"signed_distance of 56 chips need 0\.5 MB in .*/targets, where 0\.5 MB"
            ) as e:
                store_targets(tmp_path / "targets", joined, kinds, 2, "a", print)
            assert "\n" not in str(e.value) and not (tmp_path / "targets").exists()
        else:
            store_targets(tmp_path / "targets", joined, kinds, 2, "a", print)


class Fixed:
    """Draws the given symmetry for every chip."""

    def __init__(self, turns: int, mirror: int) -> None:
        self.values = iter([turns, mirror])

    def integers(self, low: int, high: int, count: int) -> np.ndarray:
        return np.full(count, next(self.values))


@pytest.mark.parametrize(("turns", "mirror"), itertools.product(range(4), range(2)))
def test_flipping_then_deriving_equals_deriving_then_flipping(joined: Joined, turns: int, mirror: int) -> None:
    images, masks = joined.batch(joined.rows["train"].take(np.arange(4)))
    extra = {
        kind: np.stack([function(image, mask, 2) for image, mask in zip(images, masks, strict=True)])
        for kind, function in all_kinds().items()
    }
    batch = {"image": images, "mask": masks, **extra}
    turned = flip({name: torch.from_numpy(array) for name, array in batch.items()}, Fixed(turns, mirror))
    images, masks = turned["image"].numpy(), turned["mask"].numpy()
    for kind in extra:
        flipped = turned[kind].numpy()
        again = [all_kinds()[kind](image, mask, 2) for image, mask in zip(images, masks, strict=True)]
        assert np.array_equal(flipped, np.stack(again)), kind
        assert (turns, mirror) == (0, 0) or not np.array_equal(flipped, extra[kind])
