"""Perceptual hash of a picture: near-duplicates differ in few bits.

Reads    the picture
Writes   phash    uint64, first bit (most significant) = lowest frequency; equals `imagehash.phash(picture)` read as a number
Refuses  nothing
Source   DCT hash as in imagehash 4.3 (grey, 32 x 32 Lanczos, 8 x 8 lowest frequencies, above their median)

Transform and median run over the whole batch at once; only the reduction to 32 x 32 is done picture by picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image

from operators.base import Operator, Outcome, keep, schema

SIDE, LOW = 32, 8

# The 8 lowest rows of the unnormalised DCT-II: D[k, n] = 2 cos(pi k (2n + 1) / 2N)
_DCT = 2 * np.cos(np.pi * np.arange(LOW)[:, None] * (2 * np.arange(SIDE)[None, :] + 1) / (2 * SIDE))
_WEIGHTS = np.uint64(1) << np.arange(LOW * LOW - 1, -1, -1, dtype=np.uint64)


def hash_pictures(images: Sequence[Image.Image]) -> np.ndarray:
    """uint64 [N]."""
    if not images:
        return np.zeros(0, np.uint64)
    grey = np.stack([np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for image in images])
    # Rounded, so that the zero coefficients of a flat or symmetric picture are zeros and not the arithmetic library's noise.
    low = np.round(_DCT @ grey.astype(np.float64) @ _DCT.T, 6).reshape(len(images), LOW * LOW)
    bits = low > np.median(low, axis=1, keepdims=True)
    return (bits * _WEIGHTS).sum(axis=1, dtype=np.uint64)


class Phash(Operator):
    version: ClassVar[int] = 1
    needs_image: ClassVar[bool] = True

    @property
    def reads(self) -> pa.Schema:
        return schema()

    @property
    def writes(self) -> pa.Schema:
        return schema(phash=pa.uint64())

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        return keep(batch, {"phash": pa.array(hash_pictures(images or []), pa.uint64())})
