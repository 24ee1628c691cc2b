"""The layers of VGG19 by name, and what the topology loss checks while a Snakefile is parsed; light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ConfigError, choices

BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))  # convolutions and channels between the max pools


@dataclass(frozen=True)
class Layer:
    """A 3×3 convolution of VGG19 with its ReLU; `index` is its place in torchvision's ``features``."""

    name: str
    index: int
    before: int
    after: int
    pools: int


def _layers() -> dict[str, Layer]:
    found, index, before = {}, 0, 3
    for pools, (convolutions, after) in enumerate(BLOCKS):
        for convolution in range(1, convolutions + 1):
            name = f"conv{pools + 1}_{convolution}"
            found[name] = Layer(name, index, before, after, pools)
            before, index = after, index + 2
        index += 1
    return found


LAYERS = _layers()


def check(*, layers: Sequence[Any], weights: str, **_: Any) -> None:
    """ConfigError for layers that VGG19 does not have, none at all or one twice, and for no set of weights."""
    if not layers:
        raise ConfigError("loss topology: layers is empty; name one or more, such as conv1_2")
    for name in layers:
        if not isinstance(name, str) or name not in LAYERS:
            raise ConfigError(f"loss topology: VGG19 has no layer {name!r}; {choices(str(name), LAYERS)}")
    if len(set(layers)) < len(layers):
        raise ConfigError(f"loss topology: a layer stands twice in {', '.join(layers)}")
    if not weights.strip():
        raise ConfigError("loss topology: weights must be imagenet, none or the path of a file")
