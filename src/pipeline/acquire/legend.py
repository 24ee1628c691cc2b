"""What the values of a land cover mean: source values, compact codes for them, classes, and how often each occurs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.config import IGNORE, ClassScheme
from pipeline.errors import DataError
from pipeline.schema import LandcoverSection

Codes = npt.NDArray[np.uint16]
NO_DATA = 0
MAX_VALUES = 65_000  # a source with more of them is no land cover
LISTED = 10  # unmapped values that an error names

Key = int | str


def key_of(value: Any) -> Key | None:
    """A value as the config writes it: 112, 112.0 and "112" are one value; None for a null or NaN.

    Text loses white space around it. A number that is no integer becomes its shortest text.
    """
    if value is None or value != value:
        return None
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() else repr(value)
    text = str(value).strip()
    return int(text) if text.removeprefix("-").isdecimal() and str(int(text)) == text else text


def shown(value: Key) -> str:
    """A value in a line for people: an empty text is seen too."""
    return str(value) or "''"


class Legend:
    """Gives every value that occurs a code of its own, in the order of their coming, and counts pixels by code.

    Code 0 is no data. A code's class is 255 where its value is ignored or unmapped.
    """

    def __init__(self, config: LandcoverSection, scheme: ClassScheme, place: str) -> None:
        """Take the meaning of the values; `place` opens errors. DataError when two keys of `classes` are one value."""
        self._place = place
        self._scheme = scheme
        self._classes: dict[Key, str] = {}
        for value, name in config.classes.items():
            if (key := self._key(value)) in self._classes:
                raise DataError(f"{place}: value {value} stands twice in `classes`, as a number and as text")
            self._classes[key] = name
        self._ignored = {self._key(value) for value in config.ignore}
        self._codes: dict[Key, int] = {}
        self._table = np.full(MAX_VALUES + 1, IGNORE, dtype=np.uint8)
        self._pixels = np.zeros(MAX_VALUES + 1, dtype=np.int64)
        self._tables: dict[str, Codes] = {}

    @staticmethod
    def _key(value: Key) -> Key:
        key = key_of(value)
        return "" if key is None else key

    def code(self, value: Any) -> int:
        """The code of one value; 0 for a null."""
        key = key_of(value)
        if key is None:
            return NO_DATA
        if key not in self._codes:
            if len(self._codes) == MAX_VALUES:
                raise DataError(
                    f"{self._place}: holds more than {MAX_VALUES} different values, the last {key!r}: no land cover; "
                    "check the band or field"
                )
            self._codes[key] = len(self._codes) + 1
            if key in self._classes:
                self._table[self._codes[key]] = self._scheme.index(self._classes[key])
        return self._codes[key]

    def codes_of(self, values: Iterable[Any]) -> Codes:
        """Codes of a sequence of values, uint16 [n]."""
        return np.fromiter((self.code(value) for value in values), dtype=np.uint16)

    def codes(self, band: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> Codes:
        """Codes of an array of numbers, uint16 of its shape; 0 where it is not `valid` or NaN."""
        if band.dtype.kind in "iu" and band.dtype.itemsize <= 2:
            codes = self._small(band, valid)
        else:
            positions, values = pd.factorize(band[valid])
            known = self.codes_of([*values.tolist(), None])  # position -1, a NaN, takes the last
            codes = np.zeros(band.shape, dtype=np.uint16)
            codes[valid] = known[positions]
            return codes
        codes[~valid] = NO_DATA
        return codes

    def _small(self, band: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> Codes:
        """By a table of all values that the type has; an entry is filled when its value first occurs."""
        bits = 8 * band.dtype.itemsize
        table = self._tables.setdefault(band.dtype.str, np.zeros(1 << bits, dtype=np.uint16))
        unsigned = band.view(f"u{band.dtype.itemsize}")
        for position in np.flatnonzero(np.bincount(unsigned[valid])):
            if table[position] == NO_DATA:
                table[position] = self.code(int(np.array(position, unsigned.dtype).view(band.dtype)))
        codes: Codes = table[unsigned]
        return codes

    def paint(self, codes: Codes) -> npt.NDArray[np.uint8]:
        """Classes of codes, uint8 of their shape; their pixels are counted."""
        counted = np.bincount(codes.ravel())
        self._pixels[: len(counted)] += counted
        classes: npt.NDArray[np.uint8] = self._table[codes]
        return classes

    @property
    def empty(self) -> bool:
        """Whether no pixel was painted."""
        return not self._pixels[NO_DATA + 1 :].any()

    def check(self, limit: float, total: int) -> None:
        """DataError when the share of unmapped values in `total` pixels is above `limit`."""
        unmapped = self.unmapped(total)
        share = sum(entry["pixels"] for entry in unmapped) / total
        if share <= limit:
            return
        listed = ", ".join(
            f"{shown(entry['value'])} ({entry['share']:.2%} of the region)" for entry in unmapped[:LISTED]
        )
        more = f" and {len(unmapped) - LISTED} more" if len(unmapped) > LISTED else ""
        allowed = f"; unmapped are {share:.2%}, max_unmapped allows {limit:.2%}" if limit else ""
        raise DataError(f"{self._place}: no class for value {listed}{more}{allowed}; add each to `classes` or `ignore`")

    def unmapped(self, total: int) -> list[dict[str, Any]]:
        """Values in neither list: value, pixels and share of `total`, the most frequent first."""
        keys = [key for key in self._seen() if key not in self._classes and key not in self._ignored]
        entries = [{"value": key, **self._share(key, total)} for key in keys]
        return sorted(entries, key=lambda entry: (-entry["pixels"], str(entry["value"])))

    def summary(self, total: int) -> dict[str, Any]:
        """Pixels and shares of `total` by value and by class, what was ignored and unmapped, pixels without data."""
        classes = dict.fromkeys(self._scheme.names, 0)
        for key in self._seen():
            if key in self._classes:
                classes[self._classes[key]] += self._share(key, total)["pixels"]
        seen = sorted(self._seen(), key=lambda key: (isinstance(key, str), key))
        return {
            "values": {str(key): self._share(key, total) for key in seen},
            "classes": {name: {"pixels": pixels, "share": pixels / total} for name, pixels in classes.items()},
            "ignored": {str(key): self._share(key, total) for key in seen if key in self._ignored},
            "unmapped": self.unmapped(total),
            "outside": int(self._pixels[NO_DATA]),
        }

    def _seen(self) -> list[Key]:
        return [key for key, code in self._codes.items() if self._pixels[code]]

    def _share(self, key: Key, total: int) -> dict[str, Any]:
        pixels = int(self._pixels[self._codes[key]])
        return {"pixels": pixels, "share": pixels / total}
