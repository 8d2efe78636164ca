"""Measure how big and how elongated a picture is; refuse the tiny, the huge and the ribbons where a recipe sets limits.

Reads    width, height    int32, pixels after EXIF rotation
Writes   aspect           float32, longer side / shorter side, >= 1; null where a side is unknown or not positive
         megapixels       float32, width * height / 10**6; null likewise
Refuses  "unknown_size"   a limit is set and a side is missing or not positive
         "too_small"      shorter side below `min_side`, or area below `min_megapixels`
         "too_large"      area above `max_megapixels`
         "ribbon"         aspect above `max_aspect`
Source   256 x 256 is LIT-CN's lower limit; aspect 3 is the usual cut of web-scale sets. No limit is set by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import Field

from operators.base import Operator, Outcome, keep, schema


class Size(Operator):
    min_side: int | None = Field(None, ge=1)
    min_megapixels: float | None = Field(None, gt=0)
    max_megapixels: float | None = Field(None, gt=0)
    max_aspect: float | None = Field(None, ge=1)

    version: ClassVar[int] = 1
    reasons: ClassVar[dict[str, str]] = {
        "unknown_size": "a limit is set and the picture's size is not known",
        "too_small": "a side or the area is below the limit",
        "too_large": "the area is above the limit",
        "ribbon": "too elongated",
    }

    @property
    def reads(self) -> pa.Schema:
        return schema(width=pa.int32(), height=pa.int32())

    @property
    def writes(self) -> pa.Schema:
        return schema(aspect=pa.float32(), megapixels=pa.float32())

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        width = batch["width"].cast(pa.int64()).fill_null(0).to_numpy()
        height = batch["height"].cast(pa.int64()).fill_null(0).to_numpy()
        known = (width > 0) & (height > 0)
        short, long = np.where(known, np.minimum(width, height), 1), np.maximum(width, height)
        aspect, megapixels = long / short, width * height / 1e6
        limited = any(limit is not None for limit in (self.min_side, self.min_megapixels, self.max_megapixels, self.max_aspect))
        small = known & ((short < (self.min_side or 0)) | (megapixels < (self.min_megapixels or 0)))
        large = known & (megapixels > (self.max_megapixels or np.inf))
        ribbon = known & (aspect > (self.max_aspect or np.inf))
        columns = {
            "aspect": pa.array(aspect, pa.float32(), mask=~known),
            "megapixels": pa.array(megapixels, pa.float32(), mask=~known),
        }
        smallest = " and ".join(
            text
            for text, limit in ((f"{self.min_side} px", self.min_side), (f"{self.min_megapixels} MP", self.min_megapixels))
            if limit is not None
        )
        return keep(
            batch,
            columns,
            unless={
                "unknown_size": (~known & limited, lambda i: f"width {batch['width'][i]}, height {batch['height'][i]}"),
                "too_small": (small, lambda i: f"{width[i]}x{height[i]} < {smallest}"),
                "too_large": (large, lambda i: f"{megapixels[i]:.2f} MP > {self.max_megapixels} MP"),
                "ribbon": (ribbon, lambda i: f"aspect {aspect[i]:.2f} > {self.max_aspect}"),
            },
        )
