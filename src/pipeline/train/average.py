"""The exponential moving average of a network's weights."""

from __future__ import annotations

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class MovingAverage(AveragedModel):
    """a ← d a + (1 − d) w after each step, of weights w and of buffers such as running statistics; a starts as w.

    It is torch's own average of this kind, without the copy of a counter to the device, for which each step would wait.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        """Copy the network; d is `decay`."""
        super().__init__(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: torch.nn.Module) -> None:
        """Take in the weights of `model` as they are now."""
        if self.n_averaged == 0:
            super().update_parameters(model)  # which copies them
            return
        averages, weights = ([*net.parameters(), *net.buffers()] for net in (self.module, model))
        pairs = list(zip(averages, weights, strict=True))
        numbers = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([one for one, _ in numbers], [other for _, other in numbers], 1 - self.decay)
        for average, count in pairs:
            if not average.is_floating_point():
                average.copy_(average * self.decay + count * (1 - self.decay))
        self.n_averaged += 1
