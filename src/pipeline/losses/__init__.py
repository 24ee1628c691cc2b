"""Losses: one file per loss, made by name with `create`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline import variants
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


class Needs(NamedTuple):
    """What a loss needs besides a mask's logits and the mask: names of further outputs and of extra targets."""

    outputs: tuple[str, ...]
    targets: tuple[str, ...]


def create(name: str, **params: Any) -> nn.Module:
    """Make loss `name`.

    Args:
        name: a file of src/pipeline/losses/.
        params: the loss's parameters; the rest take their defaults.

    Returns:
        A module from (logits [N, C, H, W] float, target [N, H, W] int64) to a scalar, at least float32. C = 1 is
        binary: one logit, target 0 or 1. Target 255 is ignored; where nothing else is left the loss is 0 with zero
        gradient. A loss that `needs` more takes dicts with "mask" first instead.

    Raises:
        ConfigError: for an unknown loss or parameter, or a wrong value.
    """
    resolved = variants.check("losses", name, params, "losses.create")
    loss: nn.Module = variants.load("losses", name).build(**resolved)
    return loss


def needs(name: str, **params: Any) -> Needs:
    """What loss `name` and the losses that its parameters name declare as OUTPUTS and TARGETS, without importing them.

    Outputs come without "mask", which every network gives.
    """
    used = variants.used("losses", name, params)
    outputs, targets = (
        tuple(dict.fromkeys(key for variant in used for key in variants.declared(*variant, constant, ())))
        for constant in ("OUTPUTS", "TARGETS")
    )
    return Needs(tuple(key for key in outputs if key != "mask"), targets)


def derivations(name: str, **params: Any) -> dict[str, Callable[..., Any]]:
    """How the extra targets of loss `name` are derived: by name, the functions that its file lists as DERIVE.

    Each takes an image [bands, H, W] in its dtype, its mask [H, W] uint8 (255: ignored) and the number of logits per
    pixel, and gives [K, H, W] numbers.

    Raises:
        ConfigError: when a file declares a target in TARGETS and no function for it, or when two losses of a sum
            derive a target of the same name by functions that are not the same.
    """
    found: dict[str, Callable[..., Any]] = {}
    for family, own in variants.used("losses", name, params):
        for target in variants.declared(family, own, "TARGETS", ()):
            functions = getattr(variants.load(family, own), "DERIVE", {})
            if target not in functions:
                raise ConfigError(f"loss {own}: TARGETS has {target!r}, and DERIVE no function that derives it")
            if found.setdefault(target, functions[target]) is not functions[target]:
                raise ConfigError(f"loss {own}: another loss of the sum derives its own {target!r}; rename one of them")
    return found
