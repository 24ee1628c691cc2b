"""Windowed inference: every pixel is what its own window says, seams and borders included."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from pipeline import models
from pipeline.errors import RunError
from pipeline.grid import web_mercator_grid
from pipeline.predict.region import predict_region
from pipeline.train.checkpoint import load_checkpoint, save_checkpoint
from tests.unit.dataset.test_store import write_shards

PARAMS = {"width": 4, "depth": 3, "dropout": 0.0, "bn_momentum": 0.1, "bn_eps": 1e-3}
BBOX = (8.5, 50.0, 8.5021, 50.0012)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = models.create("unet", in_channels=3, classes=3, **PARAMS)
    head = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    with torch.no_grad():  # so that every class wins somewhere
        assert head.bias is not None
        head.bias -= model.eval()(torch.randn(4, 3, 32, 32)).mean(dim=(0, 2, 3))
    facts = {
        "model": {"name": "unet", "params": PARAMS},
        "in_channels": 3,
        "classes": ["a", "b", "c"],
        "colours": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        "offset": [100.0, 110.0, 120.0],
        "scale": [50.0, 40.0, 30.0],
        "chip_px": 32,
    }
    save_checkpoint(tmp_path / "best.safetensors", model.state_dict(), facts)
    return tmp_path / "best.safetensors"


def test_each_pixel_is_what_its_window_says(tmp_path: Path, checkpoint: Path) -> None:
    grid = web_mercator_grid(BBOX, 17, 96)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (3, grid.height, grid.width)).astype(np.uint8)
    valid = np.ones((grid.height, grid.width), bool)
    valid[10:40, 20:60] = False
    pixels[:, ~valid] = 0
    shards = write_shards(tmp_path / "tif", grid, pixels, valid)
    out = tmp_path / "prediction.tif"
    predict_region(checkpoint, shards, grid, out, crop_px=8, log=lambda _: None)
    with rasterio.open(out) as raster:
        found = raster.read(1)
        assert raster.crs.to_epsg() == 3857
        assert tuple(raster.transform)[:6] == pytest.approx(grid.transform())
        colours = raster.colormap(1)
        assert colours[1] == (4, 5, 6, 255) and raster.nodata == 255
        assert raster.tags()["classes"] == "a,b,c"
    assert (found[~valid] == 255).all()
    model, facts = load_checkpoint(checkpoint)
    padded = np.pad(pixels, ((0, 0), (8, 64), (8, 64)), mode="symmetric").astype(np.float32)
    offset, scale = (np.array(facts[key], np.float32)[:, None, None] for key in ("offset", "scale"))
    expected = np.empty_like(found)
    for row in range(0, grid.height, 16):
        for col in range(0, grid.width, 16):
            window = (padded[:, row : row + 32, col : col + 32] - offset) / scale
            with torch.no_grad():
                classes = model(torch.from_numpy(window)[None]).argmax(1)[0, 8:24, 8:24].numpy()
            place = expected[row : row + 16, col : col + 16]
            place[...] = classes[: place.shape[0], : place.shape[1]]
    assert len(np.unique(expected)) == 3
    differ = (found != expected) & valid
    assert differ.mean() < 1e-3  # a batch of windows may round differently where two classes tie


def test_shards_do_not_show(tmp_path: Path, checkpoint: Path) -> None:
    pixels = None
    results = []
    for shard_px in (64, 1024):
        grid = web_mercator_grid(BBOX, 17, shard_px)
        if pixels is None:
            pixels = np.random.default_rng(1).integers(0, 255, (3, grid.height, grid.width)).astype(np.uint8)
        valid = np.ones((grid.height, grid.width), bool)
        shards = write_shards(tmp_path / str(shard_px), grid, pixels, valid)
        predict_region(checkpoint, shards, grid, tmp_path / f"{shard_px}.tif", log=lambda _: None)
        with rasterio.open(tmp_path / f"{shard_px}.tif") as raster:
            results.append(raster.read(1))
    assert np.array_equal(*results)


@pytest.mark.parametrize("damage", ["truncated", "foreign", "another model", "gone"])
def test_a_bad_checkpoint_is_one_clear_error(tmp_path: Path, checkpoint: Path, damage: str) -> None:
    if damage == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:200])
    elif damage == "foreign":
        checkpoint.write_bytes(b"PK\x03\x04 not a checkpoint")
    elif damage == "another model":
        path = checkpoint.with_suffix(".json")
        path.write_text(path.read_text().replace('"width": 4', '"width": 8'))
    else:
        checkpoint.unlink()
    with pytest.raises(RunError, match=r"best\.safetensors") as caught:
        load_checkpoint(checkpoint)
    assert "\n" not in str(caught.value)


FULL = """
    import resource, signal, sys
    from pathlib import Path
    from pipeline.errors import DataError
    from pipeline.grid import Grid
    from pipeline.predict.region import predict_region

    folder, short = Path(sys.argv[1]), int(sys.argv[2])
    grid = Grid.load(folder / "grid.json")
    shards = {shard.name: folder / "tif" / f"{shard.name}.tif" for shard in grid.shards()}
    out = folder / "out" / "prediction.tif"

    def job():
        predict_region(folder / "best.safetensors", shards, grid, out, crop_px=8, log=lambda _: None)

    job()
    size = out.stat().st_size
    out.unlink()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - short, resource.RLIM_INFINITY))
    try:
        job()
    except DataError as error:
        print(error)
    print([path.name for path in out.parent.iterdir()])
"""


@pytest.mark.parametrize("short", [1, 4000])
def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, checkpoint: Path, short: int) -> None:
    """A limit on the size of files stands for the disk; GDAL closes such a file without a word."""
    grid = web_mercator_grid(BBOX, 17, 512)
    pixels = np.random.default_rng(0).integers(0, 255, (3, grid.height, grid.width)).astype(np.uint8)
    write_shards(tmp_path / "tif", grid, pixels, np.ones((grid.height, grid.width), bool))
    grid.save(tmp_path / "grid.json")
    command = [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path), str(short)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    error, left = done.stdout.splitlines()
    assert "prediction.tif: " in error and error.endswith("is there space on the disk?")
    assert left == "[]"
