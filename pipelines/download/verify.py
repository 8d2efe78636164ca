"""Whether bytes from a stranger really are a picture: format, size and every row of it, within bounds.

By the rules of `operators.pictures`, so that what was stored once can be decoded everywhere.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import partial

from operators.pictures import BadPicture, load, open_picture, orientation, within_memory
from pipelines.download.jpeg import without_pixels
from pipelines.download.reasons import FetchError


@dataclass(frozen=True)
class Picture:
    """width, height: pixels after EXIF rotation."""

    format: str
    width: int
    height: int
    sha256: str


def verify(data: bytes, max_pixels: int) -> Picture:
    """Read the whole picture; raises FetchError with the reason when that cannot be done."""
    try:
        kind, width, height = within_memory(partial(_look, data, max_pixels))
    except BadPicture as error:
        raise FetchError(error.reason, error.detail) from None
    return Picture(kind, width, height, hashlib.sha256(data).hexdigest())


def _look(data: bytes, max_pixels: int) -> tuple[str, int, int]:
    with open_picture(data, max_pixels) as image:
        width, height = image.size
        if image.format == "JPEG" and image.fp and (head := without_pixels(data, image.fp.tell())) is not None:
            image.fp = io.BytesIO(head)
        image.draft(None, (1, 1))  # a JPEG at an eighth of its size: what a decoder says of it is the same
        load(image)
        if orientation(image) >= 5:  # lies on its side
            width, height = height, width
        return image.format or "", width, height
