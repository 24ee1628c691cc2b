"""Chips on the device: batches of images, masks and extra targets, wherever the chips wait."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.dataset.joined import Joined
from pipeline.dataset.targets import ExtraTargets

Array = np.ndarray[Any, np.dtype[Any]]
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Feed:
    """The chips of a run, as batches on a device.

    A batch has ``image`` [N, bands, H, W] in the source's dtype, ``mask`` [N, H, W] int64 (255: ignored, also where
    there is no imagery) and the extra targets by kind, [N, K, H, W] float32. `residency` says where chips wait
    (`pipeline.train.options`).
    """

    joined: Joined
    extra: ExtraTargets
    device: torch.device
    residency: str = "auto"

    def batch(self, split: str, at: Array) -> Batch:
        """The chips at positions `at` [N] of `split`."""
        images, masks = self.joined.batch(self.joined.rows[split].take(at))
        extra = self.extra.batch(split, at, images, masks)
        found = {"image": self._tensor(images), "mask": self._tensor(masks).long()}
        return found | {kind: self._tensor(array).float() for kind, array in extra.items()}

    def batches(self, split: str, positions: Iterable[Array]) -> Iterator[Batch]:
        """A batch for each array of `positions`, in their order; the next is fetched while one is worked on."""
        for at in positions:
            yield self.batch(split, at)

    def _tensor(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)
