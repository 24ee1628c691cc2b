"""Variants: one file each, whose name is the variant's name in configs. Never imports torch.

A variant exposes ``build(*, smooth=1e-5, ...)`` with keyword-only literal defaults. Signatures and imports are read
with `ast`, so that a misspelt name or parameter is found before anything heavy is imported.
"""

from __future__ import annotations

import ast
import functools
import importlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.defaults import train_variants
from pipeline.errors import ConfigError, choices
from pipeline.files import canonical_json
from pipeline.names import is_name, no_name

PACKAGE = Path(__file__).resolve().parent
PROJECT = PACKAGE.parents[1]
FAMILIES = ("models", "losses", "metrics", "schedules", "samplers", "augment", "baselines")
FROM_PIPELINE = ("in_channels", "classes")  # given to a model by the pipeline, never by the config
OPEN = ("models", "smp")  # the one variant that passes unnamed parameters on
KINDS = PACKAGE / "sources" / "_kinds.py"  # imports every file of its folder, by listing it


@dataclass(frozen=True)
class Parameter:
    """A parameter of `build`: its default and, where its annotation is made of plain types, what it accepts."""

    name: str
    default: Any
    types: tuple[str, ...]  # any of bool, int, float, str, None, list, dict; empty: anything
    options: tuple[Any, ...]  # values of a Literal annotation; empty: any value of the types


# --- names and signatures ----------------------------------------------------------------------------------------


def names(family: str) -> list[str]:
    """Names of all variants of `family`: its files that define a top-level `build`."""
    if family not in FAMILIES:
        raise ConfigError(f"no family {family!r} of variants; {choices(family, FAMILIES)}")
    files = sorted((PACKAGE / family).glob("*.py"))
    return [path.stem for path in files if not path.stem.startswith("_") and _function(path, "build") is not None]


def module_path(family: str, name: str) -> Path:
    """The file of variant `name`; ConfigError with the choices when there is none."""
    known = names(family)
    if name not in known:
        raise ConfigError(f"no {_noun(family)} {name!r} in src/pipeline/{family}/; {choices(str(name), known)}")
    return PACKAGE / family / f"{name}.py"


def parameters(family: str, name: str) -> dict[str, Any]:
    """Parameters of the variant's `build` and their defaults, without those that the pipeline supplies."""
    return {parameter.name: parameter.default for parameter in _parameters(family, name)}


def accepts_any(family: str, name: str) -> bool:
    """Whether `build` takes ``**kwargs`` (only models/smp.py may: models/_smp.py checks them)."""
    return _signature(family, name).kwarg is not None


def declared(family: str, name: str, constant: str, default: Any = None) -> Any:
    """The literal value of a module-level constant of a variant, read without importing it; `default` without one.

    What a family may declare is in docs/adding-a-variant.md; every variant may SMALL, parameters of its contract test.
    """
    path = module_path(family, name)
    for node in _tree(path).body:
        if isinstance(node, ast.Assign):
            named, value = [ast.unparse(target) for target in node.targets], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            named, value = [ast.unparse(node.target)], node.value
        else:
            continue
        if constant in named:
            try:
                return ast.literal_eval(value)
            except ValueError:
                raise ConfigError(f"{_shown(path)}:{node.lineno}: {constant} must be a literal") from None
    return default


def load(family: str, name: str) -> ModuleType:
    """Import the module of variant `name` and return it."""
    module_path(family, name)
    return importlib.import_module(f"pipeline.{family}.{name}")


def check(family: str, name: Any, params: dict[str, Any] | None, place: str) -> dict[str, Any]:
    """Return all parameters of variant `name`: those of `params`, defaults for the rest.

    Args:
        family: one of `FAMILIES`.
        name: the variant's name as the config gives it.
        params: parameters as the config gives them; None means none.
        place: where they stand, such as ``config/studies/demo.yaml: losses``; opens every message.

    Raises:
        ConfigError: in one line, for an unknown name, an unknown parameter, a value of the wrong type or one that JSON
            cannot hold.
    """
    noun = _noun(family)
    known = names(family)
    if name not in known:
        raise ConfigError(f"{place}: no {noun} {name!r}; {choices(str(name), known)}")
    if not is_name(name):
        raise ConfigError(f"{place}: {no_name(name)}; rename {_shown(PACKAGE / family / f'{name}.py')}")
    if params is not None and not isinstance(params, dict):
        raise ConfigError(f"{place}: the parameters of {noun} {name!r} must be a mapping, got {params!r}")
    declared = {parameter.name: parameter for parameter in _parameters(family, name)}
    resolved = {key: parameter.default for key, parameter in declared.items()}
    for key, value in (params or {}).items():
        if family == "models" and key in FROM_PIPELINE:
            raise ConfigError(f"{place}: {key!r} of model {name!r} is set by the pipeline from the data: leave it out")
        if key in declared:
            resolved[key] = _checked(declared[key], value, f"{place}: {noun} {name!r}")
        elif accepts_any(family, name) and isinstance(key, str):
            resolved[key] = value
        else:
            raise ConfigError(f"{place}: {noun} {name!r} has no parameter {key!r}; {choices(str(key), declared)}")
        check_json(resolved[key], f"{place}: {noun} {name!r}: {key}")
    further = light(family, name)
    if further is None:
        return resolved
    try:
        replaced: dict[str, Any] | None = further.check(**resolved)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
    return resolved if replaced is None else replaced


