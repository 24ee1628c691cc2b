"""What a name may look like: of studies, regions, recipes, classes, variants. Imports nothing but the standard library.

Names become folders, file names and the wildcards of the rules, so that all of them keep to one alphabet.
"""

from __future__ import annotations

import re

_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


def is_name(text: str) -> bool:
    """Whether `text` may be a name."""
    return _NAME.fullmatch(text) is not None


def no_name(text: str) -> str:
    """The message about a `text` that is none."""
    return f"{text!r} is no name: use lower-case letters, digits and underscores, a letter or digit first"


def checked_name(text: str) -> str:
    """Return `text`; ValueError when it is no name."""
    if not is_name(text):
        raise ValueError(no_name(text))
    return text
