"""One tile's bytes: whole or not, at every cut; sizes, colours, and what is no image."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.acquire.images import TRANSPARENT, BadTile, decode_tile, one_colour
from pipeline.errors import DataError

PX = 64


def smooth(px=PX, bands=3):
    """A picture that compresses like one: a gradient with some grain."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:px, 0:px]
    base = np.stack([(x * 3 + y) % 200 + 20, (x + y * 2) % 200 + 20, np.full((px, px), 90), np.full((px, px), 255)])
    return np.clip(base[:bands] + rng.integers(-9, 9, (bands, px, px)), 1, 255).astype(np.uint8).transpose(1, 2, 0)


def encoded(form, mode="RGB", px=PX, **options):
    out = io.BytesIO()
    Image.fromarray(smooth(px, 4)).convert(mode).save(out, form, **options)
    return out.getvalue()


def with_thumbnail():
    """A JPEG whose EXIF block holds a whole small JPEG, its end marker included."""
    small = encoded("JPEG", px=16)
    exif = b"Exif\0\0" + small
    body = encoded("JPEG")
    return body[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif + body[2:]


BODIES = {
    "jpeg": encoded("JPEG"),
    "progressive jpeg": encoded("JPEG", progressive=True),
    "jpeg with restarts": encoded("JPEG", restart_marker_rows=1),
    "jpeg with a thumbnail": with_thumbnail(),
    "png": encoded("PNG"),
    "palette png": encoded("PNG", "P"),
    "lossy webp": encoded("WEBP"),
    "lossless webp with alpha": encoded("WEBP", "RGBA", lossless=True),
    "gif": encoded("GIF", "P"),
}


@pytest.mark.parametrize("name", BODIES)
def test_an_image_cut_off_anywhere_is_no_tile(name):
    body = BODIES[name]
    pixels, valid = decode_tile(body, PX)
    assert pixels.shape == (3, PX, PX) and valid.all() and one_colour(body, PX) == ""
    for end in [*range(0, len(body) - 200, 7), *range(len(body) - 200, len(body))]:
        for read in (decode_tile, one_colour):
            with pytest.raises(BadTile):
                read(body[:end], PX)


@pytest.mark.parametrize("name", ["jpeg", "png", "lossy webp", "gif"])
def test_bytes_after_the_end_do_no_harm(name):
    pixels, _ = decode_tile(BODIES[name] + b"\0" * 100, PX)
    assert np.array_equal(pixels, decode_tile(BODIES[name], PX)[0])


@pytest.mark.parametrize("at", [0.2, 0.5, 0.9])
def test_a_png_with_a_flipped_bit_is_no_tile(at):
    body = bytearray(BODIES["png"])
    body[int(at * len(body))] ^= 4
    with pytest.raises(BadTile):
        decode_tile(bytes(body), PX)


@pytest.mark.parametrize("px", [256, 512, 1024])
def test_a_tile_has_the_size_that_its_source_says(px):
    body = encoded("JPEG", px=px)
    assert decode_tile(body, px)[0].shape == (3, px, px)
    with pytest.raises(DataError, match=rf"is {px} × {px} px, not {2 * px} × {2 * px}"):
        decode_tile(body, 2 * px)


@pytest.mark.parametrize(
    ("form", "mode"), [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("JPEG", "L"), ("WEBP", "RGB")]
)
def test_one_colour_is_found(form, mode):
    out = io.BytesIO()
    Image.new("RGBA", (PX, PX), (128, 128, 128, 255)).convert(mode).save(out, form)
    assert one_colour(out.getvalue(), PX) == "808080"
    changed = Image.open(io.BytesIO(out.getvalue())).convert("RGB")
    changed.putpixel((PX - 1, PX - 1), (1, 2, 3))
    out = io.BytesIO()
    changed.save(out, "PNG")
    assert one_colour(out.getvalue(), PX) == ""


def test_transparent_all_over_is_no_colour():
    for alpha, expected in ((0, TRANSPARENT), (255, "0a0b0c")):
        out = io.BytesIO()
        Image.new("RGBA", (PX, PX), (10, 11, 12, alpha)).save(out, "PNG")
        assert one_colour(out.getvalue(), PX) == expected
    pixels = smooth(bands=4).copy()
    pixels[..., 3] = 0
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    assert one_colour(out.getvalue(), PX) == TRANSPARENT


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty answer"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\n <!-- x --> <HTML lang=de>", "a web page"),
        (b'<?xml version="1.0"?><Error/>', "XML"),
        (b'{"error": "quota"}', "no image"),
        (b"\xff\xd8\xff\xe0", "no image"),
        (b"II*\0" + bytes(100), "no image"),
    ],
)
def test_what_is_no_image_is_called_what_it_is(body, said):
    with pytest.raises(BadTile, match=said):
        one_colour(body, PX)
