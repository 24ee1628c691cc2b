"""What a step minimises: a loss of a network's outputs and of all its targets, under the weights of the epoch."""

from __future__ import annotations

from typing import Any

import torch

from pipeline import losses

Output = torch.Tensor | dict[str, torch.Tensor]
AUXILIARY = "aux_"


class Objective:
    """A loss, fed with what it declares that it needs.

    Deep supervision: a network that gives "aux_1", … beside "mask" is scored by the mean of the loss over all of them,
    each in the mask's place. Other outputs that the loss does not ask for are left aside.
    """

    def __init__(self, loss: dict[str, Any], epochs: int, device: torch.device) -> None:
        """Make the loss of a run.

        Args:
            loss: name and params of the spec.
            epochs: how many the run may have at most.
            device: where it is computed.
        """
        name, params = loss["name"], loss["params"]
        self.loss = losses.create(name, **params).to(device)
        self.derive = losses.derivations(name, **params)
        self._heads = bool(losses.needs(name, **params).outputs)
        self._epochs = epochs

    def on_epoch(self, epoch: int, share: float | None = None) -> None:
        """Take the weights of a training epoch, counted from 0; `share` is what a weight search has chosen."""
        follow = getattr(self.loss, "on_epoch", None)
        if follow is not None:
            follow(epoch, share)

    def for_validation(self) -> None:
        """Take the weights under which losses of all epochs compare: those of the last epoch that the run may have."""
        self.on_epoch(self._epochs - 1)

    @property
    def search(self) -> dict[str, Any] | None:
        """The loss's wish for a search of its weight, as `pipeline.train.weight_search` takes it."""
        wish: dict[str, Any] | None = getattr(self.loss, "search", None)
        return wish

    @property
    def changing_weight(self) -> float | None:
        """The weight that changes between epochs, as it is now; None where none does."""
        weight: float | None = getattr(self.loss, "changing_weight", None)
        return weight

    def __call__(self, output: Output, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        """The scalar loss of a network's output, computed from float32 logits.

        Args:
            output: logits [N, C, H, W], or a dict of them with "mask" first.
            targets: "mask" [N, H, W] int64 and extra ones [N, K, H, W] float32; what else a batch has is left aside.
        """
        target = {key: targets[key] for key in ("mask", *self.derive)} if self.derive else targets["mask"]
        if not isinstance(output, dict):
            return self._value(output.float(), target)
        logits = {key: value.float() for key, value in output.items()}
        masks = [key for key in logits if key == "mask" or key.startswith(AUXILIARY)]
        heads = {key: value for key, value in logits.items() if key not in masks}
        given = ({"mask": logits[key], **heads} if self._heads else logits[key] for key in masks)
        return torch.stack([self._value(one, target) for one in given]).mean()

    def _value(self, output: Output, target: Output) -> torch.Tensor:
        value: torch.Tensor = self.loss(output, target)
        return value
