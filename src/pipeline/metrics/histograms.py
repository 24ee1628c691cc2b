"""Histograms of probabilities that stream, for ROC AUC and average precision. Loads torch only for tensors.

Both accumulators give [C, 2, B] int64 over rising probability of class c: [c, 0] pixels of other classes, [c, 1]
pixels of class c. `ProbabilityHistograms` has fixed bins, on the tensors' own device;
`ExactProbabilities` keeps every probability that occurs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ConfigError, RunError
from pipeline.metrics._tally import tally

if TYPE_CHECKING:
    import torch

IGNORE = 255
BINS = 4096
OCTAVES = 32  # below ½ and again above: probabilities down to 2^-33 have bins of their own
MERGE_AT = 1 << 22  # values that wait before they are merged

Array = np.ndarray[Any, Any]


class ProbabilityHistograms:
    """Pixels by probability in bins of equal relative width.

    Bins are as fine near 0 and 1 as the networks' probabilities are crowded there: below ½ each octave of p is cut
    into B / 64 bins of equal width, above ½ each octave of 1 − p. With 4096 bins the odds p / (1 − p) within a bin
    differ by less than 3.2 % while p and 1 − p are above 2^-33. The bin is read off the bits of a float32, so that
    binning takes integer arithmetic alone.

    Args:
        classes: C, the number of classes (1 for a binary network with one logit: class 1 is meant).
        bins: B, 64 times a power of two.

    Raises:
        ConfigError: for another number of bins.
    """

    def __init__(self, classes: int, *, bins: int = BINS) -> None:
        fine = bins // (2 * OCTAVES)
        if fine < 1 or bins != fine * 2 * OCTAVES or fine & (fine - 1) or fine > 1 << 16:
            raise ConfigError(f"histograms: bins must be 64 times a power of two, got {bins}")
        self.classes = classes
        self.bins = bins
        self._counts: torch.Tensor | None = None  # [C, 2 B + 2], last: no probability, ignored

    def update(self, probabilities: torch.Tensor, target: torch.Tensor) -> None:
        """Add pixels: probabilities [N, C, H, W] after softmax (or sigmoid), target [N, H, W] integers, 255 ignored.

        Raises:
            RunError: when the shapes do not fit.
        """
        import torch

        _check_shapes(probabilities, target, self.classes)
        if self._counts is None:
            shape = (self.classes, 2 * self.bins + 2)
            self._counts = torch.zeros(shape, dtype=torch.int64, device=probabilities.device)
        ignored = target == IGNORE
        for index in range(self.classes):
            cell = _bin(probabilities[:, index], self.bins)
            cell += (target == _class_of(index, self.classes)) * (cell < 2 * self.bins) * self.bins
            cell.masked_fill_(ignored, 2 * self.bins + 1)
            self._counts[index] += tally(cell.flatten(), 2 * self.bins + 2)

    def compute(self) -> Array:
        """Histograms [C, 2, B] int64 in NumPy; RunError when a value was no probability."""
        if self._counts is None:
            return np.zeros((self.classes, 2, self.bins), np.int64)
        counts = self._counts.cpu().numpy()
        if counts[:, -2].any():
            raise _no_probability(int(counts[:, -2].sum()))
        cells: Array = counts[:, :-2].reshape(self.classes, 2, self.bins)
        return cells


class ExactProbabilities:
    """Pixels by each float32 probability that occurs, merged as they come.

    Memory grows with the number of different probabilities (24 bytes each and class), not with the pixels.

    Args:
        classes: C, the number of classes (1 for a binary network with one logit: class 1 is meant).
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._merged: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in range(classes)]

    def update(self, probabilities: torch.Tensor, target: torch.Tensor) -> None:
        """Add pixels: probabilities [N, C, H, W] after softmax (or sigmoid), target [N, H, W] integers, 255 ignored.

        Raises:
            RunError: when the shapes do not fit, or a value is no probability.
        """
        import torch

        _check_shapes(probabilities, target, self.classes)
        known = target != IGNORE
        for index, parts in enumerate(self._merged):
            values = probabilities.detach()[:, index][known].float()
            wrong = int((~((values >= 0) & (values <= 1))).sum())
            if wrong:
                raise _no_probability(wrong)
            positive = (target[known] == _class_of(index, self.classes)).long()
            parts.append(_merge([(values, torch.stack([1 - positive, positive]))]))
            if len(parts) > 1 and sum(len(part[0]) for part in parts[1:]) > max(MERGE_AT, len(parts[0][0])):
                parts[:] = [_merge(parts)]

    def compute(self) -> Array:
        """Histograms [C, 2, B] int64 in NumPy; B is the most values a class has, shorter ones end in empty bins."""
        merged = [_merge(parts)[1].cpu().numpy() if parts else np.zeros((2, 0), np.int64) for parts in self._merged]
        histograms = np.zeros((self.classes, 2, max((part.shape[1] for part in merged), default=0)), np.int64)
        for index, part in enumerate(merged):
            histograms[index, :, : part.shape[1]] = part
        return histograms


def _merge(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """One rising list of different values [U] and its counts [2, U] from several of values [V] and counts [2, V]."""
    import torch

    values, counts = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts], dim=1)
    unique, place = torch.unique(values, return_inverse=True)
    merged = torch.zeros(2, len(unique), dtype=torch.int64, device=values.device)
    return unique, merged.index_add_(1, place, counts)


def _bin(probability: torch.Tensor, bins: int) -> torch.Tensor:
    """Bin of each probability, 0 to B − 1, rising; 2 B for what is none. Same shape, int32."""
    import torch

    p = probability.detach().float()
    fine = bins // (2 * OCTAVES)
    upper = p >= 0.5
    # 1 - p is exact above one half. The bits of a positive float32 rise with it: 8 of exponent, 23 of fraction.
    bits = torch.where(upper, 1 - p, p).contiguous().view(torch.int32)
    floor = (126 - OCTAVES) * fine  # the exponent of ½ is 126
    step = (bits >> (23 - (fine.bit_length() - 1))).sub_(floor).clamp_(0, bins // 2 - 1)
    cell = torch.where(upper, bins - 1 - step, step)
    return cell.masked_fill_(~((p >= 0) & (p <= 1)), 2 * bins)


def _class_of(index: int, classes: int) -> int:
    return 1 if classes == 1 else index


def _check_shapes(probabilities: torch.Tensor, target: torch.Tensor, classes: int) -> None:
    fit = probabilities.ndim == 4 and probabilities.shape[1] == classes
    if not fit or target.shape != (probabilities.shape[0], *probabilities.shape[2:]):
        shapes = f"probabilities {list(probabilities.shape)} and target {list(target.shape)}"
        raise RunError(f"histograms: {shapes} are not [N, {classes}, H, W] and [N, H, W]")


def _no_probability(pixels: int) -> RunError:
    return RunError(f"histograms: {pixels} values are not between 0 and 1; give probabilities, not logits")
