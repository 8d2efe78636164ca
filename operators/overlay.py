"""Hint at text laid over a picture, and at a mark that repeats all over it: how much of the area looks so. No text is read.

Reads    the picture
Writes   text_area    float32, 0-1: share of the picture inside boxes that look like lines of letters
         repetition   float32, 0-1: how strongly the picture's fine detail repeats at some distance, as a tiled watermark does
Refuses  "text"        text_area above `max_text_area`
         "repetition"  repetition above `max_repetition`
Source   own heuristics. Lines of letters: strong gradients, closed along the line, in boxes that are filled and crossed by many
         strokes. Repetition: second peak of the autocorrelation of the high-passed picture

Both are hints: a shop's sign is text too, a fence repeats. No limit is set by default; look at what one refuses before a long run
(`fineloom view`). For a trained classifier see `onnx_score`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import Field

from operators.base import Operator, Outcome, keep, schema

SIDE = 512
"""Pixels to which the longer side is reduced."""
LEAST = 32
"""A picture with a shorter side than this, reduced, is not looked at."""
CONTRAST = 40
"""Least step of grey that a letter's edge makes."""
RING = 8
"""Pixels about a peak of the autocorrelation."""
STROKES = 0.12
"""Least edges per pixel across a line of letters."""


def text_area(grey: np.ndarray) -> float:
    """Share of a grey picture (uint8 [H, W]) inside boxes that look like lines of letters."""
    import cv2

    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    gradient = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, kernel)
    level, _ = cv2.threshold(gradient, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    edges = (gradient >= max(level, CONTRAST)).astype(np.uint8)
    joined = cv2.morphologyEx(edges, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_RECT, (9, 1)))
    _, _, boxes, _ = cv2.connectedComponentsWithStats(joined, connectivity=4)
    covered = 0
    for x, y, width, height, filled in boxes[1:]:
        if height < 6 or height > grey.shape[0] / 4 or width < 2 * height or filled < 0.5 * width * height:
            continue
        line = grey[y : y + height, x : x + width].astype(np.int16)
        crossings = (np.abs(np.diff(line, axis=1)) >= CONTRAST).mean()
        if crossings >= STROKES:
            covered += int(width) * int(height)
    return covered / grey.size


def repetition(grey: np.ndarray) -> float:
    """Height of the second peak of the autocorrelation of a grey picture's fine detail (uint8 [H, W]); the first is 1."""
    import cv2

    detail = grey.astype(np.float32) - cv2.GaussianBlur(grey, (0, 0), 2).astype(np.float32)
    detail = np.clip(detail, -16, 16)  # a few strong edges of the scene must not drown a faint mark
    detail -= detail.mean()
    power = np.abs(np.fft.rfft2(detail, [2 * side for side in grey.shape])) ** 2
    height, width = grey.shape
    correlation = np.fft.irfft2(power, [2 * height, 2 * width])[:height, :width]
    if correlation[0, 0] <= grey.size * 0.5:  # a flat picture has no detail
        return 0.0
    overlap = np.outer(np.arange(height, 0, -1), np.arange(width, 0, -1)) / grey.size
    correlation = (correlation / overlap / correlation[0, 0]).astype(np.float32)
    # A long edge is like itself wherever it is shifted along its own direction: a ridge. A mark that repeats makes a peak, which
    # stands above everything on a ring about it.
    offsets = np.hypot(*np.mgrid[-RING : RING + 1, -RING : RING + 1])
    ring = (np.abs(offsets - RING) <= 1).astype(np.uint8)
    peaks = correlation - cv2.dilate(correlation, ring)
    peaks[: LEAST // 2, : LEAST // 2] = 0  # what lies beside the first peak
    far = peaks[: 3 * height // 4, : 3 * width // 4]  # beyond it too little overlaps
    return float(np.clip(far.max(), 0, 1))


class Overlay(Operator):
    max_text_area: float | None = Field(None, gt=0, le=1)
    max_repetition: float | None = Field(None, gt=0, le=1)

    version: ClassVar[int] = 1
    needs_image: ClassVar[bool] = True
    reasons: ClassVar[dict[str, str]] = {
        "text": "too much of the picture looks like text",
        "repetition": "fine detail repeats over the picture as a watermark does",
    }

    @property
    def reads(self) -> pa.Schema:
        return schema()

    @property
    def writes(self) -> pa.Schema:
        return schema(text_area=pa.float32(), repetition=pa.float32())

    def setup(self) -> None:
        import cv2

        cv2.setNumThreads(1)  # the machine's cores belong to the workers, not to one of them

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        values = np.array([self.measure(image) for image in images or []], np.float64).reshape(-1, 2)
        area, repeats = values[:, 0], values[:, 1]
        columns = {"text_area": pa.array(area, pa.float32()), "repetition": pa.array(repeats, pa.float32())}
        return keep(
            batch,
            columns,
            unless={
                "text": (area > (self.max_text_area or 1), lambda i: f"{area[i]:.3f} > {self.max_text_area}"),
                "repetition": (repeats > (self.max_repetition or 1), lambda i: f"{repeats[i]:.3f} > {self.max_repetition}"),
            },
        )

    def measure(self, image: Image.Image) -> tuple[float, float]:
        grey = image.convert("L")
        grey.thumbnail((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=None)
        pixels = np.asarray(grey, np.uint8)
        if min(pixels.shape) < LEAST:
            return 0.0, 0.0
        return text_area(pixels), repetition(pixels)
