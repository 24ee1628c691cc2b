"""Objects of a class in masks: one of them, its surroundings, and chips moved by whole pixels. All on the device."""

from __future__ import annotations

import torch
from torch.nn import functional

from pipeline.augment._transform import Batch

SWEEPS = 16


def one_object(there: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """One connected object of each map, chosen by one of its pixels: a larger object is chosen more often.

    Pixels touch along edges and at corners. From its pixel an object is filled along whole rows, whole columns and over
    corners, 16 times: what winds more than that is cut there. Nothing waits for the device but on the CPU, where the
    filling ends when it is complete.

    Args:
        there: [M, H, W] bool, pixels of the class.
        share: [M] float64, 0 to below 1, on the same device: which of the class's pixels, counted row by row.

    Returns:
        [M, H, W] bool; empty where the class is absent.
    """
    number = there.flatten(1).cumsum(dim=1)
    rank = (number[:, -1] * share).long().clamp(max=(number[:, -1] - 1).clamp(min=0)) + 1
    found = (there.flatten(1) & (number == rank[:, None])).view(there.shape)
    rows, columns = _ends(~there), _ends(~there.mT)
    for _ in range(SWEEPS):
        wider = there & _between(_ends(found), rows)
        wider = there & _between(_ends(wider.mT), columns).mT
        wider = there & _touched(wider)
        if found.device.type == "cpu" and torch.equal(wider, found):
            break
        found = wider
    return found


def _ends(there: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest column with one of `there` before and after each pixel, itself included; −1 and W where none is."""
    at = torch.arange(there.shape[-1], dtype=torch.int16, device=there.device)
    before = torch.where(there, at, -1).cummax(dim=-1).values
    after = torch.where(there, at, there.shape[-1]).flip(-1).cummin(dim=-1).values.flip(-1)
    return before, after


def _between(found: tuple[torch.Tensor, torch.Tensor], gaps: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Pixels that have a found one in their row without a gap in between; see `_ends`."""
    return (found[0] > gaps[0]) | (found[1] < gaps[1])


def _touched(there: torch.Tensor) -> torch.Tensor:
    """Maps [M, H, W] bool grown by one pixel, over corners too."""
    tall = there.clone()
    tall[:, 1:] |= there[:, :-1]
    tall[:, :-1] |= there[:, 1:]
    wide = tall.clone()
    wide[:, :, 1:] |= tall[:, :, :-1]
    wide[:, :, :-1] |= tall[:, :, 1:]
    return wide


def dilated(there: torch.Tensor, px: int) -> torch.Tensor:
    """Maps [M, H, W] bool grown by `px` in each direction: a square of 2 px + 1 about every pixel."""
    if not px:
        return there
    wide = there.unsqueeze(1).float()
    wide = functional.max_pool2d(wide, (1, 2 * px + 1), stride=1, padding=(0, px))
    wide = functional.max_pool2d(wide, (2 * px + 1, 1), stride=1, padding=(px, 0))
    return wide.squeeze(1) > 0


def moves(chips: int, height: int, width: int, flips: bool, shift_px: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A random symmetry and shift for each chip, drawn on the CPU, as the pixel that each pixel takes.

    Args:
        chips: M.
        height: H.
        width: W.
        flips: one of the eight symmetries of the square; of the four of the rectangle where H is not W.
        shift_px: the largest shift along rows and along columns, either way.

    Returns:
        (`index` [M, H · W] int64, H · W of the pixel to take; `inside` [M, H, W] bool, False where there is none), both
        on the CPU.
    """
    coins = torch.randint(0, 2, (3, chips, 1, 1)).bool()
    shift = torch.randint(-shift_px, shift_px + 1, (2, chips, 1, 1))
    y = (torch.arange(height).reshape(1, -1, 1) - shift[0]).expand(-1, -1, width)
    x = (torch.arange(width).reshape(1, 1, -1) - shift[1]).expand(-1, height, -1)
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    if flips:
        y, x = torch.where(coins[0], height - 1 - y, y), torch.where(coins[1], width - 1 - x, x)
        if height == width:
            y, x = torch.where(coins[2], x, y), torch.where(coins[2], y, x)
    return (y * width + x).masked_fill(~inside, 0).flatten(1), inside


def moved(batch: Batch, index: torch.Tensor) -> Batch:
    """All tensors [M, ..., H, W] of a batch, each pixel from the place that `index` [M, H · W] names."""
    found = {}
    for name, tensor in batch.items():
        flat = tensor.flatten(-2)
        at = index.reshape(len(index), *[1] * (flat.ndim - 2), -1).expand_as(flat)
        found[name] = flat.gather(-1, at).view(tensor.shape)
    return found
