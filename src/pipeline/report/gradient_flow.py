"""Figures 3 to 5 of Diakogiannis et al. (2020, ResUNet-a): where the losses of the Dice family lead. They need no data.

    snakemake --cores 1 results/figures/dice-gradient-flow.png
    snakemake --cores 1 results/figures/tanimoto-complement.png
    snakemake --cores 1 results/figures/dice-family-gradients.png

The numbers come from the losses themselves (losses/_flow.py); here they are drawn. Axes are the probabilities of two
pixels, a black dot marks their truth. Thin lines are level lines of the loss, 0.05 apart in every panel, so that
dense lines mean a steep loss; arrows are the negative gradient, which is where a step of training goes, on one scale
per figure. So are the Laplacians, second row, lettered on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm

from pipeline.report.figures import save, styled

if TYPE_CHECKING:
    from matplotlib.contour import ContourSet

    from pipeline.losses._flow import Flow

SIDE = 121  # grid points per axis
EVERY = 10  # grid points from arrow to arrow
LONGEST = 0.15  # length of the longest arrow, in probability
LEVELS = np.linspace(0, 1, 21)
PANEL_IN = 2.15  # inches


@dataclass(frozen=True)
class Panel:
    """One member of the Dice family."""

    form: Literal["d1", "d2", "d3"]
    complement: bool
    title: str


@dataclass(frozen=True)
class Chart:
    """A figure: the truth of both pixels, its panels, and whether the Laplacians stand below."""

    truth: tuple[float, float]
    panels: tuple[Panel, ...]
    laplacian: bool


_D1, _D1C = Panel("d1", False, "$D_1$"), Panel("d1", True, r"$\tilde{D}_1$")
_D2, _D2C = Panel("d2", False, "$D_2$"), Panel("d2", True, r"$\tilde{D}_2$")
_T, _TC = Panel("d3", False, r"$D_3 \equiv T$"), Panel("d3", True, r"$\tilde{D}_3 \equiv \tilde{T}$")

CHARTS = {
    "dice-gradient-flow": Chart((1.0, 0.0), (_D1, _D1C, _D2, _D2C, _T, _TC), laplacian=True),
    "tanimoto-complement": Chart((0.25, 0.85), (_T, _TC), laplacian=True),
    "dice-family-gradients": Chart((0.5, 0.5), (_D1, _D2, _TC), laplacian=False),
}


def draw(chart: Chart, flows: Sequence[Flow], out: Path) -> None:
    """Draw the panels of `chart`, one per flow in the same order, and write them as the suffix of `out` says."""
    rows, columns = 1 + chart.laplacian, len(chart.panels)
    with styled():
        figure, grid = pyplot.subplots(
            rows,
            columns,
            figsize=(PANEL_IN * columns + 0.9, PANEL_IN * rows + 0.5),
            layout="constrained",
            sharex=True,
            sharey=True,
            squeeze=False,
        )
        for number, ax in enumerate(grid.flat):
            panel = chart.panels[number % columns]
            ax.set_title(f"{chr(ord('a') + number)})  {'Laplacian of ' * (number >= columns)}{panel.title}")
            _frame(ax, chart.truth, left=number % columns == 0, bottom=number >= (rows - 1) * columns)
        steepest = max(float(np.hypot(flow.slope_x, flow.slope_y).max()) for flow in flows)
        shades = [_gradient(ax, flow, steepest) for ax, flow in zip(grid[0], flows, strict=True)]
        figure.colorbar(shades[-1], ax=list(grid[0]), label="loss $1 - D$", ticks=LEVELS[::5])
        if chart.laplacian:
            highest = max(float(np.abs(flow.laplacian).max()) for flow in flows)
            shades = [_laplacian(ax, flow, highest) for ax, flow in zip(grid[1], flows, strict=True)]
            figure.colorbar(shades[-1], ax=list(grid[1]), label=r"$\nabla^2 (1 - D)$")
        save(figure, out)


def _frame(ax: Axes, truth: tuple[float, float], left: bool, bottom: bool) -> None:
    """Square axes from 0 to 1, labelled at the figure's edge, and the dot."""
    ax.set_aspect("equal")
    ax.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    ax.grid(False)
    if bottom:
        ax.set_xlabel("$p_x$")
    if left:
        ax.set_ylabel("$p_y$")
    ax.plot(*truth, "o", color="black", markersize=6, clip_on=False, zorder=5)


def _gradient(ax: Axes, flow: Flow, steepest: float) -> ContourSet:
    """The loss as shades and level lines, its negative gradient as arrows; `steepest` is the longest one's length."""
    shade = ax.contourf(flow.axis, flow.axis, flow.loss, levels=LEVELS, cmap="Blues")
    ax.contour(flow.axis, flow.axis, flow.loss, levels=LEVELS, colors="#4a6a8a", linewidths=0.4)
    some = slice(EVERY // 2, None, EVERY)
    ax.quiver(
        flow.axis[some],
        flow.axis[some],
        -flow.slope_x[some, some],
        -flow.slope_y[some, some],
        color="#b34a00",
        angles="xy",
        scale_units="xy",
        scale=steepest / LONGEST,
        pivot="mid",
        width=0.008,
        headwidth=4,
        minlength=0.5,
    )
    return shade


def _laplacian(ax: Axes, flow: Flow, highest: float) -> ContourSet:
    """The Laplacian on one scale for all panels, white where it is 0."""
    bound = np.ceil(highest)
    norm = TwoSlopeNorm(0, -bound, bound)
    levels = np.linspace(-bound, bound, 33)
    shade = ax.contourf(flow.axis, flow.axis, flow.laplacian, levels=levels, cmap="RdBu_r", norm=norm)
    ax.contour(flow.axis, flow.axis, flow.laplacian, levels=levels, colors="black", linewidths=0.3)
    return shade
