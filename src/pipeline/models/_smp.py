"""What segmentation-models-pytorch and timm offer, read from their sources: importing them takes seconds."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, choices

OURS = {"encoder_name": "encoder", "encoder_weights": "weights"}  # the library's names for parameters of build
NO_LOGITS = ("activation", "aux_params")  # would change what the network returns
RESERVED = {*OURS, *NO_LOGITS, "in_channels", "classes"}
TIMM = ("tu-", "timm-")  # encoders that only timm can tell


def check(*, arch: str, encoder: str, weights: str | None, **kwargs: Any) -> None:
    """ConfigError for an architecture, encoder, set of weights or parameter that the library does not know.

    A parameter of an architecture is one that the library would otherwise drop without a word, or refuse late. Tags
    and parameters of timm's encoders are left to `pipeline.models.smp`; so is everything where the library is missing.
    """
    if _package() is None:
        return
    if arch not in architectures():
        raise ConfigError(f"model smp: no architecture {arch!r}; {choices(arch, architectures())}")
    known = encoders()
    if encoder not in known and not encoder.startswith(TIMM):
        raise ConfigError(f"model smp: no encoder {encoder!r}; {choices(encoder, known)}")
    if encoder.startswith("tu-") and _package("timm") is not None:
        _check_timm(encoder)
    sets = known.get(encoder, ["imagenet"])
    if weights is not None and weights not in sets:
        raise ConfigError(f"model smp: no weights {weights!r} for encoder {encoder!r}; {choices(weights, sets)}")
    named = parameters(arch)
    for key in kwargs:
        if key in OURS:
            raise ConfigError(f"model smp: {key!r} is called {OURS[key]!r} here")
        if key in NO_LOGITS:
            raise ConfigError(f"model smp: {key!r} is not supported: the network must return logits alone")
        if key not in named and (encoder in known or key.startswith("_")):
            own = ("arch", *OURS.values())
            raise ConfigError(f"model smp: {arch} has no parameter {key!r}; {choices(key, [*own, *named])}")


@functools.cache
def architectures() -> list[str]:
    """Names of the library's architectures, its own order."""
    for target, value in _assignments(_source("__init__.py")):
        if target == "_MODEL_ARCHITECTURES" and isinstance(value, ast.List):
            return [item.id for item in value.elts if isinstance(item, ast.Name)]
    return []


@functools.cache
def encoders() -> dict[str, list[str]]:
    """Names of the library's own encoders and of their sets of pre-trained weights."""
    found: dict[str, list[str]] = {}
    for path in sorted(_source("encoders").glob("*.py")):
        for target, value in _assignments(path):
            if target.endswith("_encoders"):
                found |= {
                    name: list(_entries(_entries(facts)["pretrained_settings"]))
                    for name, facts in _entries(value).items()
                }
    return found


@functools.cache
def parameters(arch: str) -> list[str]:
    """Parameters of an architecture that a config may set, without those that have another name here."""
    for path in sorted(_source("decoders").glob("*/model.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == arch:
                made = next(part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__")
                names = [argument.arg for argument in (*made.args.args[1:], *made.args.kwonlyargs)]
                return [name for name in names if name not in RESERVED]
    return []


def _check_timm(encoder: str) -> None:
    name = encoder.removeprefix("tu-").partition(".")[0]
    if name not in timm_models():
        near = [f"tu-{known}" for known in timm_models() if known[:3] == name[:3]] or ["tu-<name of a timm model>"]
        raise ConfigError(f"model smp: no encoder {encoder!r}; {choices(encoder, near)}")


@functools.cache
def timm_models() -> frozenset[str]:
    """Names of timm's models, former names included."""
    package = _package("timm")
    assert package is not None
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((package / "models").glob("*.py")))
    names = re.findall(r"^@register_model\s*\ndef (\w+)", text, re.MULTILINE)
    for former in re.findall(r"^register_model_deprecations\(__name__, \{(.*?)\}\)", text, re.MULTILINE | re.DOTALL):
        names += re.findall(r"""['"](\w+)['"]\s*:""", former)
    return frozenset(names)


def _package(name: str = "segmentation_models_pytorch") -> Path | None:
    spec = find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _source(name: str) -> Path:
    package = _package()
    assert package is not None
    return package / name


def _assignments(path: Path) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value


def _entries(value: ast.expr) -> dict[str, ast.expr]:
    """A dict in the source: its literal keys and what stands under them."""
    if not isinstance(value, ast.Dict):
        return {}
    return {
        str(key.value): item
        for key, item in zip(value.keys, value.values, strict=True)
        if isinstance(key, ast.Constant)
    }
