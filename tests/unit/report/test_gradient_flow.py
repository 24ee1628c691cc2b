"""ResUNet-a's figures of gradient flow, read back from the axes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver

from pipeline.losses._flow import Flow, flow
from pipeline.report import gradient_flow as G

ROOT = Path(__file__).resolve().parents[3]
SIDE = 41


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that a test saves, open to inspection; nothing is written."""
    kept: list[Figure] = []
    monkeypatch.setattr(G, "save", lambda figure, out: kept.append(figure))
    return kept


def flows(chart: G.Chart) -> list[Flow]:
    return [flow(panel.form, panel.complement, chart.truth, SIDE) for panel in chart.panels]


@pytest.mark.parametrize(
    ("name", "truth", "family", "rows"),
    [
        ("dice-gradient-flow", (1, 0), [("d1", 0), ("d1", 1), ("d2", 0), ("d2", 1), ("d3", 0), ("d3", 1)], 2),
        ("tanimoto-complement", (0.25, 0.85), [("d3", 0), ("d3", 1)], 2),
        ("dice-family-gradients", (0.5, 0.5), [("d1", 0), ("d2", 0), ("d3", 1)], 1),
    ],
)
def test_panels_are_those_of_the_captions(
    name: str, truth: tuple[float, float], family: list[tuple[str, int]], rows: int, drawn: list[Figure]
) -> None:
    chart = G.CHARTS[name]
    assert [(panel.form, panel.complement) for panel in chart.panels] == family
    computed = flows(chart)
    G.draw(chart, computed, Path("unused.png"))
    panels = [ax for ax in drawn[0].axes if ax.get_title(loc="left")]
    assert len(panels) == rows * len(family)
    for number, ax in enumerate(panels):
        title = ax.get_title(loc="left")
        assert title.startswith(f"{chr(ord('a') + number)})") and ("Laplacian" in title) == (number >= len(family))
        assert (ax.get_xlim(), ax.get_ylim()) == ((0, 1), (0, 1))
        (dot,) = [line for line in ax.get_lines() if line.get_marker() == "o"]
        assert np.ravel(dot.get_xydata()).tolist() == list(truth)
        arrows = [item for item in ax.collections if isinstance(item, Quiver)]
        assert len(arrows) == (number < len(family))
        for arrow in arrows:
            x, y = (np.round(arrow.XY * (SIDE - 1)).astype(int)).T
            own = computed[number]
            np.testing.assert_allclose(np.ravel(arrow.U), -own.slope_x[y, x])
            np.testing.assert_allclose(np.ravel(arrow.V), -own.slope_y[y, x])


def test_equal_numbers_give_equal_bytes(tmp_path: Path) -> None:
    chart = G.CHARTS["dice-family-gradients"]
    for name in ("a.png", "b.png"):
        G.draw(chart, flows(chart), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_rule_and_charts_have_the_same_names() -> None:
    names = re.search(r"FIGURES = \((.*)\)", (ROOT / "rules" / "figures.smk").read_text())
    assert names is not None and set(re.findall(r'"([^"]+)"', names[1])) == set(G.CHARTS)
