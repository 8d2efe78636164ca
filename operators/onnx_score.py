"""Score pictures with a classifier of yours, an ONNX file: NSFW, watermarks, aesthetics, whatever it was trained for.

Reads    the picture
Writes   `column`      float32, the model's output `output` after `activation`; null where it is not a finite number
Refuses  "score_high"  above `max_score`
         "score_low"   below `min_score`
Source   the user's model: nothing is downloaded. Run by OpenCV's DNN module on the CPU, one picture at a time, so that a picture's
         score does not depend on its neighbours

The picture is squeezed to `size` (width = height); each channel becomes (value · scale − mean) / std, value 0-255. Yahoo's open NSFW
model, for one: `layout: nhwc, channels: bgr, scale: 1, mean: [104, 117, 123], std: [1, 1, 1], output: 1`. The file's content, not its
place, is part of what the stage was made from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import Field, model_validator

from operators.base import Operator, Outcome, keep
from operators.needs import Need, file_at
from operators.own_file import content_of, read_planned

Triple = tuple[float, float, float]


@lru_cache(maxsize=4)
def _net(file: str, content: str) -> Any:
    import cv2

    cv2.setNumThreads(1)  # the machine's cores belong to the workers, not to one of them
    try:
        return cv2.dnn.readNetFromONNX(np.frombuffer(read_planned(file, content), np.uint8))
    except cv2.error as error:
        raise ValueError(f"model: OpenCV cannot read {file}: {str(error).strip().splitlines()[-1][:200]}") from None


class OnnxScore(Operator):
    model: str = Field(exclude=True)
    column: str = Field("onnx_score", pattern=r"^[a-z][a-z0-9_]*$")
    size: int = Field(224, ge=8, le=2048)
    layout: Literal["nchw", "nhwc"] = "nchw"
    channels: Literal["rgb", "bgr"] = "rgb"
    scale: float = Field(1 / 255, gt=0)
    mean: Triple = (0.485, 0.456, 0.406)
    std: Triple = (0.229, 0.224, 0.225)
    output: int = Field(0, ge=0)
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    min_score: float | None = None
    max_score: float | None = None
    content: str = Field("", description="filled in: SHA-256 of the model's file")

    version: ClassVar[int] = 1
    needs_image: ClassVar[bool] = True
    reasons: ClassVar[dict[str, str]] = {
        "score_high": "the score is above the limit",
        "score_low": "the score is below the limit",
    }

    @model_validator(mode="after")
    def _read(self) -> Self:
        if min(self.std) <= 0:
            raise ValueError("std: must be above zero")
        object.__setattr__(self, "content", content_of("model", self.model))
        return self

    @property
    def reads(self) -> pa.Schema:
        return pa.schema([])

    @property
    def writes(self) -> pa.Schema:
        return pa.schema([(self.column, pa.float32())])

    def needs(self) -> list[Need]:
        return [file_at("model", self.model)]

    def setup(self) -> None:
        _net(self.model, self.content)

    def score(self, image: Image.Image) -> float | None:
        pixels: Any = np.asarray(image.convert("RGB").resize((self.size, self.size), Image.Resampling.BICUBIC), np.float32)
        if self.channels == "bgr":
            pixels = pixels[..., ::-1]
        pixels = (pixels * self.scale - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        net = _net(self.model, self.content)
        net.setInput(np.ascontiguousarray((pixels.transpose(2, 0, 1) if self.layout == "nchw" else pixels)[None], np.float32))
        values = np.asarray(net.forward(), np.float64).ravel()
        if self.output >= len(values):
            raise ValueError(f"output: the model gives {len(values)} numbers, there is no number {self.output}")
        if self.activation == "softmax":
            values = np.exp(values - values.max())
            values /= values.sum()
        value = float(values[self.output])
        if self.activation == "sigmoid":
            value = 1 / (1 + math.exp(-max(-700.0, min(700.0, value))))
        return value if math.isfinite(value) else None

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        scores = [self.score(image) for image in images or []]
        high = [s is not None and self.max_score is not None and s > self.max_score for s in scores]
        low = [s is not None and self.min_score is not None and s < self.min_score for s in scores]
        return keep(
            batch,
            {self.column: pa.array(scores, pa.float32())},
            unless={
                "score_high": (high, lambda i: f"{self.column} {scores[i]:.4f} > {self.max_score}"),
                "score_low": (low, lambda i: f"{self.column} {scores[i]:.4f} < {self.min_score}"),
            },
        )
