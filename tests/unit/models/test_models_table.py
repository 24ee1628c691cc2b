"""The table of `make models`: what is counted, by hand for small networks."""

from __future__ import annotations

import sys

import pytest
import torch

from benchmarks import models as table
from pipeline import variants


@pytest.mark.parametrize("depth", [1, 2])
def test_multiply_adds_are_those_of_the_convolutions(depth: int) -> None:
    """Width 4: two 3×3 convolutions and the 1×1 head; a level below, the 2×2 up-convolution and a wider decoder."""
    level = 9 * (3 * 4 + 4 * 4) + 4 * 4
    expected = 256**2 * level
    if depth == 2:
        expected += 128**2 * (9 * (4 * 8 + 8 * 8) + 8 * 4 * 4) + 256**2 * 9 * (8 * 4 + 4 * 4)
    parameters, multiply_adds = table.work("unet", {"width": 4, "depth": depth})
    assert multiply_adds == expected
    assert depth == 2 or parameters == (level + 4 + 4 + 4) + 2 * 2 * 4  # biases; scale and shift of two batch norms


def test_every_network_has_a_row_and_every_row_is_a_valid_network() -> None:
    rows = table.entries([])
    assert {name for name, params in rows if not params} == set(variants.names("models"))
    for name, params in rows:
        variants.check("models", name, params, "table")
    assert table.label("unet", {}) == "`unet`" and table.label("a", {"b": 1}) == "`a: {b: 1}`"


def test_a_misspelt_network_is_one_line_with_the_choices(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["models", "unett"])
    with pytest.raises(SystemExit) as caught:
        table.main()
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert caught.value.code == 2 and "no model 'unett'; did you mean 'unet'? choices: " in last


def test_a_small_network_is_measured() -> None:
    row = table.measure("unet", {"width": 1, "depth": 1}, torch.device("cpu"), 0.0, False)
    assert row.images_per_s > 0 and row.trained_per_s is not None and row.trained_per_s > 0 and row.peak_bytes is None
