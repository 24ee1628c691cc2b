"""Batch norm of a run that several processes train: over the chips of all of them, or of each on its own.

Synchronised (``sync_batch_norm``), a layer's mean and variance are those of all chips that the processes show at once.
On GPUs that is torch's own layer; torch has none for the CPU, so that one is here. Plain layers normalise by the chips
of their process, and their running statistics become those that one process would have after the same parts. Either
way parameters, buffers and their names stay, so that checkpoints fit any network of the kind.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.errors import RunError
from pipeline.train.world import World

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def prepare_norms(model: nn.Module, world: World, synchronised: bool) -> None:
    """Make the batch norm of a network that `world` trains what the run asks for; call it before anything copies it.

    With `synchronised` its layers are replaced by those that meet the other processes. Else their momentum m becomes
    1 − (1 − m)^size, for `merge_statistics`. In a world of one process nothing changes.

    Raises:
        RunError: for a layer of batch norm that is neither torch's nor timm's and cannot be synchronised.
    """
    if world.size == 1:
        return
    if not synchronised:
        for layer in _plain(model):
            if layer.momentum is not None:
                layer.momentum = 1 - (1 - layer.momentum) ** world.size
        return
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, _synchronised(child, world.device.type))


@torch.no_grad()
def merge_statistics(model: nn.Module, average: nn.Module | None, world: World) -> None:
    """Give all processes the running statistics that one process would have after the parts of all.

    After parts 0, 1, … with statistics s_j one process has r = (1 − m)^P r_0 + m Σ_j (1 − m)^(P − 1 − j) s_j. Process k
    of K has seen parts k, k + K, … with momentum M = 1 − (1 − m)^K, and so r = Σ_k (m / M) (1 − m)^(K − 1 − k) r_k:
    exactly, after any number of steps, and for a moving average of the r_k (`average`) too. Layers in evaluation mode
    have not changed and are left alone, as are synchronised ones.
    """
    if world.size == 1:
        return
    learnt = {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm) and layer.training}
    buffers, weighted = [], []
    for network in (model, *([] if average is None else [average])):
        for name, layer in network.named_modules():
            if name in learnt and isinstance(layer, _BatchNorm) and type(layer) not in SYNCHRONISED:
                for buffer in (layer.running_mean, layer.running_var):
                    if buffer is not None:
                        buffers.append(buffer)
                        weighted.append(buffer.double() * _weight(learnt[name].momentum, world))
    if not buffers:
        return
    merged = torch.split(world.summed(torch.cat(weighted)), [len(buffer) for buffer in buffers])
    for buffer, values in zip(buffers, merged, strict=True):
        buffer.copy_(values)


def _plain(model: nn.Module) -> list[_BatchNorm]:
    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]


def _weight(momentum: float | None, world: World) -> float:
    """Of this process's running statistics; `momentum` is M, or None for a plain average over all parts."""
    if momentum is None or momentum == 0:
        return 1 / world.size
    kept: float = (1 - momentum) ** (1 / world.size)
    weight: float = (1 - kept) / momentum * kept ** (world.size - 1 - world.rank)
    return weight


def _synchronised(layer: _BatchNorm, device: str) -> _BatchNorm:
    """The layer that meets the other processes, with all that `layer` has."""
    kinds = (CpuSyncBatchNorm, CpuSyncBatchNormAct) if device == "cpu" else (nn.SyncBatchNorm, SyncBatchNormAct)
    if type(layer) in PLAIN:
        made = kinds[0](1)
    elif isinstance(getattr(layer, "act", None), nn.Module) and isinstance(getattr(layer, "drop", None), nn.Module):
        made = kinds[1](1)
    else:
        kind = type(layer).__name__
        raise RunError(f"sync_batch_norm cannot synchronise a layer {kind} of the network; take another network")
    made.__dict__ |= layer.__dict__  # parameters, buffers, children, mode and hooks
    return made


