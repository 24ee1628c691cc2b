"""Pictures of labels: shares of classes and sources, two label rasters side by side. Equal input, equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np

from pipeline.labels.statistics import IGNORED, NONE, area_text
from pipeline.report.figures import hex_colour, save, styled
from pipeline.report.panels import IGNORED_COLOUR, Colour, blend, colourise, display_rgb
from pipeline.report.results import IGNORE, Array

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

if TYPE_CHECKING:
    from pipeline.config import ClassScheme
    from pipeline.labels.compare import Comparison
    from pipeline.labels.views import View

SAME, DIFFER, ONE, NEITHER = (214, 214, 214), (200, 20, 30), (240, 205, 140), (255, 255, 255)
NO_IMAGERY = (205, 214, 228)
GROUND = "all of the grid counts, with or without imagery"
ALPHA = 0.55  # share of the labels over imagery
PANEL_IN = 3.3
LEAST_IN, TALLEST_IN = 1.8, 7.5  # of a row; its text on the left takes the least
LEGEND_COLUMNS = 9
CHARACTER_IN = 0.08  # of the heat map's headline, which a few classes are narrower than
ROOM = 1.32  # width of a bar chart in lengths of its longest bar: the text beside it needs some
LEAST_TEXT = 0.04  # narrower pieces of a stacked bar are named in the legend alone


def distribution_picture(summary: dict[str, Any], scheme: ClassScheme, out: Path) -> None:
    """Draw the shares of classes as bars in the scheme's colours, and of the sources as one stacked bar.

    Classes are shares of the labelled pixels; what is ignored stands apart as a share of all, as the sources do. All
    pixels of the grid count, with or without imagery.

    Args:
        summary: as `pipeline.labels.statistics.summarize_labels` returns it.
        scheme: names and colours.
        out: the file to write, .png or .svg.
    """
    classes, ignored = summary["classes"], summary["ignored"]
    with styled():
        heights = [len(classes), 1.0, 1.1]
        figure, (bars, rest, stack) = pyplot.subplots(
            3, 1, figsize=(7.4, 3.9 + 0.36 * len(classes)), layout="constrained", height_ratios=heights
        )
        for row, (name, colour) in enumerate(zip(scheme.names, scheme.colours, strict=True)):
            _bar(bars, row, classes[name]["share_of_labelled"] or 0.0, classes[name], colour)
        _bar(rest, 0, ignored["share"], ignored, IGNORED_COLOUR, hatch="///")
        widest = max(0.05, *(entry["share_of_labelled"] or 0.0 for entry in classes.values()))
        for ax, names, longest in ((bars, scheme.names, widest), (rest, [IGNORED], 1.0)):
            ax.set_yticks(range(len(names)), names)
            ax.invert_yaxis()
            ax.grid(False, axis="y")
            ax.set_xlim(0, longest * ROOM)
            _percent(ax)
        bars.set_xlabel("share of labelled pixels")
        rest.set_xlabel("share of all pixels")
        bars.set_title(f"{summary['recipe']} of {summary['region']}: {area_text(summary['area_km2'])}, classes")
        _stack_sources(stack, summary["sources"])
        figure.legend(loc="outside lower center", ncols=4, fontsize=8, title=GROUND, title_fontsize=8)
        save(figure, out)


def _bar(ax: Axes, row: int, share: float, entry: dict[str, float], colour: Colour, hatch: str | None = None) -> None:
    """A bar with its share and area beside it."""
    ax.barh(row, share, color=hex_colour(colour), edgecolor="#888888", linewidth=0.5, height=0.72, hatch=hatch)
    text = f"{share:.2%}   {area_text(entry['area_km2'])}"
    ax.annotate(text, (share, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)


def _percent(ax: Axes) -> None:
    """Ticks in percent, none above 100."""
    ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= tick <= min(1.0, ax.get_xlim()[1])])
    ax.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))


def _stack_sources(ax: Axes, sources: dict[str, dict[str, float]]) -> None:
    """One stacked bar; sources that painted nothing are left out."""
    left = 0.0
    shown = {name: entry["share"] for name, entry in sources.items() if entry["share"] > 0}
    for number, (name, share) in enumerate(shown.items()):
        colour = "#9a9a9a" if name == NONE else matplotlib.colormaps["tab20"](number % 20)
        label = f"{'background or ignored' if name == NONE else name} {share:.2%}"
        ax.barh(0, share, left=left, color=colour, edgecolor="white", linewidth=0.8, height=0.8, label=label)
        if share >= LEAST_TEXT:
            ax.text(left + share / 2, 0, f"{share:.0%}", ha="center", va="center", fontsize=8)
        left += share
    ax.set_xlim(0, 1)
    ax.set_yticks([])
    ax.grid(False)
    _percent(ax)
    ax.set_xlabel("share of all pixels")
    ax.set_title("sources: the layer that painted the pixel last")


def confusion_picture(comparison: Comparison, scheme: ClassScheme, out: Path) -> None:
    """Draw the confusion counts as a heat map: share of the row's pixels, and below it the share of all pixels."""
    counts = comparison.counts
    names = [*scheme.names, IGNORED]
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
    of_all = counts / counts.sum()
    with styled():
        size = 1.7 + 0.8 * len(names)
        wide = max(size, CHARACTER_IN * max(map(len, comparison.headline())))
        figure, ax = pyplot.subplots(figsize=(wide, size + 0.4), layout="constrained")
        ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(*counts.shape):
            ink = "white" if shares[row, column] > 0.55 else "black"
            if not rows[row, 0]:
                ax.text(column, row, "—", ha="center", va="center", fontsize=8, color="#888888")
                continue
            ax.text(column, row - 0.1, f"{shares[row, column]:.1%}", ha="center", va="center", fontsize=9, color=ink)
            share = f"{of_all[row, column]:.2%}"
            ax.text(column, row + 0.24, share, ha="center", va="center", fontsize=6.5, color=ink)
        ax.set_xticks(range(len(names)), names, rotation=30 if len(names) > 6 else 0)
        ax.set_yticks(range(len(names)), names)
        ax.spines[:].set_visible(False)
        ax.grid(False)
        ax.set_xlabel(comparison.names[1], fontweight="bold")
        ax.set_ylabel(comparison.names[0], fontweight="bold")
        figure.suptitle("\n".join(comparison.headline()), fontsize=9)
        figure.supxlabel(f"large: share of the row; small: share of all pixels\n{GROUND}", fontsize=8)
        save(figure, out)


