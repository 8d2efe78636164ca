"""Whether bytes from a stranger really are a picture: format, size and every row of it, within bounds.

`verify` looks and decides, `decode` gives the pixels that operators and models see: upright, RGB, the first frame, 8 bits,
transparency on white. Both refuse by the same rules, so that what was stored once can be decoded everywhere.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import threading
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from pipelines.download.reasons import FetchError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Raster formats that browsers show, and TIFF; JPEG's reader also takes its multi-picture kind (MPO). Nothing that runs other
programs (EPS) or refers to other files (SVG)."""
ORIENTATION = 0x0112
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `max_pixels` decides here
warnings.filterwarnings("ignore", module=r"PIL\.")  # remarks on odd tags of strangers' pictures
LARGE = 16_000_000
"""Pixels from which on pictures are decoded one at a time, whatever the number of threads: bounds memory."""
_LARGE_ONES, _SMALL_ONES = threading.Lock(), threading.Semaphore(min(8, os.cpu_count() or 1))
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error, zlib.error, EOFError, OverflowError)
"""What Pillow's readers raise over broken files. MemoryError is not among them: it is the machine's, not the picture's."""


@dataclass(frozen=True)
class Picture:
    """width, height: pixels after EXIF rotation."""

    format: str
    width: int
    height: int
    sha256: str


def verify(data: bytes, max_pixels: int) -> Picture:
    """Read the whole picture; raises FetchError with the reason when that cannot be done."""
    with open_picture(data, max_pixels) as image:
        kind = image.format or ""
        width, height = upright_size(image)
        # A JPEG is read at an eighth of its size: every coded byte is still parsed, only the cheap last step shrinks.
        image.draft(None, (1, 1))
        _load(image)
    return Picture(kind, width, height, hashlib.sha256(data).hexdigest())


def decode(data: bytes, max_pixels: int = 1 << 30) -> Image.Image:
    """Pixels as RGB, upright. Raises FetchError like `verify`."""
    with open_picture(data, max_pixels) as image:
        _load(image)
        upright: Image.Image = image
        with suppress(*_BROKEN):  # a broken EXIF block: `upright_size` takes it for upright too
            upright = ImageOps.exif_transpose(image)
        return to_rgb(upright)


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB: transparency over white, 16 bits scaled down, everything else by Pillow's rule."""
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        above = image.convert("RGBA")
        below = Image.new("RGBA", above.size, (255, 255, 255, 255))
        return Image.alpha_composite(below, above).convert("RGB")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image, np.float32)
        top = 65535.0 if image.mode != "F" or values.max(initial=0) > 255 else 1.0 if values.max(initial=0) <= 1 else 255.0
        return Image.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def open_picture(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Read a picture's header only."""
    if not data:
        raise FetchError("empty", "no bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise _not_an_image(data) from None
    except Image.DecompressionBombError as error:
        raise FetchError("too_many_pixels", str(error)) from None
    except _BROKEN as error:
        raise _broken(error) from None
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise FetchError("too_many_pixels", f"{width} x {height} > {max_pixels}")
    if width < 1 or height < 1:
        image.close()
        raise FetchError("undecodable", f"{width} x {height}")
    return image  # type: ignore[return-value]


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height after EXIF rotation."""
    try:
        turned = image.getexif().get(ORIENTATION) in (5, 6, 7, 8)
    except _BROKEN:
        turned = False
    width, height = image.size
    return (height, width) if turned else (width, height)


def _load(image: Image.Image) -> None:
    try:
        with _LARGE_ONES if image.width * image.height > LARGE else _SMALL_ONES:
            image.load()
    except Image.DecompressionBombError as error:
        raise FetchError("too_many_pixels", str(error)) from None
    except _BROKEN as error:
        raise _broken(error) from None


def _broken(error: BaseException) -> FetchError:
    text = f"{type(error).__name__}: {error}"[:200]
    cut = isinstance(error, EOFError) or any(word in text.lower() for word in ("truncat", "unexpected end", "premature"))
    return FetchError("truncated" if cut else "undecodable", text)


def _not_an_image(data: bytes) -> FetchError:
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in head:
        return FetchError("svg", "a drawing")
    if head.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<!--")):
        return FetchError("not_an_image", "a web page")
    return FetchError("not_an_image", f"{len(data)} bytes that begin with {data[:16]!r}")
