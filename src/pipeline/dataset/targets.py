"""Extra targets that losses need beside the mask, such as distance maps: derived once per chip, kept as memory maps.

A loss's file says which (TARGETS) and how (DERIVE); here they are computed for the chips that a run trains on and
validates with, stored below ``work/<run>/targets/`` and gathered batch by batch. Needs numpy and what the loss needs.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.joined import Joined
from pipeline.errors import RunError
from pipeline.files import atomic_folder, read_json, write_json

Array = np.ndarray[Any, np.dtype[Any]]
Derive = Callable[[Array, Array, int], Array]
SPLITS = ("train", "val")
BATCH = 32


@dataclass(frozen=True)
class ExtraTargets:
    """The extra targets of a run's chips, by kind.

    Attributes:
        derive: kind → function of an image [bands, H, W], its mask [H, W] uint8 (255: ignored) and the number of logits
            per pixel, to [K, H, W] numbers.
        classes: logits per pixel.
        stored: split → kind → [N, K, H, W] of the split's chips in index order; what is not there is derived when
            asked for.
    """

    derive: dict[str, Derive]
    classes: int
    stored: dict[str, dict[str, Array]] = field(default_factory=dict)

    def batch(self, split: str, at: Array, images: Array, masks: Array) -> dict[str, Array]:
        """Extra targets [n, K, H, W] by kind of the chips at positions `at` of a split.

        Args:
            split: ``train``, ``val`` or ``test``.
            at: positions within the split, [n].
            images: their images [n, bands, H, W].
            masks: their masks [n, H, W] uint8, 255 where the image has no data.
        """
        if split in self.stored:
            return {kind: np.asarray(array[at]) for kind, array in self.stored[split].items()}
        chips = [_derived(self.derive, image, mask, self.classes) for image, mask in zip(images, masks, strict=True)]
        return {kind: np.stack([chip[kind] for chip in chips]) for kind in self.derive}


def store_targets(
    folder: Path,
    joined: Joined,
    derive: dict[str, Derive],
    classes: int,
    fingerprint: str,
    log: Callable[[str], None],
) -> ExtraTargets:
    """Derive the extra targets of the training and validation chips into `folder`, or take those that lie there.

    One batch of chips is in memory at a time; the folder appears when all are done. It is used again if it was made for
    the same `fingerprint`.

    Args:
        folder: ``work/<run>/targets``.
        joined: the run's chips.
        derive: kind → function, as in `ExtraTargets`; where it is empty nothing is written.
        classes: logits per pixel.
        fingerprint: of all that the targets depend on: data, split, code.
        log: takes one line of text.

    Raises:
        RunError: when a function gives another shape than [K, H, W], or another K than for the first chip, and when
            the disk is too small for all.
    """
    if not derive:
        return ExtraTargets(derive, classes)
    if not _fits(folder, fingerprint):
        begin = time.monotonic()
        _check_disk(folder, joined, derive, classes)
        with atomic_folder(folder) as temporary:
            for split in SPLITS:
                _store_split(temporary, joined, split, derive, classes)
            write_json(temporary / "targets.json", {"fingerprint": fingerprint})
        chips = sum(len(joined.rows[split]) for split in SPLITS)
        size = sum(path.stat().st_size for path in folder.glob("*.npy"))
        log(
            f"derived {', '.join(derive)} of {chips} chips in {time.monotonic() - begin:.1f} s, "
            f"{size / 1e6:.1f} MB in {folder}"
        )
    stored = {
        split: {kind: np.load(_path(folder, split, kind), mmap_mode="r", allow_pickle=False) for kind in derive}
        for split in SPLITS
    }
    return ExtraTargets(derive, classes, stored)


def _fits(folder: Path, fingerprint: str) -> bool:
    facts = folder / "targets.json"
    return facts.is_file() and read_json(facts)["fingerprint"] == fingerprint


def _check_disk(folder: Path, joined: Joined, derive: dict[str, Derive], classes: int) -> None:
    """RunError when the disk has no room: a memory map that meets its end kills the process without a message."""
    images, masks = joined.batch(joined.rows["train"].take(np.arange(1)))
    chips = sum(len(joined.rows[split]) for split in SPLITS)
    size = chips * sum(target.nbytes for target in _derived(derive, images[0], masks[0], classes).values())
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if size > free:
        raise RunError(
            f"{', '.join(derive)} of {chips} chips need {size / 1e6:.1f} MB in {folder}, where {free / 1e6:.1f} MB are "
            "free; make room, train on fewer chips (train_subset) or take a loss without extra targets"
        )


def _path(folder: Path, split: str, kind: str) -> Path:
    return folder / f"{split}-{kind}.npy"


def _store_split(folder: Path, joined: Joined, split: str, derive: dict[str, Derive], classes: int) -> None:
    rows = joined.rows[split]
    arrays: dict[str, np.memmap[Any, Any]] = {}
    for start in range(0, len(rows), BATCH):
        images, masks = joined.batch(rows.take(np.arange(start, min(start + BATCH, len(rows)))))
        for place, (image, mask) in enumerate(zip(images, masks, strict=True), start):
            for kind, target in _derived(derive, image, mask, classes).items():
                if kind not in arrays:
                    shape, path = (len(rows), *target.shape), _path(folder, split, kind)
                    arrays[kind] = np.lib.format.open_memmap(path, mode="w+", dtype=target.dtype, shape=shape)
                if target.shape != arrays[kind].shape[1:]:
                    wanted = list(arrays[kind].shape[1:])
                    raise RunError(f"the extra target {kind!r} is {list(target.shape)} for one chip, {wanted} before")
                arrays[kind][place] = target
    for array in arrays.values():
        array.flush()


def _derived(derive: dict[str, Derive], image: Array, mask: Array, classes: int) -> dict[str, Array]:
    found = {kind: function(image, mask, classes) for kind, function in derive.items()}
    for kind, target in found.items():
        if target.ndim != 3 or target.shape[1:] != mask.shape:
            raise RunError(
                f"the extra target {kind!r} is {list(target.shape)}, not [K, {mask.shape[0]}, {mask.shape[1]}]"
            )
    return found
