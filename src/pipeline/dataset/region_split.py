"""Build a region's split from its label chips: blocks, the counts that come of it, and a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import ChipConfig, SplitConfig
from pipeline.dataset.blocks import NONE, SPLITS, Blocks, split_of_chips
from pipeline.dataset.split import assign_blocks, buffer_in_px, smallest_pixel_m
from pipeline.dataset.store import ChipStore
from pipeline.errors import DataError
from pipeline.files import atomic_file
from pipeline.grid import Grid

Array = np.ndarray[Any, np.dtype[Any]]
COLOURS = {"train": "#4c78a8", "val": "#f2b134", "test": "#c8423c", "dropped": "#d9d9d9"}


def split_region(
    name: str,
    config: SplitConfig,
    chips: ChipConfig,
    grid: Grid,
    labels: Path,
    images: list[Path],
    out: Path,
    picture: Path,
    log: Callable[[str], None],
) -> Blocks:
    """Assign the ground of a region to splits and write the table, its facts and a picture.

    Args:
        name: of the split, for messages.
        config: of the split.
        chips: how the region's chips are cut.
        grid: of the region.
        labels: chip store of the recipe that the split balances.
        images: chip stores of the imagery; ground that none of them shows is left out, pixel by pixel.
        out: the Parquet file; facts go to the same name with .json.
        picture: PNG of the chips by split.
        log: takes one line of text.

    Raises DataError when a class has no pixel in a split.
    """
    store = ChipStore.open(labels)
    names: list[str] = store.meta["classes"]
    seen, pixels = _seen_pixels(store, [ChipStore.open(folder) for folder in images], names)
    index = {key: values[seen] for key, values in store.index.items()}
    pixels = pixels[seen]
    size = config.block_px or (chips.px if config.kind == "random" else 4 * chips.px)
    buffer_m = config.buffer_m
    if buffer_m is None:
        buffer_m = 0.0 if config.kind == "random" else chips.px * max(smallest_pixel_m(grid))
    counts = _block_counts(index, pixels, grid, chips, size)
    blocks = assign_blocks(counts, config, size, chips.margin_px, buffer_in_px(grid, buffer_m))
    codes = split_of_chips(blocks, index["row_px"], index["col_px"], chips.px)
    facts = _facts(config, codes, pixels, names, buffer_m, grid)
    _check_classes(name, facts, [label for label, count in zip(names, pixels.sum(axis=0), strict=True) if count])
    blocks.save(out, facts)
    _draw(picture, name, index, codes, chips.px, size, facts)
    shares = ", ".join(f"{key} {value}" for key, value in facts["chips"].items())
    log(
        f"split {name}: {shares} chips; {facts['dropped_share_of_train']:.1%} of the training chips dropped "
        f"for a buffer of {buffer_m:.0f} m"
    )
    return blocks


def _seen_pixels(store: ChipStore, images: list[ChipStore], names: list[str]) -> tuple[Array, Array]:
    """Which label chips any imagery shows, bool [N], and their pixels per class that it shows, int64 [N, classes]."""
    pixels = np.stack([store.index[f"px_{label}"] for label in names], axis=1).astype(np.int64)
    rows = np.full((len(images), len(store)), -1)
    whole = np.zeros(len(store), bool)
    for number, shown in enumerate(images):
        _, at, row = np.intersect1d(
            store.index["chip_id"], shown.index["chip_id"], assume_unique=True, return_indices=True
        )
        rows[number, at] = row
        whole[at] |= shown.index["valid_px"][row] == shown.chip_px**2
    seen = np.asarray((rows >= 0).any(axis=0))
    for chip in np.flatnonzero(seen & ~whole):
        valid = np.any([images[k].valid(rows[k, [chip]])[0] for k in np.flatnonzero(rows[:, chip] >= 0)], axis=0)
        pixels[chip] = np.bincount(store.chips[chip, 0][valid], minlength=256)[: len(names)]
    return seen, pixels


def _block_counts(index: dict[str, Array], pixels: Array, grid: Grid, chips: ChipConfig, size: int) -> Array:
    rows = max(1, -(-(grid.height - chips.margin_px) // size))
    cols = max(1, -(-(grid.width - chips.margin_px) // size))
    centre = chips.px // 2 - chips.margin_px
    block = (index["row_px"] + centre) // size * cols + (index["col_px"] + centre) // size
    counts = np.zeros((rows * cols, pixels.shape[1]), np.int64)
    np.add.at(counts, block, pixels)
    return counts.reshape(rows, cols, -1)


def _facts(
    config: SplitConfig, codes: Array, pixels: Array, names: list[str], buffer_m: float, grid: Grid
) -> dict[str, Any]:
    chips = {split: int((codes == code).sum()) for code, split in enumerate(SPLITS)}
    chips["dropped"] = int((codes == NONE).sum())
    per_class = {
        split: {name: int(pixels[codes == code, k].sum()) for k, name in enumerate(names)}
        for code, split in enumerate(SPLITS)
    }
    return {
        "kind": config.kind,
        "seed": config.seed,
        "fold": config.fold if config.folds else None,
        "folds": config.folds,
        "buffer_m": round(float(buffer_m), 3),
        "gsd_m": grid.gsd_m,
        "chips": chips,
        "dropped_share_of_train": chips["dropped"] / max(chips["train"] + chips["dropped"], 1),
        "class_pixels": per_class,
    }


def _check_classes(name: str, facts: dict[str, Any], labels: list[str]) -> None:
    for split, counts in facts["class_pixels"].items():
        for label in labels:
            if counts[label] == 0:
                raise DataError(
                    f"split {name!r}: class {label!r} has no pixel in {split}; "
                    "use smaller blocks (block_px), a smaller buffer_m, other fractions or another seed"
                )


def _draw(
    picture: Path, name: str, index: dict[str, Array], codes: Array, px: int, block_px: int, facts: dict[str, Any]
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Patch, Rectangle

    figure, axes = pyplot.subplots(figsize=(6.4, 6.4), layout="constrained")
    counts = facts["chips"]
    for code, label in ((0, "train"), (1, "val"), (2, "test"), (NONE, "dropped")):
        at = np.flatnonzero(codes == code)
        corners = zip(index["col_px"][at], index["row_px"][at], strict=True)
        patches = [Rectangle((float(x), float(y)), px, px) for x, y in corners]
        axes.add_collection(PatchCollection(patches, facecolor=COLOURS[label], edgecolor="white", linewidth=0.5))
    rows, cols = index["row_px"], index["col_px"]
    axes.set_xlim(cols.min() - px / 4, cols.max() + px * 1.25)
    axes.set_ylim(rows.max() + px * 1.25, rows.min() - px / 4)
    axes.set_aspect("equal")
    axes.set_xlabel("column, px")
    axes.set_ylabel("row, px")
    handles = [Patch(color=COLOURS[label], label=f"{label} {counts[label]}") for label in COLOURS]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=4, frameon=False)
    axes.set_title(
        f"{name}: {facts['kind']}, blocks of {block_px} px, buffer {facts['buffer_m']:.0f} m, "
        f"{facts['dropped_share_of_train']:.0%} of training chips dropped",
        fontsize=9,
    )
    with atomic_file(picture) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