def entry_of(raw: Any, place: str) -> tuple[str, dict[str, Any]]:
    """(name, parameters) of a list entry: ``name`` or ``{name: {parameter: value}}``."""
    if isinstance(raw, str):
        return raw, {}
    if isinstance(raw, dict) and len(raw) == 1:
        ((name, params),) = raw.items()
        if isinstance(name, str) and (params is None or isinstance(params, dict)):
            return name, dict(params or {})
    raise ConfigError(f"{place}: {raw!r} is neither a name nor {{name: {{parameter: value}}}}")


def used(family: str, name: str, params: dict[str, Any]) -> list[tuple[str, str]]:
    """(family, name) of a variant and of all that its parameters name, as the terms of a weighted sum are.

    Args:
        family: one of `FAMILIES`.
        name: the variant.
        params: its parameters; those left out take their defaults.
    """
    found = [(family, name)]
    uses = getattr(light(family, name), "uses", None)
    if uses is not None:
        for inner, its in uses(**{**parameters(family, name), **params}):
            found += used(family, inner, its)
    return list(dict.fromkeys(found))


def shortest(family: str, name: str, params: dict[str, Any]) -> dict[str, Any]:
    """`params` without those at the defaults of variant `name`; JSON, where tuples are lists, tells which are."""
    defaults = parameters(family, name)
    return {k: v for k, v in params.items() if k not in defaults or canonical_json(defaults[k]) != canonical_json(v)}


def files_of(spec: dict[str, Any]) -> list[Path]:
    """The files of all variants that a run's spec names; a rule of a researcher's own has none."""
    parts = [("models", "model"), ("losses", "loss")] if spec["kind"] == "run" else [("baselines", "model")]
    chosen = [(family, spec[part]["name"], spec[part]["params"]) for family, part in parts]
    if spec["kind"] == "run":
        chosen += [(family, entry["name"], entry["params"]) for family, entry in train_variants(spec.get("train", {}))]
    known = [one for one in chosen if one[1] in names(one[0])]
    return [module_path(*variant) for one in known for variant in used(*one)]


def light(family: str, name: str) -> ModuleType | None:
    """The light module ``_<name>.py`` of a variant, which says what its signature cannot; None where there is none.

    Its ``check(**params)`` raises ConfigError for values that do not fit, and may return the parameters in a form of
    its own (a file without a ``check`` is a helper of others); its ``uses(**params)``, if any, gives (name, params) of
    variants of the same family that it makes; a model's ``outputs(**params)``, if any, is OUTPUTS by parameters.
    """
    path = PACKAGE / family / f"_{name}.py"
    there = path.is_file() and _function(path, "check") is not None
    return importlib.import_module(f"pipeline.{family}._{name}") if there else None


def check_json(value: Any, place: str) -> None:
    """ConfigError unless JSON can hold `value`, as a run's spec must: no date, no nan, no key that is no text."""
    try:
        fits = _fits_json(value)
    except RecursionError:
        fits = False
    if not fits:
        wanted = "finite numbers, text, true, false, null, lists and mappings"
        raise ConfigError(f"{place} must be made of {wanted}, got {value}")


def _fits_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _fits_json(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_fits_json, value))
    return math.isfinite(value) if isinstance(value, float) else value is None or isinstance(value, str | int)


def _noun(family: str) -> str:
    return {"losses": "loss", "augment": "augmentation"}.get(family, family.removesuffix("s"))


def _parameters(family: str, name: str) -> list[Parameter]:
    path = module_path(family, name)
    arguments = _signature(family, name)
    found = []
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if family == "models" and argument.arg in FROM_PIPELINE:
            continue
        if default is None:
            raise ConfigError(f"{_shown(path)}:{argument.lineno}: parameter {argument.arg!r} of build has no default")
        try:
            value = ast.literal_eval(default)
        except ValueError:
            where = f"{_shown(path)}:{argument.lineno}"
            raise ConfigError(
                f"{where}: the default {ast.unparse(default)} of {argument.arg!r} is no literal; "
                "write the number, text, list or None itself"
            ) from None
        found.append(Parameter(argument.arg, value, *_accepted(argument.annotation, value)))
    return found


def _signature(family: str, name: str) -> ast.arguments:
    path = module_path(family, name)
    build = _function(path, "build")
    assert build is not None, path
    arguments = build.args
    if arguments.args or arguments.posonlyargs or arguments.vararg:
        raise ConfigError(f"{_shown(path)}:{build.lineno}: build must take keyword-only arguments: build(*, ...)")
    if arguments.kwarg is not None and (family, name) != OPEN:
        raise ConfigError(f"{_shown(path)}:{build.lineno}: build must name its parameters instead of **kwargs")
    return arguments


