"""Find faces, so that a recipe can leave out pictures with many, or hide them when it packs.

Reads    the picture
Writes   faces       list of boxes (fractions of the upright picture), from the top left; empty where none was found
         face_area   float32, 0-1: share of the picture inside them, each place counted once
Refuses  "faces"     more than `max_faces`
         "face_area" face_area above `max_area`
Source   without `model`: the Haar cascades that come with OpenCV (Viola and Jones, 2001), frontal and both profiles. With it: a YuNet
         file of yours (Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023), run by OpenCV. Nothing is downloaded

The cascades miss faces that are small, turned, tilted or half covered, and now and then see one in a pattern; YuNet finds far more.
Neither is a promise that nobody can be recognised. Nothing is changed here: to hide what was found, `pack: {blur: faces}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import Field, model_validator

from operators.base import Operator, Outcome, keep, schema
from operators.columns import BOX
from operators.needs import Need, file_at
from operators.own_file import content_of, read_planned

SIDE = 1024
"""Pixels to which the longer side is reduced."""
LEAST = 24
"""Pixels, reduced, of the smallest face that a cascade knows."""
NEIGHBOURS = 6
"""Hits about a place that make a face of a cascade's: fewer would see more of them in patterns."""
CASCADES = (
    ("haarcascade_frontalface_default.xml", False),
    ("haarcascade_profileface.xml", False),
    ("haarcascade_profileface.xml", True),
)
"""Files, and whether the picture is mirrored for them: the profile's knows one side only."""
SAME = 0.3
"""Two boxes that overlap by more of their union than this are one face."""


@lru_cache(maxsize=4)
def _cascade(name: str) -> Any:
    import cv2

    return cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / name))


@lru_cache(maxsize=2)
def _yunet(file: str, content: str) -> Any:
    import cv2

    try:
        return cv2.FaceDetectorYN.create(
            "onnx", np.frombuffer(read_planned(file, content), np.uint8), np.zeros(0, np.uint8), (320, 320)
        )
    except cv2.error as error:
        raise ValueError(f"model: OpenCV cannot read {file}: {str(error).strip().splitlines()[-1][:200]}") from None


class Faces(Operator):
    model: str | None = Field(None, exclude=True)
    min_confidence: float = Field(0.7, gt=0, le=1, description="of a YuNet model's boxes")
    max_faces: int | None = Field(None, ge=0)
    max_area: float | None = Field(None, ge=0, le=1)
    content: str = Field("", description="filled in: SHA-256 of the model's file")

    version: ClassVar[int] = 1
    needs_image: ClassVar[bool] = True
    reasons: ClassVar[dict[str, str]] = {
        "faces": "more faces than the limit",
        "face_area": "faces take more of the picture than the limit",
    }

    @model_validator(mode="after")
    def _read(self) -> Self:
        if self.model is not None:
            object.__setattr__(self, "content", content_of("model", self.model))
        return self

    @property
    def reads(self) -> pa.Schema:
        return schema()

    @property
    def writes(self) -> pa.Schema:
        return schema(faces=pa.list_(BOX), face_area=pa.float32())

    def needs(self) -> list[Need]:
        return [] if self.model is None else [file_at("model", self.model)]

    def setup(self) -> None:
        import cv2

        cv2.setNumThreads(1)  # the machine's cores belong to the workers, not to one of them
        if self.model is not None:
            _yunet(self.model, self.content)

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        found = [self.find(image) for image in images or []]
        areas = [covered(boxes) for boxes in found]
        columns = {"faces": pa.array(found, pa.list_(BOX)), "face_area": pa.array(areas, pa.float32())}
        many = [self.max_faces is not None and len(boxes) > self.max_faces for boxes in found]
        large = [self.max_area is not None and area > self.max_area for area in areas]
        return keep(
            batch,
            columns,
            unless={
                "faces": (many, lambda i: f"{len(found[i])} > {self.max_faces}"),
                "face_area": (large, lambda i: f"{areas[i]:.3f} > {self.max_area}"),
            },
        )

    def find(self, image: Image.Image) -> list[list[float]]:
        """Boxes of the faces in an upright RGB picture, as fractions of it."""
        small = image.copy()
        small.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=None)
        if min(small.size) < LEAST:
            return []
        pixels = self._by_model(small) if self.model is not None else _by_cascades(small)
        x, y, width, height = np.asarray(pixels, np.float64).reshape(-1, 4).T
        edges = np.stack([x / small.width, y / small.height, (x + width) / small.width, (y + height) / small.height], axis=1)
        boxes = np.clip(edges, 0, 1).astype(np.float32)
        boxes = boxes[(boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])]
        return sorted(boxes.tolist(), key=lambda box: (box[1], box[0], box[3], box[2]))

    def _by_model(self, image: Image.Image) -> list[Sequence[float]]:
        assert self.model is not None
        net = _yunet(self.model, self.content)
        net.setInputSize(image.size)
        net.setScoreThreshold(self.min_confidence)
        _, found = net.detect(np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1]))
        return [] if found is None else [row[:4] for row in found if np.isfinite(row[:4]).all()]


def _by_cascades(image: Image.Image) -> list[Sequence[float]]:
    """x, y, width, height in pixels of what the cascades see; of boxes on one face the first."""
    import cv2

    grey = cv2.equalizeHist(np.asarray(image.convert("L"), np.uint8))
    found: list[Sequence[float]] = []
    for name, mirrored in CASCADES:
        looked_at = np.ascontiguousarray(grey[:, ::-1]) if mirrored else grey
        hits = _cascade(name).detectMultiScale(looked_at, scaleFactor=1.1, minNeighbors=NEIGHBOURS, minSize=(LEAST, LEAST))
        for x, y, width, height in hits:
            box = (float(grey.shape[1] - x - width if mirrored else x), float(y), float(width), float(height))
            if all(_overlap(box, other) <= SAME for other in found):
                found.append(box)
    return found


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of x, y, width, height."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    common = max(0.0, width) * max(0.0, height)
    return common / (one[2] * one[3] + other[2] * other[3] - common)


def covered(boxes: Sequence[Sequence[float]]) -> float:
    """Share of the picture inside at least one of the boxes, on a grid of a thousandth."""
    grid = np.zeros((1000, 1000), bool)
    for x1, y1, x2, y2 in np.round(np.asarray(boxes, np.float64).reshape(-1, 4) * 1000).astype(int):
        grid[y1:y2, x1:x2] = True
    return float(grid.mean()) if len(boxes) else 0.0
