"""Runs on shrunk chips: what is trained, scored and kept, and the windows of a whole region."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import torch
from PIL import Image
from ruamel.yaml import YAML

from pipeline.config import load_region
from pipeline.dataset.joined import join
from pipeline.errors import ConfigError, RunError
from pipeline.evaluate.network import evaluate
from pipeline.files import read_json
from pipeline.grid import web_mercator_grid
from pipeline.predict.region import predict_region
from pipeline.runs import expand_runs, run_id
from pipeline.train.checkpoint import load_checkpoint
from pipeline.train.engine import train
from tests.support.tiny import PX, a_spec, write_region
from tests.unit.dataset.test_store import write_shards

ROOT = Path(__file__).resolve().parents[3]
SMALL = 16


def shrunk_spec(**train: Any) -> dict[str, Any]:
    spec = a_spec(**train)
    return spec | {"data": spec["data"] | {"resize_px": SMALL}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """(data, result folder, metrics) of a run on chips of 32 px shrunk to 16, some pixels without imagery."""
    folder = tmp_path_factory.mktemp("resize")
    data = write_region(folder / "data", invalid=True)
    train("tiny-run", shrunk_spec(epochs=3), "c", data=data, out=folder / "out", work=folder / "work", log=str)
    metrics = evaluate(folder / "out", data, folder / "work", str)
    return data, folder / "out", metrics


def logits_of(out: Path, images: np.ndarray) -> np.ndarray:
    """What the checkpoint's network makes of images [N, 3, h, w], by hand."""
    model, facts = load_checkpoint(out / "checkpoints" / "best_accuracy.safetensors")
    offset, scale = (np.array(facts[key], np.float32)[:, None, None] for key in ("offset", "scale"))
    with torch.no_grad():
        found: np.ndarray = model(torch.from_numpy((images - offset) / scale)).numpy()
    return found


def resized(pictures: np.ndarray) -> np.ndarray:
    """[..., 32, 32] → [..., 16, 16] by Pillow's nearest pixel."""
    flat = pictures.reshape(-1, *pictures.shape[-2:])
    small = [np.asarray(Image.fromarray(one).resize((SMALL, SMALL), Image.Resampling.NEAREST)) for one in flat]
    return np.stack(small).reshape(*pictures.shape[:-2], SMALL, SMALL)


def test_scores_are_of_the_shrunk_masks_and_predictions_have_the_size_of_the_chips(
    finished: tuple[Path, Path, dict[str, Any]],
) -> None:
    data, out, metrics = finished
    whole = join(data, a_spec()["data"])
    images, masks = whole.batch(whole.rows["test"])
    truth = resized(masks)
    expected = logits_of(out, resized(images).astype(np.float32)).argmax(axis=1).astype(np.uint8)
    kept = np.load(out / "predictions" / "test-best_accuracy.npy")
    assert kept.shape == (len(images), PX, PX) and kept.dtype == np.uint8
    assert np.array_equal(kept, np.kron(expected, np.ones((1, 2, 2), np.uint8)))
    cells = pq.read_table(out / "confusion.parquet").to_pandas()
    test = cells[(cells["split"] == "test") & (cells["checkpoint"] == "best_accuracy")]
    counted = truth != 255
    assert test["pixels"].sum() == counted.sum() == len(images) * SMALL * (SMALL - 2)
    right = test[test["truth"] == test["predicted"]]["pixels"].sum()
    assert right == ((truth == expected) & counted).sum()
    assert metrics["checkpoints"]["best_accuracy"]["test"]["accuracy"] == pytest.approx(right / counted.sum())


