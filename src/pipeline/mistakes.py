"""What pydantic found wrong with a config file, as one plain line. As light as the config.

The line names the keys as they stand in the file (no tags of unions, no validators), the value, and what is possible.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pipeline.errors import choices
from pipeline.schema import (
    LandcoverConfig,
    LandcoverLayer,
    LandcoverService,
    LandcoverVector,
    LineLayer,
    PolygonLayer,
)
from pipeline.sources._kinds import kinds
from pipeline.study_schema import StudyConfig, StudyTrain

Place = tuple[int | str, ...]  # pydantic's: keys and positions, between them tags and names of validators
Keys = tuple[int | str, ...]  # those of the file alone

NOUNS = {
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
    "dict_type": "a mapping of keys",
    "list_type": "a list",
    "string_type": "text",
    "path_type": "a path",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}
LIMITS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
COUNTS = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True)
class _Mistake:
    """One of pydantic's errors.

    Attributes:
        kind, message, context, value: pydantic's type, words, numbers beside them, and the value refused.
        place: pydantic's.
        keys: the place in the file; with the key that is missing.
        fits: False for a member of a union that the value does not look like (a list, or none).
    """

    kind: str
    message: str
    context: dict[str, Any]
    value: Any
    place: Place
    keys: Keys
    fits: bool


def explain(model: type[BaseModel], raw: Any, error: ValidationError) -> str:
    """One line about `error`, with which `model` refused `raw`: its first mistake, an unknown key before others."""
    found = [
        _Mistake(
            item["type"],
            item["msg"].removeprefix("Value error, "),
            item.get("ctx", {}),
            item["input"],
            item["loc"],
            *_written(raw, item["loc"], item["type"] == "missing"),
        )
        for item in error.errors(include_url=False)
    ]
    fitting = [mistake for mistake in found if mistake.fits] or found
    first = next((mistake for mistake in fitting if mistake.kind == "extra_forbidden"), fitting[0])
    keys, text = first.keys, _text(model, first)
    if first.kind in NOUNS:
        alike = [NOUNS[other.kind] for other in found if other.keys == keys and other.kind in NOUNS]
        text = f"must be {' or '.join(dict.fromkeys(alike))}, got {_shown(first.value)}"
    if first.kind.startswith("union_tag"):
        keys = (*keys, "kind")
    axis = model in (StudyConfig, StudyTrain) and len(keys) > 1  # its values are shown, their positions say nothing
    if keys and isinstance(keys[-1], int) and (axis or first.kind == "missing"):
        keys = keys[:-1]
    where = ".".join(map(str, keys))
    section, _ = _section_at(model, first.place)
    deeper = first.kind == "value_error" and re.split(r"[.:]", text)[0] in section.model_fields
    return f"{where}{'.' if deeper else ': '}{text}" if where else text


def _written(raw: Any, place: Place, missing: bool) -> tuple[Keys, bool]:
    """The keys and positions of `place` that `raw` has, or lacks at its end; whether the union's member fits."""
    keys: list[int | str] = []
    value, fits = raw, True
    for index, part in enumerate(place):
        if isinstance(value, dict) and (own := [key for key in value if str(key) == str(part)]):
            value = value[own[0]]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        elif not (missing and index == len(place) - 1):
            member = isinstance(part, str) and part != "[key]"
            fits &= not member or str(part).startswith("list[") == isinstance(value, list)
            continue
        keys.append(part)
    return tuple(keys), fits


def _text(model: type[BaseModel], mistake: _Mistake) -> str:
    """What is wrong, and what is possible."""
    kind, context = mistake.kind, mistake.context
    if kind == "extra_forbidden":
        section, _ = _section_at(model, mistake.place[:-1])
        return f"unknown key; {choices(str(mistake.place[-1]), section.model_fields)}"
    if (numbers := _numbers(model, mistake)) is not None:
        return numbers
    if kind == "missing":
        return "this key is missing"
    if kind == "too_short":
        least, count = context["min_length"], context["actual_length"]
        return f"{f'has {count}' if count else 'is empty'}; it needs at least {'one entry' if least == 1 else least}"
    if kind == "union_tag_not_found":
        section, _ = _section_at(model, mistake.place)
        return f"this key is missing; {choices('', map(_tag, _siblings(section)))}"
    if kind in ("literal_error", "union_tag_invalid"):
        value = mistake.value if kind == "literal_error" else context["tag"]
        listed = context["expected" if kind == "literal_error" else "expected_tags"]
        return f"unknown value {_shown(value)}; {choices(str(value), _names(listed))}"
    if kind == "value_error":
        return mistake.message
    if kind in LIMITS:
        key, words = LIMITS[kind]
        limit = context[key]
        must = f"must be {words} {f'{limit:g}' if isinstance(limit, float) else limit}"
    else:
        must = re.sub(r"^(Input|String) should", "must", mistake.message)
    return f"{must}, got {_shown(mistake.value)}"


def _names(listed: str) -> list[str]:
    """The names in ``'a', 'b' or 'c'``."""
    return [name.strip("'") for name in listed.replace(" or ", ", ").split(", ")]


def _numbers(model: type[BaseModel], mistake: _Mistake) -> str | None:
    """What a list of so many numbers should hold, where that is the mistake; else None."""
    at_end = mistake.kind == "missing" and isinstance(mistake.place[-1], int)
    if not at_end and mistake.kind not in ("tuple_type", "too_long"):
        return None
    _, field = _section_at(model, mistake.place)
    count = None if field is None else _tuple_length(field.annotation)
    if field is None or count is None:
        return None
    meaning = re.split(r"[;(]", field.description or "")[0].strip()
    got = _shown(mistake.value) + (f" of {len(mistake.value)}" if isinstance(mistake.value, list) else "")
    return f"must be {COUNTS.get(count, count)} numbers{f': {meaning}' if meaning else ''}, got {got}"


def _tuple_length(annotation: Any) -> int | None:
    if getattr(annotation, "__origin__", None) is tuple:
        return len(annotation.__args__)
    lengths = map(_tuple_length, getattr(annotation, "__args__", ()))
    return next((length for length in lengths if length is not None), None)


def _shown(value: Any) -> str:
    """A value as a line shows it; what is long or has parts is named."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else str(value).lower()
    return repr(value) if isinstance(value, str) else str(value)


def _section_at(model: type[BaseModel], place: Place) -> tuple[type[BaseModel], FieldInfo | None]:
    """The section at `place`, and the last field on the way; tags of unions and keys of mappings are stepped over."""
    section, last = model, None
    for part in place:
        field = section.model_fields.get(str(part))
        last = field or last
        sections = list(_sections(field.annotation)) if field is not None else []
        tagged = [sibling for sibling in _siblings(section) if part == _tag(sibling)]
        section = (sections or tagged or [section])[0]
    return section, last


def _siblings(section: type[BaseModel]) -> list[type[BaseModel]]:
    families: list[list[type[BaseModel]]] = [
        list(kinds().values()),
        [LandcoverConfig, LandcoverVector, LandcoverService],
        [LandcoverLayer, PolygonLayer, LineLayer],
    ]
    return next((family for family in families if section in family), [])


def _tag(section: type[BaseModel]) -> str:
    return str(section.model_fields["kind"].annotation.__args__[0])  # type: ignore[union-attr]


def _sections(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _sections(part)
