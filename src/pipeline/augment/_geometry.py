"""Warps of whole batches: one map from pixels to places in the chip for image, mask and extra targets alike.

A place is (x, y) in pixels, x to the right and y down, and whole numbers are the centres of pixels. Places outside of
the chip are folded back about the centres of its outermost pixels (NumPy's ``reflect``, OpenCV's ``BORDER_REFLECT_101``
of ResUNet-a's code), as often as it takes. Masks and extra targets take the pixel nearest to the folded place, the
image is interpolated bilinearly at that same place: so image, mask and targets of a pixel are never more than half a
pixel apart, and masks and targets never at all.

Maps are made in float64 on the CPU and folded in float32 one operation at a time, so that a GPU picks the pixels that a
CPU picks.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional

from pipeline.augment._transform import Batch

LENGTHS = ("signed_distance",)
"""Extra targets that are lengths in px, and so grow with what they measure."""

Centre = Literal["random", "middle"]


def uniform(chips: int, low: float, high: float) -> torch.Tensor:
    """A number per chip within `low` to `high`, [chips] float64 on the CPU, from torch's global generator."""
    return torch.rand(chips, dtype=torch.float64) * (high - low) + low


def picked(chips: int, probability: float) -> torch.Tensor:
    """Which chips are changed, each with `probability`: [chips] bool on the CPU."""
    return torch.rand(chips, dtype=torch.float64) < probability


def centres(chips: int, height: int, width: int, where: Centre) -> torch.Tensor:
    """A place per chip, anywhere on it or in its ``middle``: [chips, 2] float64, x and y in px."""
    share = torch.full((chips, 2), 0.5, dtype=torch.float64)
    if where == "random":
        share = torch.rand(chips, 2, dtype=torch.float64)
    return share * torch.tensor([width, height], dtype=torch.float64) - 0.5


def turned(centre: torch.Tensor, degrees: torch.Tensor, zoom: torch.Tensor) -> torch.Tensor:
    """Maps that turn chips about a place of theirs and enlarge them, as `warp` takes them.

    A pixel at p of the result shows the place c + R(−θ) (p − c) / z, where R turns counter-clockwise on the screen.

    Args:
        centre: c, the place that stays where it is, [N, 2] float64.
        degrees: θ, counter-clockwise, [N] float64.
        zoom: z, [N] float64: above 1 things become larger and less is seen, below 1 smaller.

    Returns:
        [N, 2, 3] float64.
    """
    angle = torch.deg2rad(degrees)
    cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    linear = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)
    offset = centre - (linear @ centre.unsqueeze(-1)).squeeze(-1)
    return torch.cat([linear, offset.unsqueeze(-1)], dim=-1)


def warp(batch: Batch, maps: torch.Tensor, pick: torch.Tensor) -> Batch:
    """The batch with the chips of `pick` warped; its tensors keep their shapes and dtypes.

    Args:
        batch: image, mask and extra targets; see `pipeline.augment._transform`.
        maps: [N, 2, 3] float64 on the CPU: pixel (x, y) of the result shows the place A (x, y, 1).
        pick: [N] bool on the CPU.

    Returns:
        A new batch. Extra targets in `LENGTHS` are multiplied by the zoom 1 / √|det A|, since they count pixels of the
        picture that the network sees; all others are taken as they are.
    """
    if not pick.any():
        return dict(batch)
    if pick.all():
        return _warped(batch, maps)
    rows = torch.nonzero(pick)[:, 0]
    at = rows.to(batch["mask"].device, non_blocking=True)
    changed = _warped({name: tensor[at] for name, tensor in batch.items()}, maps[rows])
    return {name: tensor.index_copy(0, at, changed[name]) for name, tensor in batch.items()}


def _warped(batch: Batch, maps: torch.Tensor) -> Batch:
    height, width = batch["mask"].shape[-2:]
    device = batch["mask"].device
    x, y = places(maps.to(device, torch.float32, non_blocking=True), height, width)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    nearest = torch.add((x + 0.5).int(), (y + 0.5).int(), alpha=width).long().flatten(1)
    zoom = torch.linalg.det(maps[:, :, :2]).abs().rsqrt().to(device, torch.float32, non_blocking=True)
    found = {}
    for name, tensor in batch.items():
        if name == "image":
            found[name] = functional.grid_sample(tensor, grid, "bilinear", "border", align_corners=False)
            continue
        planes = tensor.reshape(len(tensor), -1, height * width)
        taken = planes.gather(2, nearest.unsqueeze(1).expand(-1, planes.shape[1], -1)).view(tensor.shape)
        found[name] = taken * zoom.view(-1, 1, 1, 1) if name in LENGTHS else taken
    return found


def places(maps: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each pixel of the result looks, folded into the chip: x and y, [N, height, width] float32 each.

    Args:
        maps: [N, 2, 3] float32.
        height: of the chip, px.
        width: of the chip, px.
    """
    column = torch.arange(width, dtype=torch.float32, device=maps.device).view(1, 1, -1)
    row = torch.arange(height, dtype=torch.float32, device=maps.device).view(1, -1, 1)
    (x_along, x_down, x_offset), (y_along, y_down, y_offset) = maps[..., None, None].permute(1, 2, 0, 3, 4)
    x = _folded(x_along * column + (x_down * row + x_offset), width)
    y = _folded(y_along * column + (y_down * row + y_offset), height)
    return x, y


def _folded(place: torch.Tensor, size: int) -> torch.Tensor:
    """Reflected about 0 and `size` − 1 into what lies between."""
    period = max(2 * (size - 1), 1)
    place = torch.remainder(place, period)
    return torch.minimum(place, period - place).clamp_(max=size - 1)