def test_the_checkpoint_says_what_it_saw(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    data, out, _ = finished
    facts = read_json(out / "checkpoints" / "last.json")
    assert facts["chip_px"] == PX and facts["resize_px"] == SMALL
    whole = join(data, a_spec()["data"])
    images, masks = whole.batch(whole.rows["train"])
    seen = np.moveaxis(resized(images), 1, 0)[:, resized(masks) != 255]
    assert facts["offset"] == pytest.approx(seen.mean(axis=1), rel=1e-9)


def test_a_region_is_predicted_in_windows_shrunk_as_the_chips_were(
    finished: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, out, _ = finished
    grid = web_mercator_grid((8.5, 50.0, 8.5012, 50.0008), 17, 96)
    rng = np.random.default_rng(0)
    size = (-(-grid.height // 8), -(-grid.width // 8))
    pixels = np.kron(rng.integers(0, 2, (3, *size)), np.ones((8, 8), int))[:, : grid.height, : grid.width]
    pixels = np.clip(pixels * 90 + 60 + rng.normal(0, 30, pixels.shape), 0, 255).astype(np.uint8)
    shards = write_shards(tmp_path / "tif", grid, pixels, np.ones(pixels.shape[1:], bool))
    checkpoint = out / "checkpoints" / "best_accuracy.safetensors"
    predict_region(checkpoint, shards, grid, tmp_path / "out.tif", crop_px=7, log=lambda _: None)
    with rasterio.open(tmp_path / "out.tif") as raster:
        found = raster.read(1)
    step = PX - 14
    padded = np.pad(pixels, ((0, 0), (7, PX), (7, PX)), mode="symmetric")
    expected = np.empty((grid.height + PX, grid.width + PX), np.uint8)
    for row in range(0, grid.height, step):
        for col in range(0, grid.width, step):
            window = resized(padded[None, :, row : row + PX, col : col + PX]).astype(np.float32)
            classes = np.kron(logits_of(out, window).argmax(axis=1)[0], np.ones((2, 2), int))
            expected[row : row + step, col : col + step] = classes[7 : 7 + step, 7 : 7 + step]
    assert len(np.unique(found)) == 2
    assert (found != expected[: grid.height, : grid.width]).mean() < 1e-3  # ties may round otherwise in a batch


def test_windows_that_cannot_be_shrunk_are_one_line(
    finished: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, out, _ = finished
    checkpoint = out / "checkpoints" / "last.safetensors"
    grid = web_mercator_grid((8.5, 50.0, 8.5012, 50.0008), 17, 96)
    with pytest.raises(RunError, match=r"last.safetensors sees chips shrunk by 2: window_px 33 must be a multiple"):
        predict_region(checkpoint, {}, grid, tmp_path / "out.tif", window_px=33, log=lambda _: None)


# --- the config --------------------------------------------------------------------------------------------------


def demo_study(tmp_path: Path, resize_px: Any) -> Any:
    config = tmp_path / "config"
    shutil.copytree(ROOT / "config", config)
    yaml = YAML(typ="safe", pure=True)
    content = yaml.load((config / "studies" / "demo.yaml").read_text())
    content["data"]["resize_px"] = resize_px
    with open(config / "studies" / "mine.yaml", "w") as handle:
        yaml.dump(content, handle)
    return expand_runs("mine", config, ROOT / "rules" / "variants")


@pytest.mark.parametrize("px", [100, 256, [64, 24]])
def test_a_size_that_does_not_divide_the_region_s_chips_stops_the_parsing(tmp_path: Path, px: Any) -> None:
    wrong = px[-1] if isinstance(px, list) else px
    line = rf"mine.yaml: data.resize_px: {wrong} does not divide the chips of region 'demo', 128 px wide; chips shrink"
    with pytest.raises(ConfigError, match=line) as caught:
        demo_study(tmp_path, px)
    assert "\n" not in str(caught.value)


def test_a_size_is_an_axis_of_networks_alone(tmp_path: Path) -> None:
    runs = demo_study(tmp_path, [None, 64]).runs
    assert load_region("demo").chips.px == 128
    networks = [run for run in runs if run.kind == "run"]
    assert sorted(str(run.varied["data.resize_px"]) for run in networks) == ["64"] * 4 + ["None"] * 4
    assert all(run.spec["data"]["resize_px"] is None for run in runs if run.kind != "run")
    spec = next(run.spec for run in networks if run.varied["data.resize_px"] is None)
    without = {key: value for key, value in spec["data"].items() if key != "resize_px"}
    assert run_id(spec) == run_id(spec | {"data": without})
