"""One way to turn a stranger's bytes into a picture, used wherever pixels are needed.

Upright (EXIF orientation applied), first frame of animations, 8-bit RGB; transparency is laid on white, 16 bits are scaled down.
What cannot be decoded whole, or is larger than allowed, raises `BadPicture` with a reason.
"""

from __future__ import annotations

import gc
import io
import os
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Raster formats that browsers show, and TIFF; JPEG's reader also takes its multi-picture kind (MPO). Nothing that runs other
programs (EPS) or refers to other files (SVG)."""
MAX_PIXELS = 1 << 30
"""Of a picture that was checked when it was stored; the download's own limit is far lower."""
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What puts a picture of this EXIF orientation upright."""
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the limits here decide
warnings.filterwarnings("ignore", module=r"PIL\.")  # remarks on odd tags of strangers' pictures
LARGE = 16_000_000
"""Pixels from which on pictures are decoded one at a time, whatever the number of threads: bounds memory."""
T = TypeVar("T")
_LARGE_ONES, _SMALL_ONES = threading.Lock(), threading.Semaphore(min(8, os.cpu_count() or 1))


class BadPicture(ValueError):
    """`reason` is a machine word: empty, not_an_image, svg, truncated, too_many_pixels, undecodable, out_of_memory."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        return BadPicture, (self.reason, self.detail)


def within_memory(work: Callable[[], T]) -> T:
    """Do what a picture needs memory for, once more where there was too little: another one's may be free by now. Then it is refused.

    A worker that is killed for want of memory is another matter: see `crashed_worker`.
    """
    with suppress(MemoryError):
        return work()
    gc.collect()
    try:
        return work()
    except MemoryError as error:
        raise BadPicture("out_of_memory", f"no memory to decode it, twice: {error}".rstrip(": ")) from None


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in `data` as upright RGB."""
    return within_memory(partial(_decode, data, max_pixels))


def _decode(data: bytes, max_pixels: int) -> Image.Image:
    with open_picture(data, max_pixels) as image:
        load(image)
        try:
            seen = to_rgb(upright(image))
        except MemoryError:
            raise
        except Exception as error:
            raise _broken(error) from None
        for told in ("exif", "xmp"):  # so that nobody turns it once more
            seen.info.pop(told, None)
        return seen


def open_picture(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Read a picture's header only."""
    if not data:
        raise BadPicture("empty", "no bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise _not_an_image(data) from None
    except Image.DecompressionBombError as error:
        raise BadPicture("too_many_pixels", str(error)) from None
    except MemoryError:
        raise
    except Exception as error:
        raise _broken(error) from None
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise BadPicture("too_many_pixels", f"{width} x {height} > {max_pixels}")
    if width < 1 or height < 1:
        image.close()
        raise BadPicture("undecodable", f"{width} x {height}")
    return image  # type: ignore[return-value]


def load(image: Image.Image) -> None:
    """Decode the pixels of an opened picture.

    Readers raise what they like over broken files (AVIF's even RuntimeError), and all of it is the picture's fault but MemoryError.
    """
    try:
        with _LARGE_ONES if image.width * image.height > LARGE else _SMALL_ONES:
            image.load()
    except Image.DecompressionBombError as error:
        raise BadPicture("too_many_pixels", str(error)) from None
    except MemoryError:
        raise
    except Exception as error:
        raise _broken(error) from None


def orientation(image: Image.Image) -> int:
    """EXIF orientation of a picture that was loaded, 1 (upright) where there is none or a broken one.

    Not to be asked before `load`: PNG's reader loads the pixels to find EXIF, and what it raises then it does not raise again.
    """
    try:
        found = image.getexif().get(ORIENTATION, 1)
        return int(found) if found in UPRIGHT else 1
    except MemoryError:
        raise
    except Exception:
        return 1


def upright(image: Image.Image) -> Image.Image:
    """A picture that was loaded, turned as its EXIF says.

    Pillow's own `exif_transpose` writes the EXIF block anew, too, which a block that is broken elsewhere does not live through.
    """
    turn = orientation(image)
    return image.transpose(UPRIGHT[turn]) if turn in UPRIGHT else image


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB: transparency over white, 16 bits scaled down, everything else by Pillow's rule."""
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        above = image.convert("RGBA")
        below = Image.new("RGBA", above.size, (255, 255, 255, 255))
        return Image.alpha_composite(below, above).convert("RGB")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.nan_to_num(np.asarray(image, np.float32))  # a float may be no number, which is neither large nor small
        top = 65535.0 if image.mode != "F" or values.max(initial=0) > 255 else 1.0 if values.max(initial=0) <= 1 else 255.0
        return Image.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _broken(error: BaseException) -> BadPicture:
    text = f"{type(error).__name__}: {error}"[:200]
    cut = isinstance(error, EOFError) or any(word in text.lower() for word in ("truncat", "unexpected end", "premature"))
    return BadPicture("truncated" if cut else "undecodable", text)


def _not_an_image(data: bytes) -> BadPicture:
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in head:
        return BadPicture("svg", "a drawing")
    if head.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<!--")):
        return BadPicture("not_an_image", "a web page")
    return BadPicture("not_an_image", f"{len(data)} bytes that begin with {data[:16]!r}")


class LazyPicture(Image.Image):
    """A picture whose size is known and whose pixels are decoded when they are first needed.

    A model stage that finds its answers in the store never decodes anything.
    """

    def __init__(self, size: tuple[int, int], opener: Callable[[], Image.Image]) -> None:
        super().__init__()
        self._size = size
        self._mode = "RGB"
        self._opener: Callable[[], Image.Image] | None = opener
        self._opening = threading.Lock()

    def load(self) -> Any:
        with self._opening:
            if self._opener is not None:
                picture, self._opener = self._opener(), None
                picture.load()
                if picture.size != self._size:
                    raise ValueError(f"picture is {picture.size}, recorded as {self._size}")
                self.im = picture.im
        return super().load()
