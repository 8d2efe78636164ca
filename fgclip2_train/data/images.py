"""Pictures to patches, bit for bit as the official processor makes them, kept as bytes until they are on the device.

Bytes are a quarter of the float32 patches in worker memory and on the bus; `Fgclip2Model.pixels` does the official arithmetic.
"""

from __future__ import annotations

import functools
import io
import math
import struct
import zlib
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import Field

from fgclip2_train.strict import Strict

PATCH = 16
BUCKETS = (128, 256, 576, 784, 1024)
MAX_PATCHES = 16_384
"""A square of 2048 pixels: what the model card goes up to. Attention is quadratic in it."""
Patches = Annotated[int, Field(ge=1, le=MAX_PATCHES)]
"""Per picture."""
SMALL_SIDE, ENLARGED_SIDE = 128, 512
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
"""Of files that are taken for pictures."""
BAD_PICTURE = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RuntimeError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow's readers raise on damaged or hostile bytes; RuntimeError is AVIF's."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Raster formats, which are all that the data's own stages take. None that runs other programs (EPS) or refers to other files."""
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
_RUN = np.dtype((np.void, 3 * PATCH))
"""A patch's part of a row of pixels: moved as one thing, not byte by byte."""


def decode(data: bytes) -> Image.Image:
    """The upright RGB picture. Raises one of BAD_PICTURE on a bad one."""
    return upright_rgb(Image.open(io.BytesIO(data), formats=FORMATS))


def upright_rgb(image: Image.Image) -> Image.Image:
    """The pixels of an opened picture as a person sees them.

    A broken EXIF block is no fault of the pixels. Pillow's own `exif_transpose` writes the block anew, which such a one does not
    live through. Not to be asked before the pixels are loaded: PNG's reader would load them, and tell of what is broken but once.
    """
    image.load()
    try:
        told: Any = image.getexif().get(0x0112)
        turn = UPRIGHT.get(told)
    except BAD_PICTURE:
        turn = None
    return to_rgb(image if turn is None else image.transpose(turn))


def to_rgb(image: Image.Image) -> Image.Image:
    """What a person sees, and what the models saw that described it: white where it is transparent, more than 8 bits scaled down.

    `convert` alone shows the colours that transparency hides, and cuts 16 bits off to white.
    """
    if image.has_transparency_data:
        above = image if image.mode == "RGBA" else image.convert("RGBA")
        seen = Image.new("RGB", image.size, "white")
        seen.paste(above, mask=above)
        return seen
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.array(image, np.float32)  # changed in place: pictures may be large
        np.nan_to_num(values, copy=False)
        whole = image.mode != "F" or values.max() > 255
        values *= 255 / (65535 if whole else 255 if values.max() > 1 else 1)
        image = Image.fromarray(values.clip(0, 255, out=values).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def enlarge_small(image: Image.Image, side: int = ENLARGED_SIDE) -> Image.Image:
    """A picture with a side below 128 becomes a square (aspect ratio lost), as in the official data set."""
    return image.resize((side, side)) if min(image.size) < SMALL_SIDE else image


class Augment(Strict):
    """Random changes of training pictures, so that a small set is not learnt by heart. The released program makes none."""

    crop: float = Field(default=1.0, gt=0, le=1)
    """Least share of each side that is kept. Boxes do not move along: stage 1 only."""
    light: float = Field(default=0.0, ge=0, lt=1)
    """Most that contrast changes, as a share, and brightness, as a share of half the range."""


def vary(image: Image.Image, augment: Augment, rng: np.random.Generator) -> Image.Image:
    """The picture cropped, darker or lighter, softer or harder, as `rng` draws."""
    if augment.crop < 1:
        width, height = (max(1, round(side * rng.uniform(augment.crop, 1))) for side in image.size)
        left, top = (int(rng.integers(0, free + 1)) for free in (image.width - width, image.height - height))
        image = image.crop((left, top, left + width, top + height))
    if augment.light:
        contrast, brightness = rng.uniform(-augment.light, augment.light, 2)
        levels = (np.arange(256) - 128) * (1 + contrast) + 128 * (1 + brightness)
        image = image.point(np.tile(np.clip(levels, 0, 255).astype(np.uint8), 3).tolist())
    return image


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


def to_patches(image: Image.Image, rows: int, columns: int, out: np.ndarray | None = None) -> np.ndarray:
    """Resize (Pillow's bilinear) and cut: uint8 [rows · columns, 768], within a patch row, column, channel.

    Written to `out`, if given.
    """
    pixels = np.asarray(image.resize((columns * PATCH, rows * PATCH), Image.Resampling.BILINEAR))
    if out is None:
        out = np.empty((rows * columns, PATCH * PATCH * 3), dtype=np.uint8)
    cut = pixels.reshape(rows * PATCH, columns * PATCH * 3).view(_RUN).reshape(rows, PATCH, columns).swapaxes(1, 2)
    out.view(_RUN).reshape(rows, columns, PATCH)[...] = cut
    return out


def batch_patches(images: list[Image.Image], bucket: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A batch of upright RGB pictures: uint8 patches [B, bucket, 768] and grids [B, 2].

    Without a bucket the official rule chooses it from the largest picture of this batch. Raises ValueError for another kind of picture.
    """
    for image in images:
        if image.mode != "RGB":
            raise ValueError(f"a picture of mode {image.mode}, where RGB ones are taken: image.convert('RGB')")
    images = [enlarge_small(image) for image in images]
    bucket = bucket or official_bucket(max(map(patch_estimate, images)))
    patches = np.zeros((len(images), bucket, PATCH * PATCH * 3), dtype=np.uint8)
    grids = np.array([grid_for(*image.size, bucket) for image in images], dtype=np.int64)
    for row, (image, (rows, columns)) in enumerate(zip(images, grids.tolist(), strict=True)):
        to_patches(image, rows, columns, patches[row, : rows * columns])
    return patches, grids