def side_by_side(comparison: Comparison, scheme: ClassScheme, out: Path, *, aspect: float = 1.0) -> None:
    """Draw both label rasters, over imagery where there is any, and which pixels differ (the report's Figure 2.4).

    The first row is the whole region, thinned: a cell of the difference is the redder the more of its pixels differ
    (square root of the share, so that narrow differences show). The second row is the part with most differing pixels,
    pixel by pixel. Ground without imagery is plain.

    Args:
        comparison: as `pipeline.labels.compare.compare_labels` returns it.
        scheme: names and colours.
        out: the file to write, .png or .jpg.
        aspect: height of a pixel on the ground, its width being 1.
    """
    views = [comparison.overview, *([comparison.close_up] if comparison.close_up is not None else [])]
    shapes = [view.a.shape for view in views]
    heights = [float(np.clip(PANEL_IN * aspect * rows / cols, LEAST_IN, TALLEST_IN)) for rows, cols in shapes]
    columns = 3 + (comparison.overview.image is not None)
    with styled():
        figure, grid = pyplot.subplots(
            len(views),
            columns,
            figsize=(PANEL_IN * columns + 0.4, sum(heights) + 1.4 + 0.3 * len(views)),
            height_ratios=heights,
            squeeze=False,
            layout="constrained",
        )
        for axes, view in zip(grid, views, strict=True):
            _draw_view(axes, view, scheme, aspect)
        titles = [*(["imagery"] if columns == 4 else []), *comparison.names, "difference"]
        for ax, title in zip(grid[0], titles, strict=True):
            ax.set_title(title, loc="center")
        grid[0][0].set_ylabel(_scale(comparison.overview))
        if comparison.close_up is not None:
            grid[1][0].set_ylabel("where most pixels differ")
            _frame(grid[0], comparison.overview, comparison.close_up)
        figure.suptitle("\n".join(comparison.headline()), fontsize=10)
        _legend(figure, scheme, comparison)
        save(figure, out)


