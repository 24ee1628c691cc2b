"""Checkpoints for everyone: a safetensors file with the weights and a JSON file that says how to build the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError, RunError
from pipeline.files import atomic_file, read_json, write_json
from pipeline.train.room import room

if TYPE_CHECKING:
    import torch

NUMBERS = (int, float)


def save_checkpoint(path: Path, weights: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """Write ``<path>`` (.safetensors) and the JSON beside it, each atomically; RunError where the disk has no room."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    with room("the checkpoint", path, size):
        with atomic_file(path) as temporary:
            save_file(tensors, str(temporary))
        write_json(path.with_suffix(".json"), facts)


def load_checkpoint(path: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Build the model that the JSON names and load the weights; returns it in eval mode with the JSON's content.

    Nothing of a file is executed. The JSON must have ``model`` (``name``, ``params``), ``in_channels``, ``classes``,
    ``offset`` and ``scale`` (a number per band each); what else it has is returned as it is.

    Raises:
        RunError: in one line, for a foreign, truncated or mismatched file, and for weights that are not finite.
    """
    facts = _facts(path)
    tensors = _tensors(path)
    model = _model(path, facts)
    expected = model.state_dict()
    _compare(path, expected, tensors)
    _check_finite(path, {name for name, _ in model.named_parameters()}, tensors)
    model.load_state_dict(tensors)
    return model.eval(), facts


def _facts(path: Path) -> dict[str, Any]:
    """The JSON beside a checkpoint, with all that building and feeding the model takes."""
    beside = path.with_suffix(".json")
    if not path.is_file() or not beside.is_file():
        raise RunError(f"there is no checkpoint {path} with a .json beside it")
    try:
        facts: Any = read_json(beside)
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{beside} is no JSON of a checkpoint: {_line(error)}") from None
    model = facts.get("model") if isinstance(facts, dict) else None
    if (
        not isinstance(model, dict)
        or not isinstance(model.get("name"), str)
        or not isinstance(model.get("params"), dict)
    ):
        raise RunError(f"{beside} is no JSON of a checkpoint: it names no model with its params")
    bands, classes = facts.get("in_channels"), facts.get("classes")
    if not isinstance(bands, int) or isinstance(bands, bool) or bands < 1:
        raise RunError(f"{beside}: in_channels must be a whole number above 0, got {bands!r}")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise RunError(f"{beside}: classes must be a list of names, got {classes!r}")
    for key in ("offset", "scale"):
        values = facts.get(key)
        numbers = isinstance(values, list) and all(isinstance(v, NUMBERS) and abs(v) < float("inf") for v in values)
        if not numbers or len(values) != bands or (key == "scale" and 0 in values):
            raise RunError(f"{beside}: {key} must be a number per band ({bands}), got {values!r}")
    return dict(facts)


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise RunError(f"{path} is no safetensors file, or is cut short: {_line(error)}") from None


def _model(path: Path, facts: dict[str, Any]) -> torch.nn.Module:
    from pipeline import models

    name, params = facts["model"]["name"], dict(facts["model"]["params"])
    if "weights" in params:  # of a pretrained encoder: the checkpoint has them
        params["weights"] = None
    try:
        return models.create(name, in_channels=facts["in_channels"], classes=len(facts["classes"]), **params)
    except PipelineError as error:
        raise RunError(f"{path.with_suffix('.json')}: {error}") from None
    except Exception as error:  # what a model makes of values that no study gave it
        raise RunError(f"{path.with_suffix('.json')}: model {name!r} cannot be built: {_line(error)}") from None


def _compare(path: Path, expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    """RunError naming the first tensor that is missing, unexpected, or of another shape or kind of number."""
    place = f"the checkpoint {path} does not fit the model that its .json names"
    for name, tensor in expected.items():
        if name not in found:
            raise RunError(f"{place}: it has no tensor {name} {list(tensor.shape)}")
        given = found[name]
        if given.shape != tensor.shape:
            raise RunError(f"{place}: {name} is {list(given.shape)}, the model's is {list(tensor.shape)}")
        if given.is_floating_point() != tensor.is_floating_point() or given.is_complex():
            raise RunError(f"{place}: {name} is {given.dtype}, the model's is {tensor.dtype}")
    for name, tensor in found.items():
        if name not in expected:
            raise RunError(f"{place}: the model has no tensor {name}, which the file has as {list(tensor.shape)}")


def _check_finite(path: Path, parameters: set[str], tensors: dict[str, torch.Tensor]) -> None:
    """RunError for a weight that is not finite, or a statistic that is no number: its scores would mean nothing."""
    for name, tensor in tensors.items():
        broken = tensor.isnan().any() if name not in parameters else ~tensor.isfinite().all()
        if broken:
            raise RunError(
                f"the checkpoint {path} has values in {name} that are not finite: its training went astray (try a "
                "lower lr), or the file is damaged; take another checkpoint"
            )


def _line(error: BaseException) -> str:
    """An error of another library as part of a line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
