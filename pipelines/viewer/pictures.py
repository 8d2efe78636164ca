"""Small pictures for the pages: bounded in bytes read, in pixels decoded, in pixels sent and in memory kept."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict

from PIL import Image

from operators.pictures import BadPicture, load, open_picture, to_rgb, upright

SIDES = (480, 1400)
"""Longer side in pixels: in the gallery, and on a sample's own page."""
MAX_BYTES = 64_000_000
MAX_HEADER_PIXELS = 1 << 28
"""Of a JPEG, which can be decoded at an eighth of its size."""
MAX_DECODED = 40_000_000
"""Pixels that are really decoded."""
KEPT_BYTES = 48_000_000
_AT_WORK = threading.Semaphore(2)


def thumbnail(data: bytes, side: int) -> bytes:
    """A small upright JPEG of a stranger's picture. BadPicture for what is no picture, or too large a one to draw."""
    with _AT_WORK, open_picture(data, MAX_HEADER_PIXELS) as image:
        width, height = image.size
        image.draft("RGB", (side, side))  # JPEG only: decodes at 1/2, 1/4 or 1/8
        if image.width * image.height > MAX_DECODED:
            raise BadPicture("too_many_pixels", f"too large to draw: {width} × {height} pixels")
        load(image)
        small = to_rgb(upright(image))
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=82)
        return buffer.getvalue()


class Kept:
    """The thumbnails asked for last, up to `limit` bytes."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self.limit, self.size = limit, 0
        self._found: OrderedDict[tuple, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple) -> bytes | None:
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: tuple, data: bytes) -> None:
        with self._lock:
            self.size += len(data) - len(self._found.pop(key, b""))
            self._found[key] = data
            while self.size > self.limit:
                _, gone = self._found.popitem(last=False)
                self.size -= len(gone)
