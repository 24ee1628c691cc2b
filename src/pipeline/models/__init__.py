"""Networks: one file per architecture, made by name with `create`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline import variants
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


def create(name: str, in_channels: int = 3, classes: int = 4, **params: Any) -> nn.Module:
    """Make network `name` with fresh weights (from torch's random state).

    Args:
        name: a file of src/pipeline/models/.
        in_channels: bands of the image.
        classes: logits per pixel; 1 for a binary network with a sigmoid.
        params: the network's own parameters; the rest take their defaults.

    Returns:
        A module from images [N, in_channels, H, W] float to logits [N, classes, H, W].

    Raises:
        ConfigError: for an unknown network or parameter, or a wrong value.
    """
    for key, value in (("in_channels", in_channels), ("classes", classes)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"model {name!r}: {key} must be a whole number above 0, got {value!r}")
    resolved = variants.check("models", name, params, "models.create")
    network: nn.Module = variants.load("models", name).build(in_channels=in_channels, classes=classes, **resolved)
    return network