def _function(path: Path, name: str) -> ast.FunctionDef | None:
    return next((node for node in _tree(path).body if isinstance(node, ast.FunctionDef) and node.name == name), None)


# --- types of parameters -----------------------------------------------------------------------------------------

_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "None": "null",
    "list": "a list",
    "dict": "a mapping",
}


def _type_name(value: Any) -> str:
    if value is None:
        return "None"
    return "list" if isinstance(value, list | tuple) else type(value).__name__


def _accepted(annotation: ast.expr | None, default: Any) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """(types, options) of a parameter, from its annotation or else from its default's type."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).rpartition(".")[2] == "Literal":
        options = ast.literal_eval(annotation.slice)
        options = options if isinstance(options, tuple) else (options,)
        return tuple(dict.fromkeys(_type_name(option) for option in options)), options
    parts = [] if annotation is None else ast.unparse(annotation).split(" | ")
    types = tuple("list" if part.split("[")[0] in ("tuple", "Sequence") else part.split("[")[0] for part in parts)
    if types and all(part in _WORDS for part in types):
        return types, ()
    return (() if default is None else (_type_name(default),)), ()


def _checked(parameter: Parameter, value: Any, place: str) -> Any:
    kind = _type_name(value)
    if kind == "float" and not math.isfinite(value):
        raise ConfigError(f"{place}: {parameter.name} must be finite, got {value!r}")
    if parameter.options and value not in parameter.options:
        listed = ", ".join(map(str, parameter.options))
        raise ConfigError(f"{place}: {parameter.name} must be one of {listed}; got {value!r}")
    if not parameter.types or kind in parameter.types:
        return value
    if kind == "int" and "float" in parameter.types:
        return float(value)
    wanted = " or ".join(_WORDS[part] for part in parameter.types)
    raise ConfigError(f"{place}: {parameter.name} must be {wanted}, got {value!r}")


# --- import closure ----------------------------------------------------------------------------------------------


def closure(script: Path, extra: Iterable[Path] = ()) -> list[Path]:
    """All files of `pipeline` that `script` and `extra` import, these files included.

    Imports are read with `ast`, so that those inside functions count and nothing is executed; the `__init__` files of
    packages on the way belong to it, imports for type checkers alone (``if TYPE_CHECKING``) do not. A variant that is
    loaded by name is no import: pass its file in `extra`. Kinds of imagery sources, which the config loads all, count.
    Paths are sorted, and relative to the project root where they lie below it.
    """
    todo = [Path(path).resolve() for path in (script, *extra)]
    seen: set[Path] = set()
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo.extend(_imports(path, _stamp(path)))
    return sorted(path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path for path in seen)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        raise ConfigError(f"{_shown(path)} does not exist") from None
    return status.st_mtime_ns, status.st_size


def _shown(path: Path) -> str:
    return str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else str(path)


def _tree(path: Path) -> ast.Module:
    return _parsed(path, _stamp(path))


@functools.cache
def _parsed(path: Path, stamp: tuple[int, int]) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        line = getattr(error, "lineno", None)
        raise ConfigError(f"{_shown(path)}{f':{line}' if line else ''}: is no valid Python: {error}") from None


@functools.cache
def _imports(path: Path, stamp: tuple[int, int]) -> tuple[Path, ...]:
    found: dict[Path, None] = {}
    if path.is_relative_to(PACKAGE):
        found.update(dict.fromkeys(_files(".".join(("pipeline", *path.relative_to(PACKAGE).with_suffix("").parts)))))
    for module in _imported(path, _parsed(path, stamp)):
        found.update(dict.fromkeys(_files(module)))
    if path == KINDS:
        found.update(dict.fromkeys(path.parent.glob("*.py")))
    return tuple(found)


def _imported(path: Path, tree: ast.Module) -> Iterator[str]:
    """Dotted names that a file imports; each name of ``from a import b`` counts as ``a.b`` too."""
    for node in _runtime_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level and path.is_relative_to(PACKAGE):
                parts = ("pipeline", *path.relative_to(PACKAGE).parts)
                base = ".".join([*parts[: len(parts) - node.level], *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).rpartition(".")[2] == "TYPE_CHECKING":
            for branch in child.orelse:
                yield branch
                yield from _runtime_nodes(branch)
        else:
            yield child
            yield from _runtime_nodes(child)


def _files(module: str) -> list[Path]:
    """Files that importing a dotted name below `pipeline` executes; its last parts may be names within a module."""
    parts = module.split(".")
    if parts[0] != "pipeline":
        return []
    files = [PACKAGE / "__init__.py"]
    folder = PACKAGE
    for part in parts[1:]:
        if (folder / f"{part}.py").is_file():
            files.append(folder / f"{part}.py")
            break
        folder = folder / part
        if not (folder / "__init__.py").is_file():
            break
        files.append(folder / "__init__.py")
    return files
