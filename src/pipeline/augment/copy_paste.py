"""Objects of rare classes, with their surroundings, pasted from other training chips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from pipeline.augment._objects import dilated, moved, moves, one_object
from pipeline.augment._pixels import chosen
from pipeline.augment._transform import Array, Batch, Source, Transform
from pipeline.errors import ConfigError, RunError, choices

IGNORE = 255


def build(
    *,
    classes: Sequence[str] | None = None,
    surroundings_px: int = 5,
    probability: float = 0.5,
    objects: Literal["one", "all"] = "one",
    donors: int | None = None,
    flips: bool = False,
    shift_px: int = 0,
) -> Transform:
    """Paste an object of a rare class, with what surrounds it, over some chips, as the Mars report does.

    A chosen chip draws a class, then a donor among the training chips that have the class, then an object in it. The
    object's pixels and all within `surroundings_px` rows and columns of one of them are taken over: image, label and
    extra targets of the same pixel of the donor. The donor's ignored pixels (255) are not pasted. Extra targets that
    look around, such as distances, are those of the donor: near the border of what was pasted, and for what lies cut in
    two beside it, they hold approximately.

    The report pastes one rock into every training image and appends the result, so that half of what is shown is
    pasted upon: probability 0.5, and `donors` 1 for one source image.

    Args:
        classes: names of the classes that are pasted; null: the one with the fewest pixels among those that occur.
        surroundings_px: how far around the object's pixels the donor is taken over; a square about each of them.
        probability: of a chip to be pasted upon.
        objects: ``one``: one connected object (pixels touch along edges and at corners), drawn by its area; ``all``:
            every pixel of the class in the donor.
        donors: only this many chips, those with the most pixels of the class; null: all that have it.
        flips: the donor is turned and mirrored at random.
        shift_px: the donor is shifted at random by up to this many rows and columns; what leaves the chip is lost.
    """
    return CopyPaste(classes, surroundings_px, probability, objects == "one", donors, flips, shift_px)


class CopyPaste(Transform):
    """The transform behind `build`."""

    def __init__(
        self,
        classes: Sequence[str] | None,
        surroundings_px: int,
        probability: float,
        one: bool,
        donors: int | None,
        flips: bool,
        shift_px: int,
    ) -> None:
        self.classes = classes
        self.surroundings_px = surroundings_px
        self.probability = probability
        self.one = one
        self.donors = donors
        self.flips, self.shift_px = flips, shift_px
        self._indices: list[int] = []
        self._pools: list[Array] = []

    def begin(self, source: Source) -> None:
        """Find the donors; ConfigError for a class that is unknown or that no training chip has."""
        self._take = source.take
        pixels = source.counts.sum(axis=0)
        if self.classes is None:
            rarest = np.where(pixels > 0, pixels, pixels.max(initial=0) + 1).argmin()
            names = [source.classes[int(rarest)]]
        else:
            names = list(self.classes)
        for name in names:
            if name not in source.classes:
                raise ConfigError(f"train.augment: copy_paste: no class {name!r}; {choices(name, source.classes)}")
        self._indices = [source.classes.index(name) for name in names]
        for name, index in zip(names, self._indices, strict=True):
            if not pixels[index]:
                raise ConfigError(f"train.augment: copy_paste: no training chip has a pixel of class {name!r}")
        self._pools = [self._pool(source.counts[:, index]) for index in self._indices]

    def _pool(self, pixels: Array) -> Array:
        """Positions of the chips with the class, in order; with `donors`, of those with the most pixels of it."""
        order = np.argsort(-pixels, kind="stable")[: self.donors]
        return np.sort(order[pixels[order] > 0])

    def __call__(self, batch: Batch) -> Batch:
        """Paste upon some chips of `batch`; RunError when they have no longer the size of the training chips."""
        found = {name: tensor.clone() for name, tensor in batch.items()}
        at = chosen(len(batch["mask"]), self.probability)
        if not len(at):
            return found
        which, position, share = torch.rand((3, len(at)), dtype=torch.float64)
        kind = (which * len(self._pools)).long()
        pools = [self._pools[number] for number in kind.tolist()]
        shares = zip(pools, position.tolist(), strict=True)
        donor = self._take(np.array([pool[int(part * len(pool))] for pool, part in shares]))
        _check_sizes(batch["mask"], donor["mask"])
        paste = donor["mask"] != IGNORE
        if self.flips or self.shift_px:
            height, width = paste.shape[1:]
            index, inside = moves(len(at), height, width, self.flips, self.shift_px)
            donor = moved(donor, index.to(paste.device))
            paste = inside.to(paste.device) & (donor["mask"] != IGNORE)
        of_class = paste & (donor["mask"] == torch.tensor(self._indices)[kind].to(paste.device)[:, None, None])
        whole = one_object(of_class, share.to(paste.device)) if self.one else of_class
        paste &= dilated(whole, self.surroundings_px)
        at = at.to(paste.device)
        for name, tensor in found.items():
            where = paste if tensor.ndim == paste.ndim else paste.unsqueeze(1)
            tensor[at] = torch.where(where, donor[name], tensor[at])
        return found


def _check_sizes(mask: torch.Tensor, donor: torch.Tensor) -> None:
    if mask.shape[1:] != donor.shape[1:]:
        ours, theirs = (" × ".join(map(str, one.shape[1:])) for one in (mask, donor))
        raise RunError(
            f"train.augment: copy_paste meets chips of {ours} px where training chips have {theirs} px; "
            "let it stand before what changes their size"
        )
