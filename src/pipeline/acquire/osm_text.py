"""Ways and relations as lines of text, as libosmium writes them (its OPL format): far faster than object by object."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

_ESCAPE = re.compile(r"%([0-9a-f]+)%")
_ENCODE = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode


class Described:
    """The tags of an object, read once for all objects that have the same."""

    __slots__ = ("json", "tags")

    def __init__(self, text: str) -> None:
        pairs = (pair.partition("=") for pair in text.split(",")) if text else ()
        self.tags = {unescape(key): unescape(value) for key, _, value in pairs}
        self.json = _ENCODE(self.tags)


describe = lru_cache(maxsize=20_000)(Described)


def unescape(text: str) -> str:
    """Text with the characters that OPL writes as ``%`` + hex code point + ``%``."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text) if "%" in text else text


def read_objects(path: Path) -> Iterator[tuple[int, str, str]]:
    """Id, text of the tags, and text of the node references or members, of each line of an OPL file."""
    with open(path, encoding="utf-8", newline="\n") as lines:
        for line in lines:
            head, tags, rest = line.split(" ")
            yield int(head[1:]), tags[1:], rest[1:-1]


def is_closed(nodes: str) -> bool:
    """Whether a way's node references end where they begin."""
    first, _, others = nodes.partition(",")
    return others.rpartition(",")[2] == first


def member_ways(members: str) -> list[int]:
    """Ids of the ways among a relation's members."""
    entries = (member.partition("@")[0] for member in members.split(","))
    return [int(entry[1:]) for entry in entries if entry.startswith("w")]
