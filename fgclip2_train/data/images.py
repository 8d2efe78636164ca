"""Pictures to patches, bit for bit as the official processor makes them, kept as bytes until they are on the device.

Bytes are a quarter of the float32 patches in worker memory and on the bus; `Fgclip2Model.pixels` does the official arithmetic.
"""

from __future__ import annotations

import functools
import io
import math

import numpy as np
from PIL import Image, ImageOps

PATCH = 16
BUCKETS = (128, 256, 576, 784, 1024)
SMALL_SIDE, ENLARGED_SIDE = 128, 512


def decode(data: bytes) -> Image.Image:
    """The upright RGB picture. Raises what Pillow raises on a bad one (OSError, SyntaxError, ValueError, DecompressionBombError)."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def enlarge_small(image: Image.Image, side: int = ENLARGED_SIDE) -> Image.Image:
    """A picture with a side below 128 becomes a square (aspect ratio lost), as in the official data set."""
    return image.resize((side, side)) if min(image.size) < SMALL_SIDE else image


def patch_estimate(image: Image.Image) -> int:
    return (image.width // PATCH) * (image.height // PATCH)


def official_bucket(most: int) -> int:
    """Patches per picture for a batch whose largest estimate is `most`: the next bucket up, 1024 at most."""
    return next((bucket for bucket in BUCKETS if most <= bucket), BUCKETS[-1])


@functools.lru_cache(maxsize=65536)
def grid_for(width: int, height: int, patches: int) -> tuple[int, int]:
    """Rows and columns of the largest resize with rows · columns ≤ patches, sides rounded up to whole patches.

    The scale is found by the same bisection as officially, in the same float arithmetic: it decides ties.
    """

    def side(length: int, scale: float) -> int:
        return max(1, math.ceil(length * scale / PATCH))

    low, high, tolerance = 1e-6, 100.0, 1e-5
    while high - low >= tolerance:
        middle = (low + high) / 2
        if side(height, middle) * side(width, middle) <= patches:
            low = middle
        else:
            high = middle
    return side(height, low), side(width, low)


def to_patches(image: Image.Image, rows: int, columns: int) -> np.ndarray:
    """Resize (Pillow's bilinear) and cut: uint8 [rows · columns, 768], within a patch row, column, channel."""
    pixels = np.asarray(image.resize((columns * PATCH, rows * PATCH), Image.Resampling.BILINEAR))
    cut = pixels.reshape(rows, PATCH, columns, PATCH, 3).swapaxes(1, 2)
    return cut.reshape(rows * columns, PATCH * PATCH * 3)


def batch_patches(images: list[Image.Image], bucket: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A batch of upright RGB pictures: uint8 patches [B, bucket, 768] and grids [B, 2].

    Without a bucket the official rule chooses it from the largest picture of this batch.
    """
    images = [enlarge_small(image) for image in images]
    bucket = bucket or official_bucket(max(map(patch_estimate, images)))
    patches = np.zeros((len(images), bucket, PATCH * PATCH * 3), dtype=np.uint8)
    grids = np.array([grid_for(*image.size, bucket) for image in images], dtype=np.int64)
    for row, (image, (rows, columns)) in enumerate(zip(images, grids.tolist(), strict=True)):
        patches[row, : rows * columns] = to_patches(image, rows, columns)
    return patches, grids
