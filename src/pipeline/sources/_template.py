"""Addresses made of templates: ``{name}`` is filled in here, ``${NAME}`` (the environment's) is left as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAMED = re.compile(r"(?<!\$)\{([^{}]*)\}")


def placeholders(template: str) -> list[str]:
    """The names in braces, in lower case, in their order."""
    return [name.lower() for name in _NAMED.findall(template)]


def fill(template: str, values: Mapping[str, object]) -> str:
    """`template` with every ``{name}`` of `values` (lower case) filled in, however it is written; others stay."""
    return _NAMED.sub(lambda match: str(values.get(match[1].lower(), match[0])), template)


def shown(url: str) -> str:
    """`url` for a message: without its query and password, which may hold a key."""
    return re.sub(r"(?<=://)[^/@]+@", "***@", url.partition("?")[0])
