"""Which chips are shown, and what colours they get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.errors import DataError, RunError
from pipeline.report import panels as P
from pipeline.report.results import open_run

from .conftest import CLASSES, COLOURS, World, chip_id

RGB = [(4, 135, 29), (231, 231, 25), (229, 109, 109), (14, 10, 214)]


def cells(chips: dict[str, list[tuple[int, int, int]]], split: str = "test") -> pd.DataFrame:
    rows = [(chip, split, *row) for chip, part in chips.items() for row in part]
    return pd.DataFrame(rows, columns=["chip_id", "split", "truth", "predicted", "pixels"])


def test_chips_with_most_classes_are_spread_over_accuracy() -> None:
    two = {f"two{right}": [(0, 0, right), (0, 1, 50 - right), (1, 1, 50)] for right in (50, 40, 30, 20, 10, 0)}
    one = {"one": [(0, 0, 100)], "speck": [(0, 0, 1000), (1, 1, 5)]}  # the speck's second class is below 1 %
    picked = P.pick_chips(pd.concat([cells(two | one), cells({"val": [(0, 0, 9), (1, 1, 9), (2, 2, 9)]}, "val")]), 3)
    assert [chip.rank for chip in picked] == ["best", "median", "worst"]
    assert picked[0].chip_id == "two50" and picked[-1].chip_id == "two0" and picked[1].chip_id in ("two30", "two20")
    assert [chip.accuracy for chip in picked][::2] == [1.0, 0.5] and all(chip.classes == 2 for chip in picked)


def test_chips_with_fewer_classes_fill_up_and_order_does_not_matter() -> None:
    counts = cells({"a": [(0, 0, 9), (1, 1, 9)], "b": [(0, 0, 9)], "c": [(0, 1, 9)]})
    picked = P.pick_chips(counts, 5)
    assert [chip.chip_id for chip in picked] == ["a", "b", "c"]
    assert P.pick_chips(counts.sample(frac=1, random_state=3), 5) == picked
    assert P.pick_chips(counts.iloc[:0], 5) == []
    assert [chip.rank for chip in P.pick_chips(counts, 1)] == ["best"]


def test_panel_accuracies_are_those_of_the_pixels(world: World) -> None:
    run = world.study.runs[0]
    result = open_run(run, world.results, "val_mean_iou")
    for chip in P.pick_chips(result.cells, 4):
        row = next(row for row in range(12) if chip_id(row) == chip.chip_id)
        label, guess = world.labels[row], world.pixels[run.id, result.checkpoint][row]
        assert row >= 5 and chip.accuracy == pytest.approx((label == guess)[label != 255].mean())


def test_panel_is_deterministic_and_shows_the_scheme_colours(world: World) -> None:
    result = open_run(world.study.runs[0], world.results, "val_mean_iou")
    stores = (world.chips("aerial"), world.chips("osm"), world.chips("truth"))
    paths = [world.root / f"{name}.png" for name in "ab"]
    captions = {P.prediction_panel(result, *stores, path, chips=2) for path in paths}
    assert paths[0].read_bytes() == paths[1].read_bytes() and len(captions) == 1
    picture = np.asarray(Image.open(paths[0]).convert("RGB"))
    shown = {tuple(pixel) for pixel in np.unique(picture.reshape(-1, 3), axis=0).tolist()}
    assert {*RGB, P.IGNORED_COLOUR} <= shown
    without = world.root / "without.png"
    P.prediction_panel(result, *stores[:2], None, without, chips=2)
    assert Image.open(without).width < Image.open(paths[0]).width


def test_panel_names_what_is_missing(world: World) -> None:
    result = open_run(world.study.runs[0], world.results, "val_mean_iou")
    out = world.root / "panel.png"
    with pytest.raises(DataError, match="nowhere"):
        P.prediction_panel(result, world.root / "nowhere", world.chips("osm"), None, out)
    (result.folder / "predictions" / f"test-{result.checkpoint}.npy").unlink()
    with pytest.raises(RunError, match=rf"{result.run.id}.*test-{result.checkpoint}\.npy is missing"):
        P.prediction_panel(result, world.chips("aerial"), world.chips("osm"), None, out)
    assert not out.exists()


def test_colourise_maps_indices_and_greys_the_rest() -> None:
    picture = P.colourise(np.array([[0, 1, 2, 3, 255, 9]], np.uint8), RGB)
    assert picture[0, :4].tolist() == COLOURS and (picture[0, 4:] == P.IGNORED_COLOUR[0]).all()


def test_eight_bit_images_stay_as_they_are() -> None:
    chips = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 6)).astype(np.uint8)
    assert np.array_equal(P.display_rgb(chips), chips[:, :3].transpose(0, 2, 3, 1))
    grey = P.display_rgb(chips[0, :1])
    assert grey.shape == (5, 6, 3) and np.array_equal(grey[..., 2], chips[0, 0])


def test_other_images_are_stretched_between_percentiles() -> None:
    band = np.linspace(1000, 3000, 101).reshape(1, 1, 1, 101)
    chips = np.concatenate([band, band[..., ::-1], np.full_like(band, 7.0)], axis=1)
    chips[0, 0, 0, 50] = np.nan
    rgb = P.display_rgb(chips)[0, 0]
    assert rgb[0].tolist() == [0, 255, 0] and rgb[-1].tolist() == [255, 0, 0] and rgb[50, 0] == 0
    assert rgb[25, 0] == pytest.approx(255 * (25 - 2) / 96, abs=1.5)
    assert P.display_rgb(np.nan_to_num(chips).astype(np.uint16))[0, 0, 100].tolist()[:2] == [255, 0]


def test_blend_is_the_weighted_mean_and_spares_ignored_pixels() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    mixed = P.blend(image, np.array([[0, 3, 255]], np.uint8), RGB, 0.3)
    assert mixed[0].tolist() == [[71, 110, 79], [74, 73, 134], [100, 100, 100]]


def test_region_overview_is_deterministic_thinned_and_checked(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (1701, 900, 3)).astype(np.uint8)
    prediction = rng.integers(0, 4, (1701, 900)).astype(np.uint8)
    names = {"names": CLASSES, "colours": RGB}
    paths = [tmp_path / f"{name}.jpg" for name in "ab"]
    for path in paths:
        P.region_overview(image, prediction, **names, out=path, gsd_m=0.5)  # type: ignore[arg-type]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with pytest.raises(RunError, match=r"alpha 1\.5"):
        P.region_overview(image, prediction, **names, out=paths[0], alpha=1.5)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="not \\[H, W, 3\\]"):
        P.region_overview(image, prediction[:-1], **names, out=paths[0])  # type: ignore[arg-type]
