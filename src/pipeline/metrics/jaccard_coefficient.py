"""The Frankfurt report's Jaccard coefficient: a soft quantity averaged over batches, not the IoU of a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.errors import RunError

if TYPE_CHECKING:
    import torch

IGNORE = 255
EPS = 1e-5
BATCH = 64


def batch_jaccard(probabilities: torch.Tensor, target: torch.Tensor, eps: float = EPS) -> float:
    """Jaccard coefficient of one batch: (1/C) Σ_c (I_c + ε) / (U_c + ε).

    I_c = Σ p_c y_c and U_c = Σ p_c + Σ y_c − I_c run over all pixels of the batch that are not ignored.

    Args:
        probabilities: [N, C, H, W], after softmax; with C = 1 of class 1, after a sigmoid.
        target: class indices [N, H, W], integer dtype; 255 is ignored.
        eps: ε.

    Returns:
        The coefficient, 0 to 1.

    Raises:
        RunError: when the shapes do not fit.
    """
    sums = _chip_sums(probabilities, target).cpu().sum(dim=0)
    return float(_coefficient(sums, eps))


class BatchMeanJaccard:
    """`batch_jaccard` averaged over batches of 64 chips in the order they come.

    An incomplete last batch is left out if a full one exists. Chips may come in pieces of any size: sums are kept per
    chip and grouped at the end, so that every batch size gives the same number.

    Args:
        classes: C, the number of classes (1 for a binary network with one logit).
        eps: ε of `batch_jaccard`.
        batch: chips per batch.
    """

    def __init__(self, classes: int, *, eps: float = EPS, batch: int = BATCH) -> None:
        self.classes = classes
        self.eps = eps
        self.batch = batch
        self._sums: list[torch.Tensor] = []

    def update(self, probabilities: torch.Tensor, target: torch.Tensor) -> None:
        """Add chips: probabilities [N, C, H, W] and target [N, H, W]; RunError when the shapes do not fit."""
        if probabilities.ndim != 4 or probabilities.shape[1] != self.classes:
            shape = list(probabilities.shape)
            raise RunError(f"Jaccard coefficient: probabilities {shape} are not [N, {self.classes}, H, W]")
        self._sums.append(_chip_sums(probabilities, target))

    def merge(self, gathered: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Take in chips of other processes: `gathered` makes of this one's sums [n, C, 3] those of all, in order."""
        import torch

        own = torch.cat(self._sums) if self._sums else torch.zeros(0, self.classes, 3, dtype=torch.float64)
        self._sums = [gathered(own)]

    def compute(self) -> float:
        """Return the mean over batches; NaN without chips."""
        import torch

        if not self._sums:
            return float("nan")
        sums = torch.cat(self._sums).cpu()
        groups = [sums[start : start + self.batch] for start in range(0, len(sums), self.batch)]
        full = [group for group in groups if len(group) == self.batch] or groups
        scores = [float(_coefficient(group.sum(dim=0), self.eps)) for group in full]
        return sum(scores) / len(scores) if scores else float("nan")


def _chip_sums(probabilities: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Per chip and class: intersection, sum of probabilities, sum of truth, [N, C, 3] float64 on the device."""
    import torch

    if probabilities.ndim != 4 or target.shape != (probabilities.shape[0], *probabilities.shape[2:]):
        shapes = f"probabilities {list(probabilities.shape)} and target {list(target.shape)}"
        raise RunError(f"Jaccard coefficient: {shapes} are not [N, C, H, W] and [N, H, W]")
    valid = (target != IGNORE).unsqueeze(1)
    count = probabilities.shape[1]
    classes = torch.arange(count, device=target.device) if count > 1 else torch.ones(1, device=target.device)
    truth = target.unsqueeze(1) == classes.view(1, -1, 1, 1)
    probabilities = probabilities.detach()
    parts = (probabilities.masked_fill(~truth, 0.0), probabilities.masked_fill(~valid, 0.0), truth)
    return torch.stack([part.sum(dim=(2, 3), dtype=torch.float64) for part in parts], dim=-1)


def _coefficient(sums: torch.Tensor, eps: float) -> torch.Tensor:
    """Mean over classes of sums [C, 3]."""
    intersection, predicted, truth = sums.unbind(dim=-1)
    return ((intersection + eps) / (predicted + truth - intersection + eps)).mean()
