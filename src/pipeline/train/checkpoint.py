"""Checkpoints for everyone: a safetensors file with the weights and a JSON file that says how to build the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import RunError
from pipeline.files import atomic_file, read_json, write_json

if TYPE_CHECKING:
    import torch


def save_checkpoint(path: Path, weights: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """Write ``<path>`` (.safetensors) and the JSON beside it, each atomically."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with atomic_file(path) as temporary:
        save_file(tensors, str(temporary))
    write_json(path.with_suffix(".json"), facts)


def load_checkpoint(path: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Build the model that the JSON names and load the weights; returns it in eval mode with the JSON's content.

    Raises RunError for a foreign, truncated or mismatched file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from pipeline import models

    if not path.is_file() or not path.with_suffix(".json").is_file():
        raise RunError(f"there is no checkpoint {path} with a .json beside it")
    try:
        facts: dict[str, Any] = read_json(path.with_suffix(".json"))
        params = facts["model"]["params"] | ({"weights": None} if "weights" in facts["model"]["params"] else {})
        model = models.create(
            facts["model"]["name"], in_channels=facts["in_channels"], classes=len(facts["classes"]), **params
        )
        model.load_state_dict(load_file(str(path)))
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"the checkpoint {path} does not fit or is damaged: {reason}") from None
    return model.eval(), facts
