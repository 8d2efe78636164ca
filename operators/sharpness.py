"""Measure how sharp and how busy a picture is; refuse blurred and empty ones where a recipe sets limits.

Reads    the picture
Writes   sharpness    float32, variance of the Laplacian of the grey picture (0-255) reduced to fit `side` pixels
         entropy      float32, bits of its grey histogram, 0 (one tone) to 8
Refuses  "blurred"    sharpness below `min_sharpness`
         "empty"      entropy below `min_entropy`
Source   variance of the Laplacian: Pech-Pacheco et al., 2000. Reduced first, since the value depends on the resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import Field

from operators.base import Operator, Outcome, keep, schema


def measure(image: Image.Image, side: int) -> tuple[float, float]:
    """(variance of the Laplacian, entropy in bits)."""
    grey = image.convert("L")
    grey.thumbnail((side, side), Image.Resampling.BOX, reducing_gap=None)
    pixels = np.asarray(grey, np.int16)
    if min(pixels.shape) >= 3:
        around = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:]
        sharpness = float(np.var(around - 4 * pixels[1:-1, 1:-1], dtype=np.float64))
    else:
        sharpness = 0.0
    share = np.asarray(grey.histogram(), np.float64) / pixels.size
    share = share[share > 0]
    return sharpness, max(0.0, float(-(share * np.log2(share)).sum()))


class Sharpness(Operator):
    side: int = Field(512, ge=16, le=4096)
    min_sharpness: float | None = Field(None, gt=0)
    min_entropy: float | None = Field(None, gt=0, le=8)

    version: ClassVar[int] = 1
    needs_image: ClassVar[bool] = True
    reasons: ClassVar[dict[str, str]] = {"blurred": "sharpness below the limit", "empty": "next to one single tone"}

    @property
    def reads(self) -> pa.Schema:
        return schema()

    @property
    def writes(self) -> pa.Schema:
        return schema(sharpness=pa.float32(), entropy=pa.float32())

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        values = np.array([measure(image, self.side) for image in images or []], np.float64).reshape(-1, 2)
        sharpness, entropy = values[:, 0], values[:, 1]
        return keep(
            batch,
            {"sharpness": pa.array(sharpness, pa.float32()), "entropy": pa.array(entropy, pa.float32())},
            unless={
                "blurred": (sharpness < (self.min_sharpness or 0), lambda i: f"{sharpness[i]:.1f} < {self.min_sharpness}"),
                "empty": (entropy < (self.min_entropy or 0), lambda i: f"{entropy[i]:.2f} bits < {self.min_entropy}"),
            },
        )
