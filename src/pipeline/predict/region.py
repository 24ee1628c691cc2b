"""Predict a whole region in windows, written as a georeferenced raster row by row: memory does not grow with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.acquire.shards import Mosaic
from pipeline.dataset.joined import enlarged, shrunk
from pipeline.errors import RunError
from pipeline.grid import Grid, Shard
from pipeline.labels.rasters import RasterFile, open_rasters
from pipeline.train.checkpoint import load_checkpoint
from pipeline.train.inference import Scaler, main_logits

Array = np.ndarray[Any, np.dtype[Any]]
NODATA = 255
BATCH = 16
GDAL_OPTIONS = {"GDAL_PAM_ENABLED": False}  # its own cache: neighbouring rows of windows read the same blocks


def predict_region(
    checkpoint: Path,
    shards: dict[str, Path],
    grid: Grid,
    out: Path,
    *,
    window_px: int | None = None,
    crop_px: int = 32,
    log: Callable[[str], None],
) -> None:
    """Classify every pixel of a region and write a uint8 GeoTIFF with a colour table (255 where there is no imagery).

    Args:
        checkpoint: .safetensors with its .json beside it.
        shards: shard name → GeoTIFF of the imagery.
        grid: of the region.
        out: the GeoTIFF to write.
        window_px: edge of a window; default: the chips' that the network learned on. A network that learned on shrunk
            chips sees windows shrunk as they were, and its classes are repeated over the pixels of each cell.
        crop_px: cut off every side of a window before it is used (the Frankfurt report's 32).
        log: takes one line of text.

    Raises:
        DataError: imagery is absent or damaged, or the disk is full. Nothing is written then.
        RunError: the checkpoint cannot be read, or windows of that size cannot be shrunk as its chips were.
    """
    model, facts = load_checkpoint(checkpoint)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    scaler = Scaler.of(facts["offset"], facts["scale"], device)
    window = window_px or facts["chip_px"]
    factor = facts["chip_px"] // (facts.get("resize_px") or facts["chip_px"])
    if window % factor:
        raise RunError(f"{checkpoint} sees chips shrunk by {factor}: window_px {window} must be a multiple of it")
    crop = min(crop_px, window // 4)
    step = window - 2 * crop
    classify = _classifier(model, scaler, factor)
    colours = {index: (*colour, 255) for index, colour in enumerate(facts["colours"])}
    file = RasterFile(out, colours | {NODATA: (0, 0, 0, 0)}, {"classes": ",".join(facts["classes"])}, NODATA)
    whole = Shard("all", 0, 0, grid.height, grid.width)
    with Mosaic(shards, grid) as mosaic:
        with open_rasters([file], grid, whole, options=GDAL_OPTIONS) as (raster,):
            for row in range(0, grid.height, step):
                band = _predict_row(classify, mosaic, grid, row, window, crop)
                height = min(step, grid.height - row)
                raster.write(Shard("", row, 0, height, grid.width), band[:height, : grid.width])
        log(f"{grid.width} x {grid.height} px in windows of {window} px, {crop} px cut off every side")


def _classifier(model: torch.nn.Module, scaler: Scaler, factor: int) -> Callable[[Array], Array]:
    """A function from windows [N, bands, H, W] to their classes uint8 [N, H, W]; the network sees them shrunk."""

    @torch.no_grad()
    def classify(windows: Array) -> Array:
        logits = main_logits(model(scaler(shrunk(windows, factor))))
        return enlarged(logits.argmax(dim=1).to(torch.uint8).cpu().numpy(), factor)

    return classify


def _predict_row(
    classify: Callable[[Array], Array], mosaic: Mosaic, grid: Grid, row: int, window: int, crop: int
) -> Array:
    """Classes [step, >= width] of the row of windows whose kept part begins at `row`."""
    step = window - 2 * crop
    count = -(-grid.width // step)
    top, bottom = max(row - crop, 0), min(row - crop + window, grid.height)
    pixels, valid = mosaic.read(top, 0, bottom - top, grid.width)
    down = (top - (row - crop), row - crop + window - bottom)
    across = (crop, count * step + crop - grid.width)
    padded = np.pad(pixels, ((0, 0), down, across), mode="symmetric")
    windows = [padded[:, :, at * step : at * step + window] for at in range(count)]
    classes = np.empty((step, count * step), np.uint8)
    for start in range(0, count, BATCH):
        for at, found in enumerate(classify(np.stack(windows[start : start + BATCH])), start):
            classes[:, at * step : (at + 1) * step] = found[crop : crop + step, crop : crop + step]
    inside = valid[row - top : row - top + step]
    classes[: len(inside), : grid.width][~inside] = NODATA
    return classes
