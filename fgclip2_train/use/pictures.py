"""Strangers' pictures, bounded before anything is decoded.

The pixels are those that training sees (`data/images.py: decode`): upright, first frame, RGB. What is added are
limits: raster formats only (nothing that runs other programs or refers to other files), and a largest number of pixels, known from
the header.
"""

from __future__ import annotations

import io
import warnings

from PIL import Image, UnidentifiedImageError

from fgclip2_train.data.images import BAD_PICTURE, FORMATS, upright_rgb

MAX_PIXELS = 64_000_000
MAX_SIDE = 65_535
"""JPEG's. A picture one pixel wide and as long as MAX_PIXELS allows costs ten times the memory of a square one."""
MAX_BYTES = 64 << 20
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the limit here decides
warnings.filterwarnings("ignore", module=r"PIL\.")  # remarks on odd tags


class BadPicture(ValueError):
    """`reason` is one of: empty, not a picture, too many pixels, too many bytes, cannot be decoded, cannot be read."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def open_picture(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The upright RGB picture in `data`, or BadPicture."""
    if not data:
        raise BadPicture("empty", "no bytes")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if not 0 < width * height <= max_pixels:
                raise BadPicture("too many pixels", f"{width} x {height}, {max_pixels} are allowed")
            if max(width, height) > MAX_SIDE:
                raise BadPicture("too many pixels", f"{width} x {height}, {MAX_SIDE} on a side are allowed")
            return upright_rgb(image)
    except BadPicture:
        raise
    except UnidentifiedImageError:
        raise BadPicture("not a picture", f"{len(data)} bytes that begin with {data[:12]!r}") from None
    except Image.DecompressionBombError as error:
        raise BadPicture("too many pixels", str(error)) from None
    except BAD_PICTURE as error:
        raise BadPicture("cannot be decoded", f"{type(error).__name__}: {error}"[:200]) from None