def _scale(view: View) -> str:
    return "every pixel" if view.step == 1 else f"one in {view.step} x {view.step} pixels"


def _draw_view(axes: Sequence[Axes], view: View, scheme: ClassScheme, aspect: float) -> None:
    image = _imagery(view)
    pictures = [] if image is None else [image]
    for labels in (view.a, view.b):
        pictures.append(
            colourise(labels, scheme.colours) if image is None else blend(image, labels, scheme.colours, ALPHA)
        )
    pictures.append(_difference(view))
    for ax, picture in zip(axes, pictures, strict=True):
        ax.imshow(picture, interpolation="nearest" if view.step == 1 else "antialiased", aspect=aspect)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(False)
        ax.spines[:].set_visible(True)
        ax.spines[:].set_color("#bbbbbb")


def _imagery(view: View) -> Array | None:
    """uint8 [rows, cols, 3], plain where there is no imagery: black would darken the labels over it."""
    if view.image is None or view.seen is None:
        return None
    image = view.image if view.image.dtype == np.uint8 else np.where(view.seen, view.image.astype(np.float64), np.nan)
    return np.where(view.seen[..., None], display_rgb(image), NO_IMAGERY).astype(np.uint8)


def _difference(view: View) -> Array:
    """uint8 [rows, cols, 3]: grey where both agree, redder the more of a cell differs, one-sided labels in amber."""
    nothing = (view.a == IGNORE) & (view.b == IGNORE) & (view.one == 0) & (view.differ == 0)
    colour = np.where(nothing[..., None], NEITHER, SAME).astype(np.float64)
    for share, over in ((view.one, ONE), (view.differ, DIFFER)):
        weight = np.sqrt(share)[..., None]
        colour += weight * (np.asarray(over) - colour)
    return np.round(colour).astype(np.uint8)


def _frame(axes: Sequence[Axes], overview: View, close_up: View) -> None:
    """Mark the close-up in every panel of the overview."""
    height, width = (size / overview.step for size in close_up.a.shape)
    corner = (close_up.col_px / overview.step - 0.5, close_up.row_px / overview.step - 0.5)
    for ax in axes:
        for colour, line in (("white", 2.4), ("black", 1.2)):
            ax.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=line))


def _legend(figure: Figure, scheme: ClassScheme, comparison: Comparison) -> None:
    """Classes of either side, and what the colours of the difference mean."""
    counts = comparison.counts
    used = (counts.sum(axis=1) + counts.sum(axis=0))[:-1] > 0
    one = counts[:-1, -1].any() or counts[-1, :-1].any()
    shown = [entry for entry, seen in zip(zip(scheme.names, scheme.colours, strict=True), used, strict=True) if seen]
    if (one or counts[-1, -1]) and comparison.overview.image is None:
        shown.append((IGNORED, IGNORED_COLOUR))
    shown += [("same class", SAME), ("differs", DIFFER)]
    if one:
        shown.append(("labelled by one alone", ONE))
    if counts[-1, -1]:
        shown.append(("by neither", NEITHER))
    seen = [view.seen for view in (comparison.overview, comparison.close_up) if view is not None]
    if any(part is not None and not part.all() for part in seen):
        shown.append(("no imagery", NO_IMAGERY))
    handles = [
        Patch(facecolor=hex_colour(colour), edgecolor="#888888", linewidth=0.5, label=name) for name, colour in shown
    ]
    rows = -(-len(handles) // LEGEND_COLUMNS)
    columns = -(-len(handles) // rows)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, title=GROUND, title_fontsize=8)
