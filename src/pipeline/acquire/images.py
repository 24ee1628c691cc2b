"""One tile's bytes: whole or cut off, an image or something else, its pixels."""

from __future__ import annotations

import io
import re
import zlib

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr"}
TRANSPARENT = "transparent"

_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # neither a stuffed byte, a fill byte nor a restart
_WEB_PAGE = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype html|html|head|body)", re.IGNORECASE | re.DOTALL)


class BadTile(Exception):
    """A body that is no tile (truncated, a web page): worth another try."""


def decode_tile(body: bytes, tile_px: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Decode one tile by its content, whatever its name says.

    Returns:
        pixels uint8 [3, tile_px, tile_px] (red, green, blue; grey is repeated, palettes are looked up) and valid bool
        [tile_px, tile_px] (alpha above 0).

    Raises:
        BadTile: no image, or one that is cut off or broken.
        DataError: an image of another size (found before its pixels are unpacked) or above 8 bits.
    """
    with _opened(body, tile_px) as image:
        rgba = np.asarray(_unpacked(image, "RGBA"))
    return rgba[:, :, :3].transpose(2, 0, 1), rgba[:, :, 3] > 0


def one_colour(body: bytes, tile_px: int) -> str:
    """Check a tile as `decode_tile` does; its colour as six hex digits when it has but one, TRANSPARENT, or ""."""
    with _opened(body, tile_px) as image:
        opaque = image.mode in ("RGB", "L") and "transparency" not in image.info
        extrema = _unpacked(image, "RGB" if opaque else "RGBA").getextrema()
    low, high = zip(*extrema, strict=True)
    if not opaque and high[3] == 0:
        return TRANSPARENT
    return bytes(low[:3]).hex() if low == high else ""


def _opened(body: bytes, tile_px: int) -> Image.Image:
    """The image, its size and mode checked, its pixels not yet unpacked."""
    try:
        image = Image.open(io.BytesIO(body), formats=FORMATS)
    except Image.DecompressionBombError:
        raise DataError(f"is far larger than {tile_px} × {tile_px} px") from None
    except Exception:
        raise BadTile(_what(body)) from None
    if image.size != (tile_px, tile_px):
        raise DataError(
            f"is {image.width} × {image.height} px, not {tile_px} × {tile_px}; correct the tile size or the url"
        )
    if image.mode not in MODES:
        raise DataError(f"has pixels of mode {image.mode}; only 8 bits per band are read")
    if not _whole(body, str(image.format)):
        raise BadTile("image cut off")
    return image


def _unpacked(image: Image.Image, mode: str) -> Image.Image:
    try:
        return image.convert(mode)
    except Exception:
        raise BadTile("broken image") from None


def _what(body: bytes) -> str:
    if not body:
        return "empty answer"
    if _WEB_PAGE.match(body):
        return "a web page, no image"
    return "XML, no image" if body.lstrip()[:5] == b"<?xml" else "no image"


def _whole(body: bytes, form: str) -> bool:
    """Whether the file has its end: decoders fill up what is missing after the last row that matters to them."""
    if form == "JPEG":
        return _jpeg_ends(body)
    if form == "PNG":
        return _png_ends(body)
    if form == "WEBP":
        return len(body) >= 8 + int.from_bytes(body[4:8], "little")
    return body.rstrip(b"\0").endswith(b"\x3b")  # GIF's trailer


def _jpeg_ends(body: bytes) -> bool:
    """Walk the segments to the end-of-image marker; one inside an embedded thumbnail does not count."""
    at = 2
    while found := _JPEG_MARKER.search(body, at):
        marker = found[0][1]
        if marker == 0xD9:
            return True
        at = (
            found.end() if marker == 0x01 else found.end() + max(2, int.from_bytes(body[found.end() : found.end() + 2]))
        )
    return False


def _png_ends(body: bytes) -> bool:
    """Walk the chunks to IEND; each must be there to its end and fit its checksum."""
    at = 8
    while at + 12 <= len(body):
        end = at + 8 + int.from_bytes(body[at : at + 4])
        if end + 4 > len(body) or zlib.crc32(body[at + 4 : end]) != int.from_bytes(body[end : end + 4]):
            return False
        if body[at + 4 : at + 8] == b"IEND":
            return True
        at = end + 4
    return False
