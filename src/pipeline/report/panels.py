"""Pictures of predictions: test chips beside image and labels, and a whole region. Equal input, equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from PIL import Image

from pipeline.errors import RunError
from pipeline.report.figures import hex_colour, save, styled
from pipeline.report.results import IGNORE, Array, Chips, RunResult

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.patches import Patch

Colour = tuple[int, int, int]
IGNORED_COLOUR = (236, 236, 236)
LEAST_SHARE = 0.01  # of a chip's labelled pixels that makes a class count as covered
OVERVIEW_PX = 1600


def display_rgb(bands: Array) -> Array:
    """Turn image bands [N, bands, H, W] or [bands, H, W] into RGB uint8 [..., H, W, 3] for the eye.

    The first three bands are shown, one or two as grey. 8-bit values stay as they are; others are stretched band by
    band between the 2nd and 98th percentile over all pixels given, NaN becoming black.
    """
    bands = np.asarray(bands)
    shown = bands[..., :3, :, :] if bands.shape[-3] >= 3 else np.repeat(bands[..., :1, :, :], 3, axis=-3)
    rgb = np.moveaxis(shown, -3, -1)
    if rgb.dtype == np.uint8:
        return np.ascontiguousarray(rgb)
    values = rgb.astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    out = np.zeros(values.shape, np.uint8)
    for band in range(3):
        layer = values[..., band]
        if np.isnan(layer).all():
            continue
        low, high = np.nanpercentile(layer, (2, 98))
        scaled = (layer - low) / (high - low) if high > low else np.zeros_like(layer)
        out[..., band] = np.round(np.clip(np.nan_to_num(scaled), 0, 1) * 255).astype(np.uint8)
    return out


def colourise(indices: Array, colours: Sequence[Colour]) -> Array:
    """Class indices uint8 [H, W] as RGB uint8 [H, W, 3]; 255 (ignored) and unknown indices are light grey."""
    lookup = np.full((256, 3), IGNORED_COLOUR, np.uint8)
    lookup[: len(colours)] = np.asarray(colours, np.uint8).reshape(-1, 3)
    return lookup[np.asarray(indices, np.uint8)]


@dataclass(frozen=True)
class PickedChip:
    """A chip of the panel: its rank in words (``best`` … ``worst``), its accuracy, and how many classes it covers."""

    chip_id: str
    rank: str
    accuracy: float
    classes: int


def pick_chips(cells: pd.DataFrame, count: int) -> list[PickedChip]:
    """Choose test chips that cover most classes, spread over the quantiles of chip accuracy, best first.

    A class counts as covered from 1 % of a chip's labelled pixels. Candidates are the chips with the most classes,
    taking in chips with fewer until there are `count`; of these the best, the worst and evenly spaced quantiles
    between are taken. Ties go by chip id, so the choice depends on the counts alone.

    Args:
        cells: rows of chip_id, split, truth, predicted, pixels of one checkpoint.
        count: chips wanted, at least 1; fewer come back when the split has fewer.
    """
    test = cells[(cells["split"] == "test") & (cells["pixels"] > 0)]
    if test.empty:
        return []
    labelled = test.groupby(["chip_id", "truth"])["pixels"].sum().unstack(fill_value=0)
    totals = labelled.sum(axis=1)
    right = test[test["truth"] == test["predicted"]].groupby("chip_id")["pixels"].sum()
    accuracy = (right.reindex(labelled.index, fill_value=0) / totals).rename("accuracy")
    covered = labelled.ge(LEAST_SHARE * totals, axis=0).sum(axis=1).rename("classes")
    chips = pd.concat([accuracy, covered], axis=1).reset_index()
    least = int(chips["classes"].nlargest(min(count, len(chips))).min())
    candidates = chips[chips["classes"] >= least].sort_values(["accuracy", "chip_id"], ascending=[False, True])
    count = min(count, len(candidates))
    at = np.round(np.linspace(0, len(candidates) - 1, count)).astype(int) if count > 1 else np.array([0])
    picked = []
    for position, row in enumerate(candidates.iloc[at].to_dict("records")):
        picked.append(
            PickedChip(str(row["chip_id"]), _rank(position, count), float(row["accuracy"]), int(row["classes"]))
        )
    return picked


def _rank(position: int, count: int) -> str:
    if position == 0:
        return "best"
    if position == count - 1:
        return "worst"
    if 2 * position == count - 1:
        return "median"
    return f"{1 - position / (count - 1):.0%} quantile"


def prediction_panel(
    result: RunResult, images: Path, labels: Path, truth: Path | None, out: Path, *, chips: int = 5
) -> str:
    """Draw test chips of one run as image, label, prediction and (if given) truth; return the caption.

    Args:
        result: of the run, see `results.open_run`.
        images, labels, truth: chip stores.
        out: the file to write, .png or .jpg.
        chips: rows of the panel.

    Raises RunError when the run has no test chip, DataError when a store lacks one.
    """
    picked = pick_chips(result.cells, chips)
    if not picked:
        raise RunError(f"run {result.run.id}: no test chip has a labelled pixel, so there is no panel to draw")
    predicted, order = result.predictions()
    rows = {chip: row for row, chip in enumerate(order)}
    absent = [chip.chip_id for chip in picked if chip.chip_id not in rows]
    if absent:
        raise RunError(
            f"run {result.run.id}: chip {absent[0]!r} is in confusion.parquet but not in predictions/chips.json"
        )
    image_store, label_store = Chips(images), Chips(labels)
    rgb = display_rgb(np.stack([image_store[chip.chip_id] for chip in picked]))
    columns: dict[str, list[Array]] = {
        "image": list(rgb),
        "label": [label_store[chip.chip_id][0] for chip in picked],
        "prediction": [np.asarray(predicted[rows[chip.chip_id]]) for chip in picked],
    }
    if truth is not None:
        truth_store = Chips(truth)
        columns["truth"] = [truth_store[chip.chip_id][0] for chip in picked]
    _draw_panel(picked, columns, result, out)
    least = min(chip.classes for chip in picked)
    return (
        f"Test chips of the best run, {result.run.id}: of the chips with at least {least} of {len(result.classes)} "
        "classes, those at even steps of the chip's accuracy from best to worst. Grey is not labelled."
    )


def _draw_panel(picked: list[PickedChip], columns: dict[str, list[Array]], result: RunResult, out: Path) -> None:
    with styled():
        side = 1.75
        figure, grid = pyplot.subplots(
            len(picked),
            len(columns),
            figsize=(side * len(columns) + 0.9, side * len(picked) + 0.7),
            squeeze=False,
            layout="constrained",
        )
        for column, (name, pictures) in enumerate(columns.items()):
            grid[0][column].set_title(name, loc="center")
            for row, picture in enumerate(pictures):
                ax = grid[row][column]
                ax.imshow(picture if name == "image" else colourise(picture, result.colours), interpolation="nearest")
                ax.spines[:].set_visible(False)
                ax.set_xticks([])
                ax.set_yticks([])
                ax.grid(False)
        for row, chip in enumerate(picked):
            grid[row][0].set_ylabel(f"{chip.rank}\naccuracy {chip.accuracy:.3f}", fontsize=8)
        ignored = any(
            (picture == IGNORE).any() for name, part in columns.items() if name != "image" for picture in part
        )
        class_legend(figure, result.classes, result.colours, ignored)
        save(figure, out)


def class_legend(figure: Figure, names: Sequence[str], colours: Sequence[Colour], ignored: bool) -> None:
    """Put the classes in their colours below a figure, with ``not labelled`` when something is ignored."""
    shown = list(zip(names, colours, strict=True)) + [("not labelled", IGNORED_COLOUR)] * ignored
    handles = [
        Patch(facecolor=hex_colour(colour), edgecolor="#888888", linewidth=0.5, label=name) for name, colour in shown
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))


def region_overview(
    image: Array,
    prediction: Array,
    *,
    names: Sequence[str],
    colours: Sequence[Colour],
    out: Path,
    alpha: float = 0.4,
    title: str = "",
    gsd_m: float | None = None,
) -> str:
    """Blend a region's prediction over its image and write the picture with a legend; return the caption.

    Args:
        image: uint8 [H, W, 3].
        prediction: class indices uint8 [H, W]; where it is 255 only the image shows.
        names, colours: of the classes, in index order; colours 0 to 255.
        out: .png or .jpg.
        alpha: share of the prediction in the blend, 0 to 1 (the Frankfurt report's is 0.3).
        title: above the picture.
        gsd_m: metres per pixel of `image`, for a scale bar.

    Pictures above 1600 px are thinned first (image by block means, prediction by every n-th pixel), so that memory
    stays at the size of the input. Raises RunError when the shapes or `alpha` do not fit.
    """
    if image.ndim != 3 or image.shape[:2] != prediction.shape or image.shape[2] != 3:
        raise RunError(
            f"region picture: image {image.shape} and prediction {prediction.shape} are not [H, W, 3] and [H, W]"
        )
    if not 0 <= alpha <= 1:
        raise RunError(f"region picture: alpha {alpha} is no share; give 0 to 1")
    step = -(-max(prediction.shape) // OVERVIEW_PX)
    small = np.asarray(Image.fromarray(np.ascontiguousarray(image)).reduce(step)) if step > 1 else image
    thin = prediction[step // 2 :: step, step // 2 :: step]
    height, width = min(len(small), len(thin)), min(small.shape[1], thin.shape[1])
    picture = blend(small[:height, :width], thin[:height, :width], colours, alpha)
    _draw_overview(picture, names, colours, out, title, None if gsd_m is None else gsd_m * step)
    return f"Prediction of the best run over the whole region, blended at {alpha:g} over the image."


def blend(image: Array, prediction: Array, colours: Sequence[Colour], alpha: float) -> Array:
    """(1 − alpha) · image + alpha · class colour, uint8 [H, W, 3]; where the prediction is 255 the image as it is."""
    mixed = (1 - alpha) * image.astype(np.float64) + alpha * colourise(prediction, colours)
    return np.where((prediction != IGNORE)[..., None], np.round(mixed), image).astype(np.uint8)


def _draw_overview(
    picture: Array, names: Sequence[str], colours: Sequence[Colour], out: Path, title: str, gsd_m: float | None
) -> None:
    height, width = picture.shape[:2]
    wide = min(9.0, 9.0 * width / height)
    with styled():
        figure, ax = pyplot.subplots(figsize=(wide, wide * height / width + 0.7), layout="constrained")
        ax.imshow(picture, interpolation="nearest")
        ax.set_axis_off()
        if title:
            ax.set_title(title, loc="center")
        if gsd_m is not None:
            _scale_bar(ax, width, height, gsd_m)
        class_legend(figure, names, colours, ignored=False)
        save(figure, out)


def _scale_bar(ax: Any, width: int, height: int, gsd_m: float) -> None:
    """Draw the longest of 1, 2, 5 · 10^k metres that fits a quarter of the width."""
    longest = width * gsd_m / 4
    power = 10.0 ** np.floor(np.log10(longest))
    metres = max(step * power for step in (1, 2, 5) if step * power <= longest)
    length, left, bottom = metres / gsd_m, 0.04 * width, 0.96 * height
    text = f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"
    for colour, line in (("black", 5.0), ("white", 2.5)):
        ax.plot([left, left + length], [bottom, bottom], color=colour, linewidth=line, solid_capstyle="butt")
    box = {"facecolor": "black", "alpha": 0.6, "pad": 2, "edgecolor": "none"}
    ax.text(left, bottom - 0.02 * height, text, color="white", fontsize=8, va="bottom", bbox=box)
