"""A picture as it is sent to the model: cut out, scaled to the pixel budget, encoded once."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from typing import Literal

from PIL import Image

from prompts.images import fit


class SentPicture:
    """One picture on its way to the model; scaled and encoded in a thread when it is first needed.

    image    upright; may still have to be decoded, which one thread at a time does under `loading`
    region   x1, y1, x2, y2 in its pixels: the part to send; None: all of it
    how      what was done to it, as it enters the request's hash: "448x336 jpeg", with " of x1,y1,x2,y2" for a part
    """

    def __init__(
        self,
        image: Image.Image,
        region: tuple[int, int, int, int] | None,
        max_pixels: int,
        min_pixels: int,
        encoding: Literal["jpeg", "png"],
        loading: threading.Lock | None = None,
    ) -> None:
        width, height = image.size
        x1, y1, x2, y2 = region or (0, 0, width, height)
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise ValueError(f"region {region} is not inside a picture of {width} x {height} pixels")
        self.image = image
        self.size = fit(x2 - x1, y2 - y1, max_pixels, min_pixels)
        self.how = f"{self.size[0]}x{self.size[1]} {encoding}" + (f" of {x1},{y1},{x2},{y2}" if region else "")
        self._box = (x1, y1, x2, y2)
        self._encoding = encoding
        self._loading = loading or threading.Lock()
        self._encoded: asyncio.Future[str] | None = None

    async def data_url(self) -> str:
        if self._encoded is None:
            self._encoded = asyncio.ensure_future(asyncio.to_thread(self._encode))
        return await asyncio.shield(self._encoded)

    def _encode(self) -> str:
        with self._loading:
            self.image.load()
        picture = self.image if self.image.mode == "RGB" else self.image.convert("RGB")
        # Bicubic, as the model's own processor scales.
        picture = picture.resize(self.size, Image.Resampling.BICUBIC, box=self._box)
        buffer = io.BytesIO()
        if self._encoding == "png":
            picture.save(buffer, "PNG", compress_level=1)
        else:
            picture.save(buffer, "JPEG", quality=95, subsampling=0)
        return f"data:image/{self._encoding};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
