"""Which weights of a network learn."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

from torch import nn

from pipeline import variants
from pipeline.errors import RunError
from pipeline.schedules._stage import Part

WITH_STATISTICS = nn.modules.batchnorm._NormBase  # batch and instance norms, synchronised ones too
NORMS = (WITH_STATISTICS, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_STILL: WeakKeyDictionary[nn.Module, list[nn.Parameter]] = WeakKeyDictionary()  # stopped by the last call, by network


def encoder_of(model: str) -> tuple[str, ...]:
    """ENCODER of a model's file: names of the submodules that are its encoder, ``*`` for any part of one name."""
    return tuple(variants.declared("models", model, "ENCODER", ()))


def freeze(model: nn.Module, part: Part, encoder: Sequence[str] = ("encoder",)) -> None:
    """Let `part` of a network in training mode learn, and nothing else; see `pipeline.schedules._stage.Stage`.

    Call it each time that the network was put into training mode. A weight that stands still has no gradient, so that
    an optimiser passes it by, weight decay included; a batch norm that stands still is in eval mode and keeps its
    running statistics. Dropout stays as it is. A weight that the network itself has excluded from learning stays so.

    Args:
        model: the network.
        part: ``all``; ``decoder``, all but the encoder; ``decoder_and_norms``, all but what in the encoder is no
            normalisation layer.
        encoder: names of the encoder's submodules, as `encoder_of` gives them.

    Raises:
        RunError: for a network without those submodules, where a part is asked for.
    """
    for parameter in _STILL.pop(model, []):
        parameter.requires_grad_(True)
    if part != "all":
        _STILL[model] = list(_stop(_encoders(model, part, encoder), part == "decoder_and_norms"))


def _encoders(model: nn.Module, part: Part, encoder: Sequence[str]) -> list[nn.Module]:
    wanted = re.compile("|".join(re.escape(name).replace(r"\*", "[^.]*") for name in encoder) or "(?!)")
    found = [module for name, module in model.named_modules() if wanted.fullmatch(name)]
    if not found:
        names = ", ".join(encoder) or "none declared"
        raise RunError(
            f"part {part!r} of a {type(model).__name__}: it has no encoder ({names}); declare ENCODER in the model's "
            "file, or train all of it"
        )
    return found


def _stop(encoders: list[nn.Module], norms_learn: bool) -> Iterator[nn.Parameter]:
    """Stop what learns in `encoders`, norms left out if they may learn; gives the parameters that were stopped."""
    for module in {id(module): module for encoder in encoders for module in encoder.modules()}.values():
        if isinstance(module, NORMS) and norms_learn:
            continue
        if isinstance(module, WITH_STATISTICS):
            module.eval()
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad:
                parameter.requires_grad_(False)
                yield parameter
