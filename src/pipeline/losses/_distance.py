"""Exact Euclidean distances between pixels, on the device where the masks lie; needs nothing but torch."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.errors import RunError
from pipeline.losses.target import IGNORE

ROWS = 512  # at a time: their distances stay in the processor's cache


def squared_distance(there: torch.Tensor) -> torch.Tensor:
    """Squared distance from every pixel to the nearest True pixel of its map.

    The distance along columns first, then for each row the least of (x − x')² plus the column's squared distance at
    x' (Meijster et al. 2000, by trying every x'). Exact up to maps of 2,896 × 2,896 px, where float32 holds every
    possible square.

    Args:
        there: [..., H, W] bool.

    Returns:
        [..., H, W] float32 in px²; 0 at True pixels, infinite in maps without any.
    """
    height, width = there.shape[-2:]
    far = float("inf")
    y = torch.arange(height, dtype=torch.float32, device=there.device).unsqueeze(1)
    above = torch.where(there, y, -far).cummax(dim=-2).values
    below = torch.where(there, y, far).flip(-2).cummin(dim=-2).values.flip(-2)
    columns = torch.minimum(y - above, below - y).square_().reshape(-1, width)
    x = torch.arange(width, dtype=torch.float32, device=there.device)
    steps = (x.unsqueeze(1) - x).square_()
    found = torch.empty_like(columns)
    for first in range(0, len(columns), ROWS):
        part, least = columns[first : first + ROWS], found[first : first + ROWS]
        through = torch.empty_like(part)
        torch.add(part[:, :1], steps[0], out=least)
        for column in range(1, width):
            torch.add(part[:, column : column + 1], steps[column], out=through)
            torch.minimum(least, through, out=least)
    return found.view(there.shape)


def signed_maps(labels: torch.Tensor, valid: torch.Tensor, channels: int) -> torch.Tensor:
    """Signed distance of every pixel to the nearest pixel of the other side of each class: negative inside.

    Outside of a class that is the distance to its pixels; inside, to the nearest pixel of any other class.

    Args:
        labels: [..., 1, H, W] int64, class of each pixel.
        valid: the same shape, bool; ignored pixels are on no side.
        channels: C, logits per pixel.

    Returns:
        [..., C, H, W] float32 in px, channel k of class k, one logit's only channel of class 1; −1 and 1 on the two
        sides of an edge; 0 at ignored pixels and all over a map whose class is absent or fills it: without a boundary
        there is no distance to it.
    """
    own = (labels == torch.arange(max(2, channels), device=labels.device).view(-1, 1, 1)) & valid
    outside = squared_distance(own)
    inside = outside.masked_fill(own, float("inf")).amin(dim=-3, keepdim=True)
    if channels == 1:
        own, outside = own[..., 1:, :, :], outside[..., 1:, :, :]
    distance = torch.where(own, -inside.sqrt(), outside.sqrt())
    return distance.masked_fill_(~valid | distance.isinf(), 0.0)


def signed_distance(mask: np.ndarray, classes: int) -> np.ndarray:
    """Signed distance maps of one chip, as the extra target ``signed_distance`` holds them; see `signed_maps`.

    Args:
        mask: [H, W] uint8, class of each pixel, 255 where it is ignored.
        classes: C, logits per pixel.

    Returns:
        [C, H, W] float32 in px, channel k of class k; one logit's only channel is of class 1.
    """
    labels = torch.from_numpy(np.ascontiguousarray(mask)).to(torch.int64).unsqueeze(0)
    maps: np.ndarray = signed_maps(labels, labels != IGNORE, classes).numpy()
    return maps


def derive_signed_distance(image: np.ndarray, mask: np.ndarray, classes: int) -> np.ndarray:
    """`signed_distance` as a loss's DERIVE has it: of an image, which is not looked at, its mask and C."""
    return signed_distance(mask, classes)


def split_target(
    loss: str, logits: torch.Tensor, target: torch.Tensor | dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The mask and the signed distance maps of a target, None where it has none.

    Raises:
        RunError: when the maps do not have the logits' shape.
    """
    if not isinstance(target, dict):
        return target, None
    maps = target.get("signed_distance")
    if maps is not None and maps.shape != logits.shape:
        raise RunError(
            f"loss {loss}: signed_distance {list(maps.shape)} does not have the logits' shape {list(logits.shape)}"
        )
    return target["mask"], maps


def target_maps(labels: torch.Tensor, valid: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Signed distance maps of labels [N, H, W] int64 with their mask [N, 1, H, W] bool of pixels that count.

    Returns:
        Maps of the shape and dtype of `like` [N, C, H, W]; see `signed_maps`.
    """
    return signed_maps(labels.unsqueeze(1), valid, like.shape[1]).to(like.dtype)