class CpuSyncBatchNorm(_BatchNorm):
    """Batch norm of [N, C, ...] over the values of all processes, on the CPU; `torch.nn.SyncBatchNorm` refuses it.

    In training mode, with the sums over all processes and m values per channel in all:
    y = γ (x − μ) / √(σ² + ε) + β, μ = Σ x / m, σ² = Σ (x − μ)² / m, while the running variance takes Σ (x − μ)² /
    (m − 1). In evaluation mode it is plain batch norm. All processes must call it equally often.

    Raises:
        ValueError: for a single value per channel in all processes together, as torch does.
    """

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[N, C, ...] of any floating dtype → the same."""
        if not (self.training and distributed.is_initialized()):
            return super().forward(input)
        self._check_input_dim(input)
        count, mean, variance = _statistics(input)
        if count <= 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.size()}")
        self._follow(mean, variance * (count / (count - 1)))
        inverse = torch.rsqrt(variance + self.eps)
        normalised: torch.Tensor = _Normalise.apply(input, mean, inverse, count)
        if self.affine:
            normalised = normalised * _spread(self.weight, input) + _spread(self.bias, input)
        return normalised.to(input.dtype)

    def _follow(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Move the running statistics towards those of this call."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        factor = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            running.mul_(1 - factor).add_(value.to(running.dtype), alpha=factor)


def _spread(channels: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Values [C] so that they meet the channels of [N, C, ...]."""
    return channels.reshape(1, -1, *[1] * (like.dim() - 2))


def _over(tensor: torch.Tensor) -> list[int]:
    return [axis for axis in range(tensor.dim()) if axis != 1]


@torch.no_grad()
def _statistics(input: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Values per channel, their mean [C] and biased variance [C] over all processes, float64.

    One meeting: each process gives its count n, mean μ and sum of squared deviations s, and
    Σ (x − μ)² = Σ s_i + Σ n_i (μ_i − μ)², without the cancellation of Σ x² − m μ².
    """
    variance, mean = torch.var_mean(input.double(), _over(input), correction=0)
    count = torch.full_like(mean, input.numel() / input.shape[1])
    table = mean.new_zeros(distributed.get_world_size(), 3, len(mean))
    table[distributed.get_rank()] = torch.stack([count, mean, variance * count])
    distributed.all_reduce(table)
    counts, means, squares = table.unbind(dim=1)
    total = counts.sum(dim=0)
    mean = (counts * means).sum(dim=0) / total
    variance = (squares.sum(dim=0) + (counts * (means - mean) ** 2).sum(dim=0)) / total
    return float(total[0]), mean, variance


class _Normalise(torch.autograd.Function):
    """x̂ = (x − μ) r, where μ and r = 1/√(σ² + ε) are functions of the x of all processes.

    ∂L/∂x = r (g − Σ g / m − x̂ Σ g x̂ / m), sums and m over all processes; g = ∂L/∂x̂, L the sum of their losses.
    """

    @staticmethod
    def forward(
        context: Any, input: torch.Tensor, mean: torch.Tensor, inverse: torch.Tensor, count: float
    ) -> torch.Tensor:
        wide = torch.promote_types(input.dtype, torch.float32)
        inverse = inverse.to(wide)
        normalised = (input.to(wide) - _spread(mean.to(wide), input)) * _spread(inverse, input)
        context.save_for_backward(normalised, inverse)
        context.count, context.dtype = count, input.dtype
        return normalised

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        normalised, inverse = context.saved_tensors
        axes = _over(gradient)
        sums = torch.stack(
            [gradient.sum(axes, dtype=torch.float64), (gradient * normalised).sum(axes, dtype=torch.float64)]
        )
        distributed.all_reduce(sums)
        plain, along = (_spread(row.to(gradient.dtype), gradient) for row in sums / context.count)
        found = _spread(inverse, gradient) * (gradient - plain - normalised * along)
        return found.to(context.dtype), None, None, None


class CpuSyncBatchNormAct(CpuSyncBatchNorm):
    """The same followed by a dropout and an activation, in the place of timm's BatchNormAct2d."""

    act: nn.Module
    drop: nn.Module

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[N, C, ...] → the same."""
        found: torch.Tensor = self.act(self.drop(super().forward(input)))
        return found


class SyncBatchNormAct(nn.SyncBatchNorm):
    """torch's layer followed by a dropout and an activation, in the place of timm's BatchNormAct2d."""

    act: nn.Module
    drop: nn.Module

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[N, C, ...] → the same."""
        found: torch.Tensor = self.act(self.drop(super().forward(input)))
        return found


SYNCHRONISED = (CpuSyncBatchNorm, CpuSyncBatchNormAct, nn.SyncBatchNorm, SyncBatchNormAct)
