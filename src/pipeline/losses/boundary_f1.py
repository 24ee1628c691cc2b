"""Boundary F1 loss (Bokhovkin and Burnaev 2019): a surrogate of the boundary metric BF1, made of max pools."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.losses.target import IGNORE, check_weights, probabilities, weights_of

SEES_BOUNDARIES_ALONE = True


def build(
    *, theta0: int = 3, theta: int = 5, class_weights: list[float] | None = None, ignore_index: int = 255
) -> nn.Module:
    """Boundary F1 loss: the mean of 1 − 2PR / (P + R) over images and classes.

    With pool(y, w) the maximum over windows of w × w px (stride 1, same size) and y the softmax of a class (the sigmoid
    for one logit) or its one-hot target:

    - boundary y_b = pool(1 − y, θ0) − (1 − y), on masks the class's pixels less than θ0 / 2 px from another class;
    - widened boundary y_ext = pool(y_b, θ);
    - P = Σ(ŷ_b · y_ext) / Σ ŷ_b and R = Σ(y_b · ŷ_ext) / Σ y_b, sums over the pixels of an image.

    A window of θ reaches (θ − 1) / 2 px in the maximum norm; it is not the Euclidean θ of the metric. The border of the
    image and ignored pixels make no boundary. An image without a true boundary of a class has no BF1 and is left out
    of that class's mean, as is a class without one in any image; where only the prediction has none near the true one,
    PR / (P + R) is 0.

    Args:
        theta0: window θ0 of the boundary in px, odd, 3 or more.
        theta: window θ of the tolerance in px, odd, 1 or more; the paper took 5 to 7. Both should be smaller than the
            distance between segments.
        class_weights: a weight per class for the mean over classes; None weighs all alike.
        ignore_index: one more value of the target that is ignored, besides 255.

    Raises:
        ConfigError: when a window is even or too small, or a weight is below 0.
    """
    for name, window, least in (("theta0", theta0, 3), ("theta", theta, 1)):
        if window < least or window % 2 == 0:
            raise ConfigError(f"loss boundary_f1: {name} {window} must be an odd number of {least} or more")
    return BoundaryF1(theta0, theta, check_weights("boundary_f1", class_weights), ignore_index)


class BoundaryF1(nn.Module):
    """The module behind `build`."""

    def __init__(
        self, theta0: int, theta: int, class_weights: Sequence[float] | None = None, ignore_index: int = IGNORE
    ) -> None:
        super().__init__()
        self.theta0 = theta0
        self.theta = theta
        self.class_weights = class_weights
        self.ignore_index = ignore_index

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of logits [N, C, H, W] and target [N, H, W] int64."""
        with torch.autocast(logits.device.type, enabled=False):
            probability, truth, mask = probabilities(logits, target, self.ignore_index)
            true_line = self._boundary(truth, mask)
            line = self._boundary(probability, mask)
            pixels = (2, 3)
            near, size = (line * _pool(true_line, self.theta)).sum(pixels), line.sum(pixels)
            found, true_size = (true_line * _pool(line, self.theta)).sum(pixels), true_line.sum(pixels)
            # 2PR / (P + R) times the sizes of both boundaries above and below: no division by an empty one
            below = near * true_size + found * size
            f1 = 2 * near * found / below.masked_fill(below <= torch.finfo(below.dtype).tiny, 1.0)
            counted = true_size > 0
            images = counted.sum(dim=0)
            losses = ((1 - f1) * counted).sum(dim=0) / images.clamp_min(1)
            weights = weights_of("boundary_f1", self.class_weights, logits.shape[1], losses, per_pixel=False)
            share = (images > 0).to(losses.dtype) if weights is None else (images > 0) * weights
            total = share.sum()
            return (losses * share).sum() / total.masked_fill(total == 0, 1)

    def _boundary(self, y: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """y_b [N, C, H, W]; 0 at ignored pixels, whose 1 − y is set to 0 so that no window's maximum is theirs."""
        inverse = (1 - y).masked_fill(~mask, 0.0)
        return (_pool(inverse, self.theta0) - inverse).masked_fill(~mask, 0.0)


def _pool(y: torch.Tensor, window: int) -> torch.Tensor:
    """Maximum over windows, along rows and then along columns, which is the same and costs less."""
    reach = window // 2
    rows = functional.max_pool2d(y, (1, window), 1, (0, reach))
    return functional.max_pool2d(rows, (window, 1), 1, (reach, 0))
