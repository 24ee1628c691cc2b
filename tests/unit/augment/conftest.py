"""Chips whose pixels say where they come from, for all tests of augmentations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pipeline.augment._transform import Batch


@pytest.fixture(autouse=True)
def as_in_training() -> Iterator[None]:
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(strict)
    torch.set_num_threads(threads)


def traced(chips: int, height: int, width: int) -> Batch:
    """A batch that is its own record: every tensor tells the row and the column of the pixel it was taken from.

    The image has bands x and y, the mask is y · width + x, ``boundary`` holds y, x and the number of the chip, and
    ``signed_distance`` x + 1, which grows with a zoom.
    """
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    number = torch.arange(chips).view(-1, 1, 1).expand(-1, height, width)
    x, y = x.expand_as(number), y.expand_as(number)
    return {
        "image": torch.stack([x, y], dim=1).float(),
        "mask": y * width + x,
        "boundary": torch.stack([y, x, number], dim=1).float(),
        "signed_distance": (x + 1).unsqueeze(1).float(),
    }
