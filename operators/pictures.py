"""One way to turn a stranger's bytes into a picture, used wherever pixels are needed.

Upright (EXIF orientation applied), first frame of animations, RGB; transparency is laid on white, 16-bit grey is scaled to 8.
Anything that cannot be decoded whole, or that is larger than `MAX_PIXELS`, raises `BadPicture` with a reason.
"""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO")


class BadPicture(ValueError):
    """`reason` is a machine word: not_an_image, truncated, too_many_pixels, undecodable."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in `data`; its Pillow format name is in `.info["format"]`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # corrupt EXIF and profiles are not fatal
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            kind = picture.format
            if picture.width * picture.height > max_pixels:
                raise BadPicture("too_many_pixels", f"{picture.width} x {picture.height} pixels > {max_pixels}")
            picture.load()
            # An unreadable EXIF block says nothing of the orientation.
            with contextlib.suppress(ValueError, TypeError, KeyError, OSError, struct.error):
                picture = ImageOps.exif_transpose(picture)
            picture = _to_rgb(picture)
    except UnidentifiedImageError as error:
        raise BadPicture("not_an_image", f"starts with {data[:16]!r}") from error
    except Image.DecompressionBombError as error:
        raise BadPicture("too_many_pixels", str(error)) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, OverflowError) as error:
        if isinstance(error, BadPicture):
            raise
        reason = "truncated" if "truncated" in str(error).lower() else "undecodable"
        raise BadPicture(reason, f"{type(error).__name__}: {str(error)[:200]}") from error
    picture.info = {"format": "JPEG" if kind == "MPO" else kind}
    return picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    if picture.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        grey = np.asarray(picture, dtype=np.float64)
        top = 65535.0 if grey.max(initial=0) > 255 else 255.0
        return Image.fromarray(np.clip(grey / top * 255.0, 0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer).convert("RGB")
    return picture.convert("RGB")


class LazyPicture(Image.Image):
    """A picture whose size is known and whose pixels are decoded when they are first needed.

    A model stage that finds its answers in the store never decodes anything.
    """

    def __init__(self, size: tuple[int, int], opener: Callable[[], Image.Image]) -> None:
        super().__init__()
        self._size = size
        self._mode = "RGB"
        self._opener: Callable[[], Image.Image] | None = opener

    def load(self) -> Any:
        if self._opener is not None:
            picture, self._opener = self._opener(), None
            picture.load()
            if picture.size != self._size:
                raise ValueError(f"picture is {picture.size}, recorded as {self._size}")
            self.im = picture.im
        return super().load()
