"""Topology loss (Mosinska et al. 2018): how far the prediction looks from the truth to VGG19."""

from __future__ import annotations

import http.client
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from pipeline.errors import RunError
from pipeline.losses import _topology
from pipeline.losses.target import IGNORE, check_weights, mean_over_classes, probabilities, weights_of

SMALL = {"weights": "none", "layers": ["conv1_1"]}
SEES_AROUND = True

URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
HASH = "dcbb9e9d"  # the first digits of its SHA-256
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def build(
    *,
    layers: list[str] = ["conv1_2", "conv2_2", "conv3_4"],  # noqa: B006  read as a literal, never altered
    weights: str = "imagenet",
    class_weights: list[float] | None = None,
    ignore_index: int = 255,
) -> nn.Module:
    """Topology loss (1/C) Σ_c Σ_n 1 / (M_n W_n H_n) Σ_m ‖l_n^m(y_c) − l_n^m(ŷ_c)‖², the mean over images.

    l_n^m is channel m of layer n of VGG19, after its ReLU, W_n × H_n px in size. ŷ_c is the softmax of class c (the
    sigmoid for one logit) and y_c its mask, each shown to VGG19 as a grey image of 0 to 1, normalised as the images
    of ImageNet that it was trained on. Ignored pixels are 0 in both. VGG19 stays as it is: it is neither trained nor
    stored in checkpoints. It looks at every class of every image by itself, so the loss costs more than most networks.

    Args:
        layers: conv1_1 to conv5_4; the default is what implementations of the paper take.
        weights: ``imagenet`` takes torchvision's file from torch's hub folder, or fetches it there; a path takes that
            file (.pth or .safetensors with torchvision's names); ``none`` takes random weights, the same every time.
        class_weights: a weight per class for the mean over classes; None weighs all alike.
        ignore_index: one more value of the target that is ignored, besides 255.

    Raises:
        ConfigError: for a layer that VGG19 does not have or a class weight below 0.
        RunError: when the weights are neither there nor can be fetched, or are no weights of VGG19; (when called) for
            an image that is too small for the layers.
    """
    _topology.check(layers=layers, weights=weights)
    last = max(_topology.LAYERS[name].index for name in layers)
    stack = [layer for layer in _topology.LAYERS.values() if layer.index <= last]
    kernels = _random(stack) if weights == "none" else _read(_file(weights), stack)
    return Topology(stack, kernels, layers, check_weights("topology", class_weights), ignore_index)


class Topology(nn.Module):
    """The module behind `build`; the weights of VGG19 are buffers that no state dict holds."""

    def __init__(
        self,
        stack: Sequence[_topology.Layer],
        kernels: dict[str, torch.Tensor],
        layers: Sequence[str],
        class_weights: Sequence[float] | None = None,
        ignore_index: int = IGNORE,
    ) -> None:
        super().__init__()
        self.stack = stack
        self.layers = layers
        self.class_weights = class_weights
        self.ignore_index = ignore_index
        for layer in stack:
            for part in ("weight", "bias"):
                self.register_buffer(f"{layer.name}_{part}", kernels[f"{layer.name}.{part}"], persistent=False)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of logits [N, C, H, W] and target [N, H, W] int64."""
        with torch.autocast(logits.device.type, enabled=False):
            probability, truth, mask = probabilities(logits, target, self.ignore_index)
            least = 2 ** self.stack[-1].pools
            if min(logits.shape[2:]) < least:
                raise RunError(
                    f"loss topology: {logits.shape[2]} × {logits.shape[3]} px are too few for layer "
                    f"{self.stack[-1].name}, which needs {least}; take larger chips or earlier layers"
                )
            with torch.no_grad():
                wanted = self._features(truth.flatten(0, 1).unsqueeze(1))
            found = self._features(probability.flatten(0, 1).unsqueeze(1))
            apart = torch.stack([(a - b).square().mean((1, 2, 3)) for a, b in zip(found, wanted, strict=True)])
            images = mask.any(dim=3).any(dim=2)
            means = (apart.sum(dim=0).view(logits.shape[:2]) * images).sum(dim=0) / images.sum().clamp_min(1)
            weights = weights_of("topology", self.class_weights, logits.shape[1], means, per_pixel=False)
            return mean_over_classes(means, weights)

    def _features(self, maps: torch.Tensor) -> list[torch.Tensor]:
        """Activations [maps, M_n, H_n, W_n] of the wanted layers for maps [maps, 1, H, W]."""
        buffers = {name: buffer.to(maps.dtype) for name, buffer in self.named_buffers()}
        x, found, pools = (maps - buffers["mean"]) / buffers["std"], [], 0
        for layer in self.stack:
            if layer.pools > pools:
                x, pools = functional.max_pool2d(x, 2), layer.pools
            weight, bias = (buffers[f"{layer.name}_{part}"] for part in ("weight", "bias"))
            x = functional.conv2d(x, weight, bias, padding=1).relu()
            if layer.name in self.layers:
                found.append(x)
        return found


def _random(stack: Sequence[_topology.Layer]) -> dict[str, torch.Tensor]:
    """He-normal kernels and zero biases, the same in every run and without a draw from torch's own generator."""
    generator = torch.Generator().manual_seed(0)
    kernels = {}
    for layer in stack:
        spread = (2 / (9 * layer.before)) ** 0.5
        kernels[f"{layer.name}.weight"] = torch.randn(layer.after, layer.before, 3, 3, generator=generator) * spread
        kernels[f"{layer.name}.bias"] = torch.zeros(layer.after)
    return kernels


def _file(weights: str) -> Path:
    """The file of a set of weights; torchvision's is fetched where it is missing."""
    if weights != "imagenet":
        path = Path(weights)
        if not path.is_file():
            raise RunError(f"loss topology: there is no file {path}; name one with VGG19's weights, or imagenet")
        return path
    path = Path(torch.hub.get_dir()) / "checkpoints" / URL.rpartition("/")[2]
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL, str(path), hash_prefix=HASH, progress=False)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise RunError(
                f"loss topology: cannot fetch the weights of VGG19; place {URL} (548 MB) into the folder "
                f"{path.parent}, or name a file with `weights: <path>`"
            ) from error
    return path


def _read(path: Path, stack: Sequence[_topology.Layer]) -> dict[str, torch.Tensor]:
    """Kernels of the layers alone, in float32, from a state dict with torchvision's names; runs no code of the file."""
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        text = " ".join(str(error).split()).partition(". ")[0][:120]
        raise RunError(f"loss topology: {path} holds no weights that can be read: {text}; replace it") from error
    kernels = {}
    for layer in stack:
        for part, shape in (("weight", (layer.after, layer.before, 3, 3)), ("bias", (layer.after,))):
            key = f"features.{layer.index}.{part}"
            tensor = state.get(key) if isinstance(state, dict) else None
            if not isinstance(tensor, torch.Tensor) or tensor.shape != shape:
                has = f"has the shape {list(tensor.shape)}" if isinstance(tensor, torch.Tensor) else "is missing"
                raise RunError(f"loss topology: {path} is no VGG19 of torchvision: {key} {has}, not {list(shape)}")
            kernels[f"{layer.name}.{part}"] = tensor.detach().float()
    return kernels
