"""The picture of a learning-rate range test: the loss over the rate, and which rate is suggested."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import pyplot

from pipeline.report.figures import PALETTE, save, styled

if TYPE_CHECKING:
    from pipeline.train.lr_range import Curve

MARKS = (
    ("suggested_lr", "suggested: steepest descent", PALETTE[1], "-"),
    ("minimum_over_10", "a tenth of the minimum's", PALETTE[2], "--"),
    ("lr_at_minimum", "minimum", PALETTE[7], ":"),
    ("lr_at_divergence", "diverged", PALETTE[3], "-."),
    ("run_lr", "the run's own", "black", (0, (1, 4))),
)
ROOM = 0.08  # of the height, above and below


def draw(curve: Curve, found: Mapping[str, Any], title: str, out: Path) -> None:
    """Draw the loss of each step and the smoothed one over the rate, with the rates that were found as lines.

    The height is up to the highest smoothed loss before it diverges; single losses may lie above.

    Args:
        curve: of the test.
        found: the rates of `MARKS`; null for one that there is not.
        title: above the picture.
        out: a .png, .svg or .jpg.
    """
    smoothed = np.asarray(curve.smoothed)
    shown = smoothed[:-1] if curve.diverged_at is not None and len(smoothed) > 1 else smoothed
    low, high = float(min(shown.min(), *curve.loss)), float(shown.max())
    room = ROOM * (high - low) or 1e-3
    with styled():
        figure, ax = pyplot.subplots(figsize=(7.2, 4.2), layout="constrained")
        ax.plot(curve.lr, curve.loss, ".", color=PALETTE[4], markersize=4, label="loss of a batch")
        ax.plot(curve.lr, curve.smoothed, color=PALETTE[0], linewidth=1.8, label="smoothed")
        for name, text, colour, style in MARKS:
            if found[name] is not None:
                ax.axvline(found[name], color=colour, linestyle=style, label=f"{text} ({found[name]:.1e})")
        ax.set(xscale="log", xlabel="learning rate", ylabel="training loss", ylim=(low - room, high + room))
        ax.set_title(title)
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
        save(figure, out)
