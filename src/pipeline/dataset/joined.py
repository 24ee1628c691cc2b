"""Image and label chips joined by chip id and split, for training and evaluation. Needs numpy and pyarrow alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.blocks import SPLITS, Blocks, split_of_chips
from pipeline.dataset.store import ChipStore
from pipeline.errors import DataError
from pipeline.files import sha256_file

Array = np.ndarray[Any, np.dtype[Any]]
IGNORE = 255


@dataclass(frozen=True)
class Rows:
    """The chips of one split, in index order: ids and their rows in both stores."""

    chip_ids: Array
    image: Array
    label: Array

    def __len__(self) -> int:
        return len(self.chip_ids)

    def take(self, at: Array) -> Rows:
        """The chips at positions `at`."""
        return Rows(self.chip_ids[at], self.image[at], self.label[at])


@dataclass(frozen=True)
class Joined:
    """The data of a run: both stores and the rows of each split (`train`, `val`, `test`).

    Attributes:
        images: the store of image chips.
        labels: the store of label chips.
        rows: the chips of each split.
        factor: chips are shrunk by it before anything sees them (`shrunk`); 1 leaves them as they are.
    """

    images: ChipStore
    labels: ChipStore
    rows: dict[str, Rows]
    factor: int = 1

    @property
    def classes(self) -> list[str]:
        """Class names in index order."""
        return [str(name) for name in self.labels.meta["classes"]]

    @property
    def px(self) -> int:
        """Edge in pixels of the chips that `batch` gives."""
        return self.images.chip_px // self.factor

    def batch(self, rows: Rows) -> tuple[Array, Array]:
        """Images [N, bands, H, W] in their dtype and targets [N, H, W] uint8; a pixel without imagery is 255."""
        images, valid = self.imagery(rows)
        targets = np.array(shrunk(self.labels.chips[:, 0], self.factor)[rows.label])
        if not valid.all():
            targets[~valid] = IGNORE
        return images, targets

    def imagery(self, rows: Rows) -> tuple[Array, Array]:
        """Images [N, bands, H, W] in their dtype and which of their pixels have data, bool [N, H, W]."""
        images = np.asarray(shrunk(self.images.chips, self.factor)[rows.image])
        return images, shrunk(self.images.valid(rows.image), self.factor)


def shrunk(pixels: Array, factor: int) -> Array:
    """A view of `pixels` [..., H, W] with one pixel of each cell of factor × factor, [..., H / factor, W / factor].

    It is the pixel that holds the cell's centre, and of four around the centre the lower right one: row and column
    ``factor // 2``. So TensorFlow 2 and Pillow resize to the nearest pixel; OpenCV takes the cell's first.
    """
    return pixels if factor == 1 else pixels[..., factor // 2 :: factor, factor // 2 :: factor]


def enlarged(pixels: Array, factor: int) -> Array:
    """`pixels` [..., H, W], each repeated over a cell of factor × factor: [..., H · factor, W · factor]."""
    return pixels if factor == 1 else pixels.repeat(factor, axis=-2).repeat(factor, axis=-1)


def join(data: Path, spec: dict[str, Any]) -> Joined:
    """Join the stores that a run's data, ``spec["data"]`` of it, names below the folder `data`.

    ``train_subset`` and ``val_subset`` leave a fixed random subset of that many chips, the same for every run;
    ``resize_px`` shrinks the chips of all splits to that edge.

    Raises DataError when the stores differ in chip size, ``resize_px`` does not divide it, or a split has no chips.
    """
    place = data / spec["region"]
    images = ChipStore.open(place / "chips" / spec["imagery"])
    labels = ChipStore.open(place / "chips" / spec["recipe"])
    if images.chip_px != labels.chip_px:
        raise DataError(f"image chips are {images.chip_px} px and label chips {labels.chip_px} px: cut both again")
    blocks = Blocks.load(place / "splits" / f"{spec['split']}.parquet")
    shared, image_at, label_at = np.intersect1d(
        images.index["chip_id"], labels.index["chip_id"], assume_unique=True, return_indices=True
    )
    codes = split_of_chips(blocks, labels.index["row_px"][label_at], labels.index["col_px"][label_at], labels.chip_px)
    rows = {}
    for code, name in enumerate(SPLITS):
        at = np.flatnonzero(codes == code)
        if len(at) == 0:
            raise DataError(f"split {spec['split']!r} of region {spec['region']!r} has no chips for {name}")
        rows[name] = Rows(shared[at], image_at[at], label_at[at])
    for name in ("train", "val"):
        if spec.get(f"{name}_subset") is not None:
            rows[name] = _subset(rows[name], int(spec[f"{name}_subset"]))
    return Joined(images, labels, rows, _factor(images.chip_px, spec.get("resize_px")))


def _factor(chip_px: int, resize_px: int | None) -> int:
    if resize_px is not None and chip_px % resize_px:
        raise DataError(f"data.resize_px {resize_px} does not divide the {chip_px} px of the chips; take a divisor")
    return 1 if resize_px is None else chip_px // resize_px


def _subset(rows: Rows, size: int) -> Rows:
    """A fixed random subset: the same chips for every run that asks for `size` of them."""
    if size >= len(rows):
        return rows
    return rows.take(np.sort(np.random.default_rng(20240501).permutation(len(rows))[:size]))


def class_counts(joined: Joined) -> Array:
    """Pixels per class of each training chip's label, [N, C] int64, from the index of the label chips.

    They are those of the chips as they were cut: at full size, and with the pixels that have a label but no imagery.
    """
    index, rows = joined.labels.index, joined.rows["train"]
    return np.stack([index[f"px_{name}"][rows.label] for name in joined.classes], axis=1).astype(np.int64)


def top_value(joined: Joined) -> float:
    """The largest value of the images' integer dtype; 1.0 for floating point."""
    dtype = joined.images.chips.dtype
    return float(np.iinfo(dtype).max) if dtype.kind in "ui" else 1.0


def band_statistics(joined: Joined) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per band over the valid pixels of the training chips, shrunk or not, float64."""
    bands = joined.images.chips.shape[1]
    total, squares, pixels = np.zeros(bands), np.zeros(bands), 0
    rows = joined.rows["train"]
    for start in range(0, len(rows), 64):
        images, valid = joined.imagery(rows.take(np.arange(start, min(start + 64, len(rows)))))
        values = np.moveaxis(images, 1, 0)[:, valid].astype(np.float64)
        total += values.sum(axis=1)
        squares += (values**2).sum(axis=1)
        pixels += values.shape[1]
    if pixels == 0:
        raise DataError("the training chips have no valid pixel")
    mean = total / pixels
    deviation = np.sqrt(np.maximum(squares / pixels - mean**2, 1e-12))
    return mean.tolist(), deviation.tolist()


def scaling(joined: Joined, normalize: str) -> tuple[list[float], list[float]]:
    """(offset, scale) per band: a network sees ``(pixel - offset) / scale``."""
    bands = joined.images.chips.shape[1]
    if normalize == "standard":
        return band_statistics(joined)
    dtype = joined.images.chips.dtype
    top = float(np.iinfo(dtype).max) if normalize == "unit" and dtype.kind in "ui" else 1.0
    return [0.0] * bands, [top] * bands


def data_hashes(data: Path, spec: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of the stores' contents and of the split that a run reads."""
    place = data / spec["region"]
    return {
        "images": ChipStore.open(place / "chips" / spec["imagery"]).meta["sha256"],
        "labels": ChipStore.open(place / "chips" / spec["recipe"]).meta["sha256"],
        "split": sha256_file(place / "splits" / f"{spec['split']}.parquet"),
    }
