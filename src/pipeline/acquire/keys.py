"""Keys from the environment: in the request, and nowhere else."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import quote, quote_plus

from pipeline.errors import DownloadError
from pipeline.sources._base import PLACEHOLDER, SECRET, Tile

_USER = re.compile(r"(?<=://)[^/@\s]+@")
_PARAMETER = re.compile(r"([?&][^=&\s]*(?:key|token|secret|sig|pass|auth)[^=&\s]*=)(?!\$\{)[^&\s]+", re.IGNORECASE)


def public(text: str) -> str:
    """`text` as it may be shown and stored: ``${NAME}`` as it stands, passwords and keys in addresses starred out."""
    return _PARAMETER.sub(r"\1***", _USER.sub("***@", text))


class Keys:
    """The environment variables that texts of the config name as ``${NAME}``."""

    def __init__(self, texts: Iterable[str], used_by: str) -> None:
        """Look up every name in `texts`; DownloadError names the one that is unset or empty, and `used_by`."""
        self._values: dict[str, str] = {}
        for name in (name for text in texts for name in SECRET.findall(text)):
            value = os.environ.get(name, "")
            if not value:
                raise DownloadError(f"the environment variable {name} that {public(used_by)} needs is not set")
            self._values[name] = value

    def expand(self, text: str) -> str:
        """`text` with its ``${NAME}`` filled in: for the request alone."""
        return SECRET.sub(lambda match: self._values.get(match[1], match[0]), text)

    def redact(self, text: str) -> str:
        """`text`, say a server's words, with every value turned back into its ``${NAME}``, other keys starred."""
        for name, value in self._values.items():
            for form in dict.fromkeys((value, quote(value), quote(value, safe=""), quote_plus(value))):
                text = text.replace(form, f"${{{name}}}")
        return public(text)


class TileUrl:
    """Where tiles are, with ``{host}`` and ``${NAME}`` filled in, and the headers to send.

    Attributes:
        public: the template as it may be shown and stored: ``${NAME}`` unexpanded, passwords and keys starred out.
        headers: what to send with every request, keys included.
    """

    def __init__(
        self,
        template: str,
        host: str = "",
        *,
        address: Callable[[Tile], str] | None = None,
        example: Tile = (0, 0, 0),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Take the url as the config writes it, and what makes addresses of it.

        Args:
            template: the url; may hold ``{z}``, ``{x}``, ``{y}`` where there is no `address`.
            host: what ``{host}`` stands for.
            address: tile → its address, ``{host}`` and ``${NAME}`` left in.
            example: a tile to try `address` with.
            headers: sent with every request; values may hold ``${NAME}``.

        Raises:
            DownloadError: an unset variable or an unknown placeholder, named.
        """
        self.public = public(template)
        self._template, self._host, self._own = template, host, address
        first, sent = self._address(example), dict(headers or {})
        unknown = PLACEHOLDER.findall(SECRET.sub("", first))
        if unknown:
            raise DownloadError(f"unknown placeholder {unknown[0]} in the url {self.public}")
        self._keys = Keys([template, first, *sent.values()], f"the source at {self.public}")
        self.headers = {name: self._keys.expand(value) for name, value in sent.items()}

    def of(self, tile: Tile) -> str:
        """The address of one tile, keys included: for the request alone."""
        return self.expand(self._address(tile))

    def _address(self, tile: Tile) -> str:
        if self._own is not None:
            return self._own(tile).replace("{host}", self._host)
        text = self._template.replace("{host}", self._host)
        for name, value in zip("zxy", tile, strict=True):
            text = text.replace(f"{{{name}}}", str(value))
        return text

    def expand(self, text: str) -> str:
        """`text` with its keys filled in."""
        return self._keys.expand(text)

    def redact(self, text: str) -> str:
        """`text` in one line, without any key."""
        return " ".join(self._keys.redact(text).split())
