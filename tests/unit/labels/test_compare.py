"""Confusion, views and errors of two label rasters, against scikit-learn and brute force."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import tracemalloc

import numpy as np
import pytest
import rasterio
from PIL import Image
from sklearn.metrics import confusion_matrix, jaccard_score

from pipeline.config import ClassScheme, check_comparison
from pipeline.errors import ConfigError, DataError
from pipeline.files import read_json
from pipeline.grid import Grid
from pipeline.labels.compare import Labels, compare_labels
from pipeline.labels.views import CLOSE_UP_PX
from pipeline.report.label_pictures import ALPHA, DIFFER, NO_IMAGERY, ONE, SAME, confusion_picture, side_by_side
from tests.support.project import ROOT

IGNORE = 255


def grid_of(height, width, shard_px):
    return Grid("EPSG:32632", 500_000.0, 5_540_000.0, 2.0, 2.0, width, height, 2.0, 2.0, shard_px)


def write(path, band, grid, row=0, col=0, **profile):
    path.parent.mkdir(exist_ok=True)
    profile = {"dtype": band.dtype, "nodata": IGNORE, "crs": grid.crs, "tiled": True, **profile}
    transform = rasterio.Affine(*grid.transform(row, col))
    bands = band if band.ndim == 3 else band[None]
    with rasterio.open(path, "w", "GTiff", *bands.shape[:0:-1], len(bands), transform=transform, **profile) as raster:
        raster.write(bands)


def write_shards(folder, band, grid):
    for shard in grid.shards():
        part = band[shard.row_px : shard.row_px + shard.height, shard.col_px : shard.col_px + shard.width]
        write(folder / f"{shard.name}.tif", part, grid, shard.row_px, shard.col_px)


def patches(height, width, seed, cell=9):
    """Blobs of the four classes and of 255."""
    cells = np.random.default_rng(seed).choice(
        np.array([0, 1, 2, 3, IGNORE], np.uint8), (-(-height // cell), -(-width // cell)), p=[0.3, 0.3, 0.2, 0.1, 0.1]
    )
    return np.kron(cells, np.ones((cell, cell), np.uint8))[:height, :width]


@pytest.fixture
def compare(tmp_path, scheme):
    """Write two rasters as shards (or the second as one file) and compare them."""

    def run(a, b, shard_px=256, *, truth=False, image=None, nodata=None, log=lambda _: None):
        grid = grid_of(*a.shape, shard_px)
        name = f"{shard_px}{'_truth' if truth else ''}"
        one, two = tmp_path / f"old_{name}", tmp_path / f"new_{name}"
        write_shards(one, a, grid)
        if truth:
            two = tmp_path / "truth.tif"
            write(two, b, grid)
        else:
            write_shards(two, b, grid)
        if image is not None:
            for shard in grid.shards():
                here = np.s_[:, shard.row_px : shard.row_px + shard.height, shard.col_px : shard.col_px + shard.width]
                write(
                    tmp_path / "image" / f"{shard.name}.tif",
                    image[here],
                    grid,
                    shard.row_px,
                    shard.col_px,
                    nodata=nodata,
                )
        other = Labels("truth" if truth else "new", two)
        return compare_labels(
            "place",
            Labels("old", one),
            other,
            scheme,
            grid,
            None if image is None else tmp_path / "image",
            tmp_path / "out" / "confusion.csv",
            tmp_path / "out" / "summary.json",
            log=log,
        )

    return run


A, B = patches(700, 530, 1), patches(700, 530, 2, cell=13)


def test_counts_and_scores_are_those_of_scikit_learn(compare, tmp_path):
    lines = []
    found = compare(A, B, log=lines.append)
    values = [0, 1, 2, 3, IGNORE]
    np.testing.assert_array_equal(found.counts, confusion_matrix(A.ravel(), B.ravel(), labels=values))
    both = (A != IGNORE) & (B != IGNORE)
    ious = jaccard_score(A[both], B[both], labels=values[:-1], average=None)
    facts = found.summary
    assert [facts["classes"][name]["iou"] for name in facts["classes"]] == pytest.approx(ious)
    assert facts["mean_iou"] == pytest.approx(ious.mean())
    assert facts["disagreement"]["share"] == pytest.approx((A != B)[both].mean())
    assert facts["disagreement"]["area_km2"] == pytest.approx((A != B)[both].sum() * 4 / 0.9996**2 / 1e6, rel=1e-4)
    assert facts["area_km2"] == pytest.approx(A.size * 4 / 0.9996**2 / 1e6, rel=1e-4)
    assert facts["compared"]["pixels"] == both.sum()
    assert facts["only_a"]["pixels"] == ((A != IGNORE) & (B == IGNORE)).sum() > 0
    assert facts["only_b"]["pixels"] == ((A == IGNORE) & (B != IGNORE)).sum() > 0
    assert facts["ignored_by_both"]["pixels"] == ((A == IGNORE) & (B == IGNORE)).sum() > 0
    shares = [facts[name]["share"] for name in ("compared", "only_a", "only_b", "ignored_by_both")]
    assert sum(shares) == pytest.approx(1)
    for index, entry in enumerate(facts["classes"].values()):
        here = both & (index == A)
        assert entry["a"] == {"pixels": here.sum(), "differ": pytest.approx((index != B)[here].mean())}
        here = both & (index == B)
        assert entry["b"] == {"pixels": here.sum(), "differ": pytest.approx((index != A)[here].mean())}
    assert read_json(tmp_path / "out" / "summary.json") == {"region": "place", **json.loads(json.dumps(facts))}
    with open(tmp_path / "out" / "confusion.csv", newline="") as handle:
        head, *rows = csv.reader(handle)
    assert head == ["old (rows) / new (columns)", "forest", "fields", "urban", "water", "ignored"]
    assert [row[0] for row in rows] == head[1:]
    assert np.array_equal(np.array([row[1:] for row in rows], dtype=int), found.counts)
    assert f"{facts['disagreement']['share']:.2%} of the pixels labelled by both differ" in lines[0]
    only = [((A != IGNORE) & (B == IGNORE)).mean(), ((A == IGNORE) & (B != IGNORE)).mean()]
    assert (
        f"; {sum(only):.2%} of all pixels are labelled by one alone (old {only[0]:.2%}, new {only[1]:.2%})" in lines[0]
    )
    assert "with or without imagery" in lines[0] and lines[1].startswith("old and new of place: IoU forest ")


@pytest.mark.parametrize("shard_px", [97, 300, 4096])
def test_how_the_region_is_cut_makes_no_difference(compare, shard_px):
    whole, cut = compare(A, B, 2048), compare(A, B, shard_px)
    assert np.array_equal(whole.counts, cut.counts)
    for view in ("overview", "close_up"):
        for one, two in zip(*(dataclasses.astuple(getattr(found, view)) for found in (whole, cut)), strict=True):
            np.testing.assert_array_equal(one, two)


def test_a_truth_is_one_raster_of_the_region(compare):
    recipe, truth = compare(A, B), compare(A, B, truth=True)
    assert np.array_equal(recipe.counts, truth.counts) and truth.names == ("old", "truth")


def test_equal_labels_do_not_differ(compare):
    found = compare(A, A.copy())
    assert found.summary["disagreement"] == {"pixels": 0, "share": 0.0, "area_km2": 0.0}
    assert found.summary["mean_iou"] == 1.0 and found.close_up is None and found.summary["close_up"] is None
    assert not found.overview.differ.any() and not found.overview.one.any()


def test_nothing_in_common_has_no_shares(compare, tmp_path, scheme):
    lines = []
    found = compare(np.full((60, 80), 1, np.uint8), np.full((60, 80), IGNORE, np.uint8), log=lines.append)
    assert found.summary["disagreement"]["share"] is None and found.summary["mean_iou"] is None
    assert "no pixel is labelled by both; 100.00% of all pixels are labelled by one alone (old 100.00%" in lines[0]
    assert len(lines) == 1
    side_by_side(found, scheme, tmp_path / "a.png")
    confusion_picture(found, scheme, tmp_path / "b.png")


def window_sums(mask, height, width):
    sums = np.pad(mask.astype(int).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]


def test_the_close_up_is_the_window_with_most_differing_pixels(compare):
    a = np.ones((800, 700), np.uint8)
    b = a.copy()
    b[np.random.default_rng(4).random(b.shape) < np.linspace(0, 0.5, 700)] = 2
    b[:, 600:] = IGNORE  # labelled by one alone: no disagreement
    found = compare(a, b)
    view = found.close_up
    sums = window_sums((a != b) & (b != IGNORE), CLOSE_UP_PX, CLOSE_UP_PX)
    assert found.overview.step == 1
    assert (view.row_px, view.col_px) == np.unravel_index(sums.argmax(), sums.shape)
    here = np.s_[view.row_px : view.row_px + CLOSE_UP_PX, view.col_px : view.col_px + CLOSE_UP_PX]
    assert np.array_equal(view.a, a[here]) and np.array_equal(view.b, b[here])
    assert found.summary["close_up"]["differing_pixels"] == view.differ.sum() == sums.max()


def test_a_big_region_is_thinned(compare):
    a, b = patches(2000, 1003, 3), patches(2000, 1003, 3)
    b[1300:1420, 900:1003] = (a[1300:1420, 900:1003] + 1) % 4
    b[:100] = IGNORE
    image = np.random.default_rng(1).integers(1, 255, (3, *a.shape), np.uint8)
    image[:, 1350:, 700:950] = 0
    found = compare(a, b, 512, image=image, nodata=0)
    view, step = found.overview, 3
    assert view.step == step and view.a.shape == (667, 335)
    rows, cols = (np.minimum(np.arange(0, size, step) + 1, size - 1) for size in a.shape)
    assert np.array_equal(view.a, a[np.ix_(rows, cols)]) and np.array_equal(view.b, b[np.ix_(rows, cols)])
    assert np.array_equal(view.image, image[:, rows][:, :, cols])
    assert np.array_equal(view.seen, image[:, rows][:, :, cols].any(axis=0)) and not view.seen.all()
    labelled = ((a != IGNORE).astype(int), (b != IGNORE).astype(int))
    differ = (a != b) & (labelled[0] & labelled[1]).astype(bool)
    for mask, share in ((differ, view.differ), (labelled[0] != labelled[1], view.one)):
        for row, col in ((0, 0), (12, 334), (33, 7), (440, 310), (470, 334), (666, 334), (666, 0)):
            cell = mask[row * step : row * step + step, col * step : col * step + step]
            assert share[row, col] == pytest.approx(cell.mean())
        assert share.any()
    close = found.close_up
    here = np.s_[close.row_px : close.row_px + CLOSE_UP_PX, close.col_px : close.col_px + CLOSE_UP_PX]
    assert close.differ.sum() == differ.sum() == differ[here].sum() > 0
    assert np.array_equal(close.image, image[(slice(None), *here)])
    assert np.array_equal(close.seen, close.image.any(axis=0)) and close.seen.any() and not close.seen.all()


def test_memory_does_not_grow_with_the_region(compare):
    peaks = []
    for height in (1024, 4096):
        a = np.zeros((height, 1024), np.uint8)
        a[::50] = 1
        b = np.roll(a, 1, axis=0)
        tracemalloc.start()
        compare(a, b, 1024)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("osm-osm", "comparison 'osm-osm' of 'demo': recipe 'osm' is compared with itself"),
        ("osm", r"name two recipes, or a recipe and the truth: data/demo/comparisons/<a>-<b>/"),
        ("truth-osm", r"the truth stands second: data/demo/comparisons/osm-truth/"),
        ("osm-osn", r"recipes/osn.yaml does not exist; did you mean 'osm'\?"),
        ("buildings-osm", r"recipes/buildings.yaml: .*: no class '\w+' in frankfurt"),
        ("osm-truth-osm", "'truth-osm' is no name"),
        ("osm-truth", "regions/demo.yaml has no `truth` to compare with"),
    ],
)
def test_names_that_do_not_compare_are_one_line(tmp_path, pair, says):
    folder = shutil.copytree(ROOT / "config", tmp_path / "config")
    check_comparison("demo", "osm-truth", folder)
    if pair == "osm-truth":
        folder = shutil.copytree(folder, tmp_path / "other")
        region = folder / "regions" / "demo.yaml"
        region.write_text(re.sub("(?m)^truth:.*$", "", region.read_text()))
    with pytest.raises(ConfigError, match=says):
        check_comparison("demo", pair, folder)


def test_the_same_twice_is_one_line(scheme, tmp_path):
    side = Labels("old", tmp_path)
    with pytest.raises(ConfigError, match="'old' are compared with themselves"):
        compare_labels("p", side, side, scheme, grid_of(8, 8, 8), None, tmp_path / "a", tmp_path / "b", log=print)


def test_missing_shards_are_one_line(compare, tmp_path):
    compare(A, B)
    for name in ("r00c01", "r02c02"):
        (tmp_path / "new_256" / f"{name}.tif").unlink()
    side = [Labels(name, tmp_path / f"{name}_256") for name in ("old", "new")]
    says = r"labels 'new': 2 of 9 shard files do not exist, the first is .*r00c01.tif; .*data/p/labels/new/summary.json"
    with pytest.raises(DataError, match=says):
        compare_labels("p", *side, None, grid_of(700, 530, 256), None, tmp_path / "a", tmp_path / "b", log=print)


def test_values_that_are_no_class_are_one_line(compare, tmp_path):
    b = B.copy()
    b[300, 500] = 7
    with pytest.raises(DataError, match=r"labels 'new' hold the value 7, the class scheme ends at 3"):
        compare(A, b)
    assert not (tmp_path / "out").exists()


def test_a_broken_shard_is_one_line(compare, tmp_path, scheme):
    compare(A, B)
    path = tmp_path / "old_256" / "r01c00.tif"
    path.write_bytes(path.read_bytes()[:200])
    side = [Labels(name, tmp_path / f"{name}_256") for name in ("old", "new")]
    with pytest.raises(DataError, match=r"r01c00.tif: is not readable as a raster"):
        compare_labels("p", *side, scheme, grid_of(700, 530, 256), None, tmp_path / "a", tmp_path / "b", log=print)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"left": 500_001.0},
            r"truth.tif does not lie on the region's grid; .*gdalwarp -t_srs EPSG:32632 -te 500001.0",
        ),
        ({"height": 699}, "does not lie on the region's grid"),
        ({"res_y": 2.0001}, "does not lie on the region's grid"),
    ],
)
def test_a_truth_off_the_grid_is_one_line(compare, tmp_path, scheme, change, says):
    compare(A, B, truth=True)
    grid = dataclasses.replace(grid_of(700, 530, 256), **change)
    sides = Labels("old", tmp_path / "old_256_truth"), Labels("truth", tmp_path / "truth.tif")
    with pytest.raises(DataError, match=says):
        compare_labels("p", *sides, scheme, grid, None, tmp_path / "a", tmp_path / "b", log=print)


def test_a_truth_of_another_type_is_one_line(compare):
    with pytest.raises(DataError, match="has 1 bands of uint16; class rasters have one of uint8"):
        compare(A, B.astype(np.uint16), truth=True)


def test_pictures_show_both_sides_and_are_equal_bytes(compare, scheme, tmp_path):
    b = A.copy()
    b[200:400, 100:300] = 2
    b[:60] = IGNORE
    found = compare(A, b)
    for name in "ab":
        side_by_side(found, scheme, tmp_path / f"{name}.png")
        confusion_picture(found, scheme, tmp_path / f"{name}_counts.png")
    for end in ("", "_counts"):
        assert (tmp_path / f"a{end}.png").read_bytes() == (tmp_path / f"b{end}.png").read_bytes()
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    shares = {colour: (picture == colour).all(axis=2).mean() for colour in (*scheme.colours, SAME, DIFFER, ONE)}
    assert min(shares.values()) > 0.002, "classes, agreement, disagreement and one-sided labels are all drawn"
    assert shares[DIFFER] < shares[SAME]
    counts = Image.open(tmp_path / "a_counts.png")
    assert min(counts.size) > 400


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_ground_without_imagery_is_plain_and_does_not_darken_labels(compare, scheme, tmp_path, dtype):
    """16-bit values are stretched between those of the pixels that are there."""
    a, b = np.full((300, 300), 1, np.uint8), np.full((300, 300), 2, np.uint8)
    image = np.zeros((3, 300, 300), dtype)
    image[:, :100] = 90
    image[:, :50] = 180
    found = compare(a, b, 512, image=image, nodata=0)
    side_by_side(found, scheme, tmp_path / "a.png")
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    bright = {"uint8": (180, 90), "uint16": (255, 0)}[dtype]

    def share(colour):
        return (np.abs(picture - np.asarray(colour, float)) <= 1).all(axis=2).mean()

    assert share(NO_IMAGERY) > 0.05, "two thirds of the first of four panels"
    for value in (1, 2):
        for under, least in ((NO_IMAGERY, 0.05), *(((grey,) * 3, 0.01) for grey in bright)):
            mixed = (1 - ALPHA) * np.array(under) + ALPHA * np.array(scheme.colours[value])
            assert share(mixed) > least, (value, under)


def with_classes(names):
    entries = [{"index": i, "name": name, "colour": (20 * i, 90, 200 - 20 * i)} for i, name in enumerate(names)]
    return ClassScheme.model_validate({"classes": entries})


@pytest.mark.parametrize("classes", [2, 3, 8])
def test_headlines_fit_into_the_heat_map(compare, tmp_path, classes):
    a, b = np.zeros((64, 64), np.uint8), np.ones((64, 64), np.uint8)
    b[:20] = IGNORE
    found = dataclasses.replace(compare(a, b), names=("long_name_of_a_recipe", "another_long_name"))
    found = dataclasses.replace(
        found,
        counts=np.ones((classes + 1, classes + 1), dtype=np.int64),
        summary=found.summary | dict(zip("ab", found.names, strict=True)),
    )
    confusion_picture(found, with_classes([f"class_{k}" for k in range(classes)]), tmp_path / "a.png")
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    assert (picture[:, :4] == 255).all() and (picture[:, -4:] == 255).all()
    heading = picture[: int(0.5 * 130 * 0.8)]
    assert (heading < 128).sum() > 1000
